"""Matchers to compare, one file each, behind one small protocol.

Convention: a peer takes and gives pixels whose centres are integers, x before y. Where its library counts centres from
0.5 (LoFTR and its kin, RoMa, DeDoDe), the adapter takes the half pixel off.

"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.conventions import LUMINANCE
from kornia_tar.geometry import PointMatches

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Matches(PointMatches):
    """Point matches of one pair; what their confidence means is the matcher's own.

    Args:
        accepted: whether the matcher itself trusts this answer; None of a matcher that does not say.
    """

    accepted: bool | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls, points0: torch.Tensor, points1: torch.Tensor, confidence: torch.Tensor, std: torch.Tensor | None = None
    ) -> Matches:
        """Build from tensors of any float type and device."""
        parts = (points0, points1, confidence.reshape(-1), *(() if std is None else (std,)))
        return cls(*(part.detach().float().cpu().numpy() for part in parts))

    def on_images(self, image0: Image, image1: Image) -> Matches:
        """Keep the matches whose two ends lie on their images; those in padding, or on its edge, do not."""
        return self.inside(image0.shape, image1.shape, border=False)


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
        the level's estimator fits, "affine" or "homography".
        """
        ...


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
        tensor = torch.tensor(LUMINANCE).view(3, 1, 1).mul(tensor).sum(0, keepdim=True)
    elif channels == 3:
        tensor = tensor.expand(3, -1, -1)
    return tensor[None]
