"""Networks whose speed is compared: each takes a batch of pairs as tensors and gives whatever it gives.

The adapters in ``eval.peers`` match one pair of arrays on the CPU, which is what accuracy needs. Here a network gets
tensors where it runs, as many pairs at once as its library takes; where it takes one pair, they go one after the other.
Its weights are the published ones where they are to be had, else random, which the row says. Of random weights LoFTR
and its kin find next to no match, so their fine stages are idle: the comparison is in their favour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from eval.peers.base import count
from eval.peers.store import MatcherUnavailable, Store, need, read_weights

Call = Callable[[Tensor, Tensor], object]
Mode = Literal["eager", "fused", "compiled"]
Precision = Literal["float32", "bfloat16", "float16"]
MODES: tuple[Mode, ...] = get_args(Mode)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Contender:
    """A network that is ready to run.

    Args:
        name: as the table calls it.
        about: what it depends on, in words.
        parameters: number of learned numbers.
        call: two (B, 1, H, W) tensors of floats in [0, 1] on the network's device → anything.
    """

    name: str
    about: str
    parameters: int
    call: Call


def contender(
    key: str, store: Store, device: torch.device, mode: Mode = "eager", precision: Precision = "float32"
) -> Contender:
    """Make a network ready.

    Args:
        key: one of ``CONTENDERS``.
        store: peers' weights.
        device: where it runs.
        mode: "fused" folds TAR's blocks, which others do not have; "compiled" is ``torch.compile``, of TAR fused.
        precision: of what autocast turns to it.

    Raises:
        MatcherUnavailable: it does not run here, or not in this mode.
    """
    name, build = CONTENDERS[key]
    try:
        net, call, about = build(store, device)
    except ImportError as error:
        raise MatcherUnavailable(str(error)) from error
    fuse = getattr(net, "fuse", None)
    if mode == "fused" and fuse is None:
        raise MatcherUnavailable("has no blocks to fuse")
    if mode != "eager" and fuse is not None:
        fuse()
    if mode == "compiled":
        if key not in COMPILED:
            raise MatcherUnavailable("its network is called in parts, which torch.compile does not reach from outside")
        net.compile(dynamic=False)
    ready = call if precision == "float32" else _autocast(call, device, getattr(torch, precision))
    return Contender(name, about, count(net), ready)


def _autocast(call: Call, device: torch.device, dtype: torch.dtype) -> Call:
    def inner(image0: Tensor, image1: Tensor) -> object:
        with torch.autocast(device.type, dtype):
            return call(image0, image1)

    return inner


_Built = tuple[nn.Module, Call, str]


def _tar(store: Store, device: torch.device) -> _Built:
    from kornia_tar import TARMatcher

    return _ours(TARMatcher(_weights(store)), device)


def _one_look(store: Store, device: torch.device) -> _Built:
    from kornia_tar import TARMatcher

    return _ours(TARMatcher(_weights(store), looks=1, turns=1, scales=1), device)


def _weights(store: Store) -> str:
    return "optical-sar" if store.checkpoint is None else str(store.checkpoint)


def _ours(net: Any, device: torch.device) -> _Built:
    net = net.to(device)
    told = {"modality0": "optical", "modality1": "sar"}
    about = f"looks {net.looks}, turns {net.turns}, scales {net.scales}"
    return net, lambda image0, image1: net({"image0": image0, "image1": image1, **told}), about


def _loftr(store: Store, device: torch.device) -> _Built:
    from eval.peers.learned.loftr import LoFTR

    net, about = _trained(store, lambda own: LoFTR(own).net)
    net = net.to(device).eval()
    return net, lambda image0, image1: net({"image0": image0, "image1": image1}), about


def _eloftr(store: Store, device: torch.device) -> _Built:
    from eval.peers.learned.eloftr import EfficientLoFTR

    net, about = _trained(store, lambda own: EfficientLoFTR(own).net)
    net = net.to(device).eval()
    return net, lambda *images: net(torch.stack(images, 1).expand(-1, -1, 3, -1, -1)), about


def _roma(store: Store, device: torch.device) -> _Built:
    try:
        from romatch import roma_outdoor
    except ImportError as error:
        from eval.peers.learned.roma import INSTALL

        raise need("romatch", INSTALL) from error
    from eval.peers.learned import roma

    weights = read_weights(store.file("roma/roma_outdoor.pth", roma.URL))
    dino = read_weights(store.file("roma/dinov2_vitl14_pretrain.pth", roma.DINO_URL))
    net = roma_outdoor(device, weights=weights, dinov2_weights=dino, use_custom_corr=False).eval()

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        pictures = zip(image0.expand(-1, 3, -1, -1), image1.expand(-1, 3, -1, -1), strict=True)
        return [net.sample(*net.match(*pair, device=device), num=roma.SAMPLES) for pair in pictures]

    return net, call, f"its own sizes (560, then 864), {store.settings}"


def _xfeat(store: Store, device: torch.device) -> _Built:
    from kornia.feature import match_mnn

    from eval.peers.learned import xfeat

    net, about = _trained(store, xfeat.build)
    net = net.to(device)

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        found = zip(net.detectAndCompute(image0), net.detectAndCompute(image1), strict=True)
        return [match_mnn(one["descriptors"], other["descriptors"]) for one, other in found]

    return net, call, f"{xfeat.FEATURES} features, mutual, {about}"


def _aliked(store: Store, device: torch.device) -> _Built:
    from kornia.feature import match_mnn

    from eval.peers.learned import aliked

    net, about = _trained(store, aliked.build)
    net = net.to(device)

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        found = zip(net(image0.expand(-1, 3, -1, -1)), net(image1.expand(-1, 3, -1, -1)), strict=True)
        return [match_mnn(one.descriptors, other.descriptors) for one, other in found]

    return net, call, f"{aliked.FEATURES} features, mutual, {about}"


def _trained(store: Store, build: Callable[[Store], Any]) -> tuple[Any, str]:
    """Build a network with its published weights, or with random ones where they are not to be had."""
    try:
        return build(store), store.settings
    except MatcherUnavailable as error:
        if not str(error).startswith("no weights"):
            raise
        return build(Store(store.folder, untrained=True)), "random weights"


#: By the name on the command line: the name in the table, and what makes it ready.
CONTENDERS: dict[str, tuple[str, Callable[[Store, torch.device], _Built]]] = {
    "tar": ("TAR", _tar),
    "tar_one_look": ("TAR, one look, upright", _one_look),
    "loftr": ("LoFTR", _loftr),
    "eloftr": ("EfficientLoFTR", _eloftr),
    "roma": ("RoMa", _roma),
    "xfeat": ("XFeat", _xfeat),
    "aliked": ("ALIKED-n16", _aliked),
}
COMPILED = ("tar", "tar_one_look", "loftr", "eloftr")  # whose ``forward`` is all of it
