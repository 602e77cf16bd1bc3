"""MSFL: multi-scale visual feature learning.

From the paper (abstract): a network that learns visual features of optical and SAR images at several scales; the
coarse ones carry semantics for robust matching, the fine ones carry detail for accurate matching.
Ours: a stem and first stage for each modality, all later stages shared (partially unshared encoders are the tradition
of the paper's group, SDNet 2022); RepVGG-style blocks that fuse into plain convolutions; a 1/16 context stage; a top-
down path so that fine features know what the coarse ones saw; the modality is told or inferred, never assumed by
position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import MODALITIES
from kornia_tar.network.layers import Down, Padding, RepConv, run_plain, run_with_edges


@dataclass(frozen=True)
class MSFLConfig:
    """Widths and depths of MSFL at 1/2, 1/4, 1/8 and 1/16."""

    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    blocks: tuple[int, int, int, int] = (1, 2, 3, 3)
    padding: Padding = "zeros"  # beyond the border; with "replicate" features do not tell where it is


class Features(NamedTuple):
    """What MSFL returns."""

    coarse: Tensor  # (B, C8, H/8, W/8)
    middle: Tensor  # (B, C4, H/4, W/4)
    fine: Tensor  # (B, C2, H/2, W/2)


def stage(c_in: int, c_out: int, blocks: int, padding: Padding) -> nn.Sequential:
    """Halve the resolution, then ``blocks`` RepVGG-style blocks."""
    return nn.Sequential(Down(c_in, c_out, padding), *(RepConv(c_out, padding) for _ in range(blocks)))


class ModalityClassifier(nn.Module):
    """Tell optical from SAR by texture: three convolutions and the mean of what they respond to."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.texture = nn.Sequential(Down(1, width), Down(width, 2 * width), Down(2 * width, 4 * width))
        self.score = nn.Linear(4 * width, len(MODALITIES))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) normalised image → (B, 2) logits over :data:`MODALITIES`."""
        return self.score(self.texture(image).mean(dim=(2, 3)))


Runner = Callable[[Iterable[nn.Module], Tensor], Tensor]  # how layers are run on an input


class MSFL(nn.Module):
    """Image to features at three scales.

    Args:
        config: widths and depths.
    """

    def __init__(self, config: MSFLConfig = MSFLConfig()) -> None:
        super().__init__()
        self.config = config
        c2, c4, c8, c16 = config.widths
        b2, b4, b8, b16 = config.blocks
        padding = config.padding
        self.modality = ModalityClassifier()
        self.stems = nn.ModuleDict({name: stage(1, c2, b2, padding) for name in MODALITIES})
        self.stage4 = stage(c2, c4, b4, padding)
        self.stage8 = stage(c4, c8, b8, padding)
        self.stage16 = stage(c8, c16, b16, padding)
        self.top8, self.merge8 = nn.Conv2d(c16, c8, 1), RepConv(c8, padding)
        self.top4, self.merge4 = nn.Conv2d(c8, c4, 1), RepConv(c4, padding)
        self.top2, self.merge2 = nn.Conv2d(c4, c2, 1), RepConv(c2, padding)

    def infer_modality(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) normalised image → (B, 2) probabilities over :data:`MODALITIES`."""
        return self.modality(image).float().softmax(dim=-1)

    def stem(self, image: Tensor, modality: Tensor, run: Runner = run_plain) -> Tensor:
        """Mix the modalities' first stages by ``modality``; a weight of zero costs nothing.

        Args:
            image: (B, 1, H, W).
            modality: (B, 2) weights that sum to one: one-hot where the modality is told, soft where it is inferred.
            run: how layers are run.

        Returns:
            (B, C2, H/2, W/2).
        """
        mixed: Tensor | None = None
        stems = cast(Iterable[nn.Sequential], self.stems.values())
        if torch.compiler.is_exporting():  # a graph of fixed shapes cannot leave out what has no weight
            parts = torch.stack([run(first_stage, image) for first_stage in stems], 1)
            return (parts * modality[:, :, None, None, None].to(parts.dtype)).sum(1)
        for k, (first_stage, rows) in enumerate(zip(stems, rows_in_use(modality), strict=True)):
            if len(rows) == len(image):
                part = run(first_stage, image) * modality[:, k, None, None, None].to(image.dtype)
                mixed = part if mixed is None else mixed + part
            elif len(rows):
                part = run(first_stage, image[rows])
                part = part * modality[rows, k, None, None, None].to(part.dtype)
                if mixed is None:
                    mixed = part.new_zeros(len(image), *part.shape[1:])
                mixed = mixed.index_add(0, rows, part)
        assert mixed is not None, "modality weights must not be all zero"
        return mixed

    def forward(self, image: Tensor, modality: Tensor) -> Features:
        """Compute the three feature maps.

        Args:
            image: (B, 1, H, W), zero mean and unit variance per image; H and W multiples of 16.
            modality: (B, 2) weights over :data:`MODALITIES`.

        Returns:
            :class:`Features`.
        """
        x2, x4, coarse = self._climb(image, modality)
        middle = self.merge4(x4 + upsample(self.top4(coarse)))
        fine = self.merge2(x2 + upsample(self.top2(middle)))
        return Features(coarse, middle, fine)

    def ground(self, image: Tensor, modality: Tensor) -> Tensor:
        """Compute coarse features that do not tell where the border is, in half the time; args as in :meth:`forward`.

        The matching was not trained with them.
        """
        return self._climb(image, modality, run_with_edges)[2]

    def _climb(self, image: Tensor, modality: Tensor, run: Runner = run_plain) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/2 and 1/4 on the way up, and the coarse ones at 1/8."""
        x2 = self.stem(image, modality, run)
        x4 = run(self.stage4, x2)
        x8 = run(self.stage8, x4)
        context = upsample(self.top8(run(self.stage16, x8)))
        return x2, x4, run([self.merge8], x8 + context)


def rows_in_use(modality: Tensor) -> list[Tensor]:
    """List, of each of K first stages, the rows of its weights (B, K) that are not zero.

    The host must know them, and asks the device once for all. A compiled step asks for each: it would be compiled anew
    for every pattern of numbers that the host reads.
    """
    if torch.compiler.is_compiling():
        return [weights.nonzero().flatten() for weights in modality.unbind(1)]
    used = [[row for row, weight in enumerate(weights) if weight != 0] for weights in modality.T.tolist()]
    return [
        torch.tensor(rows, device=modality.device) if 0 < len(rows) < len(modality) else torch.arange(len(rows))
        for rows in used
    ]


def upsample(x: Tensor) -> Tensor:
    """Double the resolution; centres stay centred."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def standardise(image: Tensor, mask: Tensor | None = None, clip: float = 4.0) -> Tensor:
    """Zero mean and unit variance per image over its valid pixels; nodata becomes zero.

    Args:
        image: (B, 1, H, W) in any range.
        mask: (B, 1, H, W), 1 = valid, or None when every pixel is.
        clip: bright radar targets are cut at so many standard deviations.

    Returns:
        (B, 1, H, W), the image's dtype.
    """
    x = image.float()
    weight = torch.ones_like(x) if mask is None else mask.float()
    count = weight.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (x * weight).sum(dim=(2, 3), keepdim=True) / count
    x = (x - mean) * weight
    std = (x.square().sum(dim=(2, 3), keepdim=True) / count).sqrt()
    return (x / std.clamp_min(1e-4)).clamp(-clip, clip).to(image.dtype)
