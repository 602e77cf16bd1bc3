"""How often one forward makes the host wait for a GPU: counted on the CPU, by the operations that would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from helpers import needs_weights, pair, small_matcher
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kornia_tar import TARMatcher
from kornia_tar.network.net import with_second_look
from kornia_tar.raster.synthetic import draw_scene

aten = torch.ops.aten
READS = {  # whose result, or its size, the host must have before it goes on
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal, aten.is_nonzero,
    aten._unique2, aten.unique_dim, aten.unique_consecutive,
}  # fmt: skip
COPIES = {  # numbers of Python's that become a tensor of the host's, to be copied: each copy waits, too
    aten.lift_fresh, aten.scalar_tensor,
}  # fmt: skip
TAKEN = {Tensor.tolist, Tensor.numpy, Tensor.cpu}  # which the dispatcher does not see on a CPU


class _Dispatched(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        masks = packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if masks or packet in READS or packet in COPIES:
            self._counts[str(packet)] += 1
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TAKEN:
            self._counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def count_waits(call: Callable[[], object]) -> Counter[str]:
    """Count the operations of a call that would make the host wait, by name."""
    counts: Counter[str] = Counter()
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_Dispatched(counts))
        stack.enter_context(_Called(counts))
        call()
    return counts


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: x[x > 0], "aten.index"),
        (lambda x: x[[0, 1]], "aten.lift_fresh"),
        (lambda x: x.new_tensor([1.0]), "aten.lift_fresh"),
        (lambda x: torch.where(x > 0, x, 0.0), "aten.scalar_tensor"),
        (lambda x: bool(x.any()), "aten._local_scalar_dense"),
        (lambda x: x.tolist(), "tolist"),
    ],
)
def test_waits_are_counted(wait, name):
    x = torch.ones(3)
    assert count_waits(lambda: wait(x))[name] == 1


@pytest.mark.parametrize(("size", "most"), [(1, 26), (3, 32)])  # 24, 29; 256 where every list was taken apart
def test_a_small_network_seldom_makes_the_host_wait(size, most):
    matcher = small_matcher()
    matcher.net, matcher.looks = with_second_look(matcher.net), 2
    data = pair(batch=size)
    waits = count_waits(lambda: matcher(data))
    assert waits.total() <= most, waits


@pytest.fixture(scope="module")
def shipped() -> TARMatcher:
    return TARMatcher().fuse()


@needs_weights
@pytest.mark.parametrize(("lost", "most"), [(False, 14), (True, 70)])  # 14, 66; once 238 and 420
def test_shipped_weights_seldom_make_the_host_wait(shipped, lost, most):
    scene = draw_scene(0, 128)
    optical = torch.from_numpy(scene.optical).float().mean(-1)[None, None] / 255
    sar = torch.from_numpy(scene.sar).float()[None, None] / 255
    waits = count_waits(lambda: shipped({"image0": optical, "image1": sar.flip(3) if lost else sar}))
    assert waits.total() <= most, waits
