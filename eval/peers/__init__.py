"""Matchers to compare, one file each, behind one small protocol."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

Image = NDArray[np.uint8]

# Each is a module of this package with a function ``create(weights: Path, checkpoint: Path | None) -> Matcher``.
NAMES = ("identity", "sift", "aliked", "xfeat", "loftr", "tar", "tar_registrar")


class NotRun(Exception):
    """A matcher that cannot be run here; the message is the reason that the report prints."""


@dataclass(frozen=True)
class Matches:
    """Point matches of one pair, in pixels with centres at integers.

    Args:
        points0: (N, 2) x, y in image0.
        points1: (N, 2) x, y in image1.
        confidence: (N,), higher is better; what it means is the matcher's own.
    """

    points0: NDArray[np.float32]
    points1: NDArray[np.float32]
    confidence: NDArray[np.float32]

    @classmethod
    def of(cls, points0: torch.Tensor, points1: torch.Tensor, confidence: torch.Tensor) -> Matches:
        """Build from tensors of any float type and device."""
        return cls(*(part.detach().float().cpu().numpy() for part in (points0, points1, confidence.reshape(-1))))


class Matcher(Protocol):
    """What a peer offers.

    Attributes:
        name: how the table calls it.
        parameters: number of learned numbers, 0 for a hand-crafted one.
        settings: all that its matches depend on beside the images, in words and hashes; cached matches are used again
            only where it is the same.
    """

    name: str
    parameters: int
    settings: str

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match two uint8 images (H, W) or (H, W, 3).

        Hints, each optional: ``modality0`` and ``modality1``, "optical" or "sar".
        """
        ...


def create(name: str, weights: Path, checkpoint: Path | None = None) -> Matcher:
    """Build a matcher by its name.

    Args:
        name: one of ``NAMES``.
        weights: folder of the peers' weights.
        checkpoint: TAR's checkpoint; None for the one that kornia_tar ships.

    Raises:
        NotRun: when it cannot be run here, with the reason.
        ValueError: when there is no such matcher.
    """
    if name not in NAMES:
        raise ValueError(f"matcher {name!r} is unknown: choose from {', '.join(NAMES)}")
    return cast(Matcher, import_module(f"eval.peers.{name}").create(weights, checkpoint))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a peer's state dict, or raise NotRun where its file is not there."""
    if not path.is_file():
        raise NotRun(f"no weights ({path.parent.name}/{path.name} is not in the weights folder)")
    stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    return cast(dict[str, torch.Tensor], stored.get("state_dict", stored))


def load_strictly(module: torch.nn.Module, state: dict[str, torch.Tensor], unused: str | None = None) -> None:
    """Load a state dict that may lack buffers and the submodule named ``unused``, but no weight that is in use."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    used = {name for name, _ in module.named_parameters() if name.split(".")[0] != unused}
    random = set(missing) & used
    if random or unexpected:
        odd = sorted(random) + list(unexpected)
        raise NotRun(f"weights do not fit this kornia ({len(odd)} odd names, first {odd[0]})")
    module.eval()


def count(module: torch.nn.Module) -> int:
    """Count a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def digest(*files: Path) -> str:
    """Hash files, so that matches cached from other ones are not taken for theirs."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def to_tensor(image: Image, grey: bool = False) -> torch.Tensor:
    """Turn (H, W) or (H, W, 3) uint8 into (1, C, H, W) float in [0, 1]; C is 1 where ``grey``."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).float() / 255
    tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if grey and len(tensor) == 3:
        tensor = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1).mul(tensor).sum(0, keepdim=True)
    return tensor[None]
