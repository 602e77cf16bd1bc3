"""Networks whose speed is compared: each takes a batch of pairs as tensors, where it runs.

The adapters in ``eval.peers`` match one pair of arrays on the CPU, which is what accuracy needs. Here a network gets as
many pairs at once as its library takes; where that takes one pair, they go one after the other. Its weights are the
published ones where they are to be had, else random, which the table says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

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
        key: on the command line.
        name: in the table.
        mode: how it runs.
        about: what it depends on, in words.
        parameters: number of learned numbers.
        weight: of its parameters and buffers, MiB.
        call: two (B, 1, H, W) tensors of floats in [0, 1] on the network's device → its library's answer.
    """

    key: str
    name: str
    mode: Mode
    about: str
    parameters: int
    weight: float
    call: Call


class Built(NamedTuple):
    """What a network's own function makes: all its parts, how it is called, what it depends on."""

    parts: Sequence[nn.Module]
    call: Call
    about: str


class Kind(NamedTuple):
    """A network: its name, what makes it, and the modes that it has; without "fused" its library offers none."""

    name: str
    build: Callable[[Store, torch.device], Built]
    modes: tuple[Mode, ...]


def build_contender(
    key: str, store: Store, device: torch.device, mode: Mode = "eager", precision: Precision = "float32"
) -> Contender:
    """Make a network ready.

    Args:
        key: one of ``CONTENDERS``.
        store: peers' weights.
        device: where it runs.
        mode: "fused" folds TAR's blocks, which others do not offer; "compiled" is ``torch.compile``, of TAR fused.
        precision: of what autocast turns to it.

    Raises:
        MatcherUnavailable: it does not run here, or not in this mode.
    """
    kind = CONTENDERS[key]
    if mode not in kind.modes:
        raise MatcherUnavailable(f"has no mode {mode}, only {', '.join(kind.modes)}")
    try:
        built = kind.build(store, device)
    except ImportError as error:
        raise MatcherUnavailable(str(error)) from error
    net = built.parts[0]
    if mode != "eager" and "fused" in kind.modes:
        net.fuse()  # type: ignore[operator]
    if mode == "compiled":
        net.compile(dynamic=False)
    call = built.call if precision == "float32" else _autocast(built.call, device, getattr(torch, precision))
    tensors = [t for part in built.parts for t in (*part.parameters(), *part.buffers())]
    weight = sum(t.numel() * t.element_size() for t in tensors) / 2**20
    return Contender(key, kind.name, mode, built.about, count(*built.parts), weight, call)


def _autocast(call: Call, device: torch.device, dtype: torch.dtype) -> Call:
    def inner(image0: Tensor, image1: Tensor) -> object:
        with torch.autocast(device.type, dtype):
            return call(image0, image1)

    return inner


def _tar(store: Store, device: torch.device) -> Built:
    from kornia_tar import TARMatcher

    return _ours(TARMatcher(_weights(store)), device)


def _one_look(store: Store, device: torch.device) -> Built:
    from kornia_tar import TARMatcher

    return _ours(TARMatcher(_weights(store), looks=1, turns=1, scales=1), device)


def _lost(store: Store, device: torch.device) -> Built:
    from kornia_tar import TARMatcher

    built = _ours(TARMatcher(_weights(store)), device)
    return built._replace(call=lambda image0, image1: built.call(image0, image1.flip(3)))


def _registrar(store: Store, device: torch.device) -> Built:
    from kornia_tar import Registrar, TARMatcher

    net = TARMatcher(_weights(store)).to(device)

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        """Register all pairs side by side by a registrar that has seen nothing yet.

        The pairs of a batch are alike; a shade apart, so that none knows the images of another.
        """
        pairs = enumerate(zip(image0[:, 0].cpu().numpy(), image1[:, 0].cpu().numpy(), strict=True))
        shaded = ({"image0": (1 - k / 256) * one, "image1": (1 - k / 256) * other} for k, (one, other) in pairs)
        return list(Registrar(net).many(shaded, at_once=len(image0)))

    return Built([net], call, "eight rotations, three scales; the pairs of a batch side by side")


def _registrar_lost(store: Store, device: torch.device) -> Built:
    built = _registrar(store, device)
    return built._replace(call=lambda image0, image1: built.call(image0, image1.flip(3)))


def _weights(store: Store) -> str:
    return "optical-sar" if store.checkpoint is None else str(store.checkpoint)


def _ours(net: Any, device: torch.device) -> Built:
    net = net.to(device)
    told = {"modality0": "optical", "modality1": "sar"}
    about = f"looks {net.looks}, turns {net.turns}, scales {net.scales}"
    return Built([net], lambda image0, image1: net({"image0": image0, "image1": image1, **told}), about)


def _loftr(store: Store, device: torch.device) -> Built:
    from eval.peers.learned.loftr import LoFTR

    net, about = _trained(store, lambda own: LoFTR(own).net)
    net = net.to(device).eval()
    return Built([net], lambda image0, image1: net({"image0": image0, "image1": image1}), about)


def _eloftr(store: Store, device: torch.device) -> Built:
    from eval.peers.learned.eloftr import EfficientLoFTR

    net, about = _trained(store, lambda own: EfficientLoFTR(own).net)
    net = net.to(device).eval()
    about = f"at the images' size, RepVGG blocks unfused as transformers has them, {about}"
    return Built([net], lambda *images: net(torch.stack(images, 1).expand(-1, -1, 3, -1, -1)), about)


def _roma(store: Store, device: torch.device) -> Built:
    from eval.peers.learned import roma

    try:
        from romatch import roma_outdoor
    except ImportError as error:
        raise need("romatch", roma.INSTALL) from error
    from torchvision.transforms.functional import to_pil_image

    weights = read_weights(store.file("roma/roma_outdoor.pth", roma.URL))
    dino = read_weights(store.file("roma/dinov2_vitl14_pretrain.pth", roma.DINO_URL))
    net = roma_outdoor(device, weights=weights, dinov2_weights=dino, use_custom_corr=False).eval()

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        """Match one pair after the other; it takes pictures, and their making counts."""
        pictures = ([to_pil_image(one).convert("RGB") for one in images] for images in (image0, image1))
        return [net.sample(*net.match(*pair, device=device), num=roma.SAMPLES) for pair in zip(*pictures, strict=True)]

    about = f"its own sizes (560, then 864) and half precision, {store.settings}"
    return Built([net, *net.encoder.dinov2_vitl14], call, about)


def _xfeat(store: Store, device: torch.device) -> Built:
    from kornia.feature import match_mnn

    from eval.peers.learned import xfeat

    net, about = _trained(store, xfeat.build)
    net = net.to(device)

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        found = zip(net.detectAndCompute(image0), net.detectAndCompute(image1), strict=True)
        return [match_mnn(one["descriptors"], other["descriptors"]) for one, other in found]

    return Built([net], call, f"{xfeat.FEATURES} features, mutual, {about}")


def _aliked(store: Store, device: torch.device) -> Built:
    from kornia.feature import match_mnn

    from eval.peers.learned import aliked

    net, about = _trained(store, aliked.build)
    net = net.to(device)

    def call(image0: Tensor, image1: Tensor) -> list[object]:
        found = zip(net(image0.expand(-1, 3, -1, -1)), net(image1.expand(-1, 3, -1, -1)), strict=True)
        return [match_mnn(one.descriptors, other.descriptors) for one, other in found]

    return Built([net], call, f"{aliked.FEATURES} features, mutual, {about}")


def _trained(store: Store, build: Callable[[Store], Any]) -> tuple[Any, str]:
    """Build a network with its published weights, or with random ones where they are not to be had."""
    try:
        return build(store), store.settings
    except MatcherUnavailable as error:
        if not str(error).startswith("no weights"):
            raise
        return build(Store(store.folder, untrained=True)), "random weights"


#: By the name on the command line.
CONTENDERS = {
    "tar": Kind("TAR", _tar, MODES),
    "tar_lost": Kind("TAR, nothing to find", _lost, MODES),
    "tar_one_look": Kind("TAR, one look, upright", _one_look, MODES),
    "tar_registrar": Kind("TAR + Registrar", _registrar, ("eager", "fused")),
    "tar_registrar_lost": Kind("TAR + Registrar, refused", _registrar_lost, ("eager", "fused")),
    "loftr": Kind("LoFTR", _loftr, ("eager", "compiled")),
    "eloftr": Kind("EfficientLoFTR", _eloftr, ("eager", "compiled")),
    "roma": Kind("RoMa", _roma, ("eager",)),
    "xfeat": Kind("XFeat", _xfeat, ("eager",)),
    "aliked": Kind("ALIKED-n16", _aliked, ("eager",)),
}
