"""What a device could do at best, and what a network asks of it: the two sides of a roofline (Williams et al. 2009).

A network's traffic counts each operator's tensors as read and written once, as if none stayed in a cache: so fused or
compiled code may run beyond the roof that this traffic draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which torch has no formula for


@dataclass(frozen=True)
class Ceiling:
    """The best that was measured of a device: a large product of matrices, and a large copy.

    Args:
        gflops: 10^9 floating-point operations a second.
        gbytes: 10^9 bytes a second, read and written.
    """

    gflops: float
    gbytes: float


@dataclass(frozen=True)
class Work:
    """What one call asks for: 10^9 operations of products and convolutions, 10^9 bytes of all operators' tensors."""

    gflop: float
    gbyte: float


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Time a call, from the device at rest until it has done what it was told."""
    wait = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def measure_ceiling(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> Ceiling:
    """Measure a device's best rates for a type of number."""
    side, length = (1536, 1 << 25) if device.type == "cpu" else (8192, 1 << 28)
    a, b = torch.rand(2, side, side, device=device).to(dtype)
    source = torch.zeros(length, dtype=dtype, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(a, b), device, repeats)
    copy = _best(lambda: target.copy_(source), device, repeats)
    return Ceiling(2e-9 * side**3 / product, 2e-9 * length * source.element_size() / copy)


def _best(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    call()
    return min(seconds(call, device) for _ in range(repeats))


def count_flops(call: Callable[[], object]) -> int:
    """Count a call's floating-point operations: those of products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: _attention}) as counter:
        call()
    return int(counter.get_total_flops())


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def count_work(call: Callable[[], object]) -> Work:
    """Count what a call asks for; an eager one, for compiled code hides its operators.

    Not in inference mode, where copies such as ``contiguous()`` look like views.
    """
    traffic, flops = _Traffic(), count_flops(call)
    with torch.no_grad(), traffic:
        call()
    return Work(flops / 1e9, traffic.bytes / 1e9)


class _Traffic(TorchDispatchMode):
    """Adds up the sizes of all operators' tensors, views left out."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor))
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out
