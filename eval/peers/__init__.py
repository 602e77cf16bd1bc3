"""Matchers to compare, one file each, behind one small protocol.

Convention: a peer takes and gives pixels whose centres are integers, x before y. Where its library counts centres from
0.5 (LoFTR and its kin, RoMa, DeDoDe), the adapter takes the half pixel off.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eval.peers.store import NotRun, Store, digest, load_strictly, read_weights

__all__ = [
    "FAMILIES",
    "NAMES",
    "Image",
    "Matcher",
    "Matches",
    "NotRun",
    "Store",
    "check",
    "count",
    "create",
    "describe",
    "digest",
    "load_strictly",
    "read_weights",
    "to_tensor",
]

Image = NDArray[np.uint8]

# Each is a module of this package with a function ``create(store: Store) -> Matcher``.
PEERS = {
    "identity": "nothing moved: what any method must beat",
    "phase": "phase correlation of the edges, rotation and scale by log-polar spectra (OpenCV)",
    "sift": "RootSIFT, mutual nearest neighbours, ratio 0.9 (OpenCV)",
    "sift_magsac": "the same, kept to the inliers of MAGSAC++ (OpenCV)",
    "elastix": "mutual information, affine, from no movement (itk-elastix)",
    "arosics": "AROSICS, local and global shifts by phase correlation, from no movement (arosics, with GDAL)",
    "gefolki": "GeFolki, dense flow by local ranks, from no movement (gefolki, GPL-3.0)",
    "aliked": "ALIKED-n16, mutual nearest neighbours (kornia)",
    "aliked_lightglue": "ALIKED-n16 + LightGlue (kornia)",
    "xfeat": "XFeat, sparse, mutual nearest neighbours (kornia)",
    "xfeat_lighterglue": "XFeat, sparse + LighterGlue (kornia)",
    "disk": "DISK + LightGlue (kornia)",
    "dedode": "DeDoDe B + LightGlue (kornia)",
    "loftr": "LoFTR, outdoor (kornia)",
    "loftr_ours": "LoFTR's architecture trained from scratch on our data by train-loftr (kornia)",
    "eloftr": "EfficientLoFTR, outdoor (transformers)",
    "matchanything": "MatchAnything, EfficientLoFTR trained across modalities (transformers)",
    "roma": "RoMa, outdoor (romatch)",
    "romav2": "RoMa v2 (romav2)",
    "tar": "TAR, this repository's matcher",
    "tar_registrar": "TAR with its registrar",
}
# Modules with a function ``create(store: Store, variant: str) -> Matcher``, asked for as ``<family>:<variant>``.
FAMILIES = {"vismatch": "vismatch:<name>, one of the matchers that vismatch wraps, such as vismatch:xoftr"}
OWN = "<module>:<factory>, your own: a callable, as Python imports it, that takes a Store and returns a Matcher"
NAMES = tuple(PEERS)


@dataclass(frozen=True)
class Matches:
    """Point matches of one pair, in pixels with centres at integers.

    Args:
        points0: (N, 2) x, y in image0.
        points1: (N, 2) x, y in image1.
        confidence: (N,), higher is better; what it means is the matcher's own.
        std: (N,) stated one-sigma error per axis, px; None where it is not asked for.
    """

    points0: NDArray[np.float32]
    points1: NDArray[np.float32]
    confidence: NDArray[np.float32]
    std: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls, points0: torch.Tensor, points1: torch.Tensor, confidence: torch.Tensor, std: torch.Tensor | None = None
    ) -> Matches:
        """Build from tensors of any float type and device."""
        parts = (points0, points1, confidence.reshape(-1), *(() if std is None else (std,)))
        return cls(*(part.detach().float().cpu().numpy() for part in parts))

    def inside(self, image0: Image, image1: Image) -> Matches:
        """Keep the matches whose two ends lie on their images; those in padding do not."""
        kept = np.ones(len(self.points0), bool)
        for points, image in ((self.points0, image0), (self.points1, image1)):
            kept &= ((points > -0.5) & (points < np.array(image.shape[1::-1]) - 0.5)).all(axis=1)
        std = None if self.std is None else self.std[kept]
        return Matches(self.points0[kept], self.points1[kept], self.confidence[kept], std)


class Matcher(Protocol):
    """What a peer offers.

    Attributes:
        name: how the table calls it.
        parameters: number of learned numbers, 0 for a hand-crafted one.
        settings: all that its matches depend on beside the images, in words and hashes; cached matches are used again
            only where it is the same.

    A matcher whose points all follow one transform that it found also has ``one_transform = True``.
    """

    name: str
    parameters: int
    settings: str

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match two uint8 images (H, W) or (H, W, 3).

        Hints, each optional: ``modality0`` and ``modality1``, "optical" or "sar"; ``model``, the kind of transform that
        the rung's estimator fits, "affine" or "homography".
        """
        ...


def check(name: str) -> None:
    """Raise ValueError where a name is no matcher's; nothing is built.

    What follows ``vismatch:`` is looked up where vismatch is installed; the module of one's own matcher is imported.
    """
    key, colon, rest = name.partition(":")
    if key in FAMILIES and rest:
        import_module(f"eval.peers.{key}").check(rest)
    elif colon and rest and key and key not in PEERS and key not in FAMILIES:
        try:
            import_module("eval.peers.own").find(name)
        except ValueError as error:
            close = get_close_matches(key, FAMILIES, 1, 0.75)
            raise ValueError(f"{error}; or did you mean {close[0]}:{rest}?" if close else str(error)) from error
    elif key not in PEERS or colon:
        known = [*NAMES, *(f"{family}:<name>" for family in FAMILIES), "<module>:<factory>"]
        close = get_close_matches(key, [*NAMES, *FAMILIES], 1)
        meant = f", or did you mean {close[0]}" if close and close[0] != name else ""
        raise ValueError(f"matcher {name!r} is unknown: choose from {', '.join(known)}{meant}")


def create(
    name: str, weights: Path, checkpoint: Path | None = None, *, download: bool = False, untrained: bool = False
) -> Matcher:
    """Build a matcher by its name.

    Args:
        name: one of ``NAMES``, ``vismatch:<name>``, or ``<module>:<factory>`` of one's own.
        weights: folder of the peers' weights.
        checkpoint: TAR's checkpoint; None for the one that kornia_tar ships.
        download: fetch weights that are not there, from where their authors put them.
        untrained: random weights where a network would read some. For speed and memory alone: the matches mean
            nothing, and the matcher's name says so.

    Raises:
        NotRun: when it cannot be run here, with the reason.
        ValueError: when there is no such matcher.
        TypeError: when one's own factory returns no matcher.
    """
    check(name)
    store = Store(weights, checkpoint, download, untrained)
    key, colon, variant = name.partition(":")
    if key in FAMILIES:
        matcher = import_module(f"eval.peers.{key}").create(store, variant)
    elif colon:
        matcher = import_module("eval.peers.own").create(store, name)
    else:
        matcher = import_module(f"eval.peers.{key}").create(store)
    if store.random:
        matcher.name += " (random weights)"
    return cast(Matcher, matcher)


def describe() -> str:
    """List all matchers, one line each, for a command's help."""
    width = max(map(len, PEERS)) + 2
    return "\n".join(
        [*(f"  {key:{width}}{line}" for key, line in PEERS.items()), *(f"  {f}" for f in (*FAMILIES.values(), OWN))]
    )


def count(*modules: torch.nn.Module) -> int:
    """Count the parameters of modules."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def to_tensor(image: Image, channels: int | None = None) -> torch.Tensor:
    """Turn (H, W) or (H, W, 3) uint8 into (1, C, H, W) float in [0, 1].

    Args:
        image: the image.
        channels: 1 to weigh colours to grey, 3 to repeat grey; None for as many as the image has.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(image)).float() / 255
    tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if channels == 1 and len(tensor) == 3:
        tensor = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1).mul(tensor).sum(0, keepdim=True)
    elif channels == 3:
        tensor = tensor.expand(3, -1, -1)
    return tensor[None]
