"""What flows through the network: an image's features, the image with them, matches of a batch of pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kornia_tar.network.msfl import MSFL, standardise

Rows = slice | Tensor  # part of a batch
OTHERS = 0.2  # weight of cells that surely bear no preferred word, where some are preferred


class ImageFeatures(NamedTuple):
    """One image after MSFL and TAFE."""

    coarse: Tensor  # (B, C, h, w) at 1/8, text-enhanced
    fine: Tensor  # (B, C2, 4h, 4w) at 1/2
    landcover: Tensor  # (B, K, h, w) probabilities of the words where they were asked for, else TAFE's attention
    mask: Tensor | None  # (B, h, w) bool
    weight: Tensor | None = None  # (B, h, w) in [0, 1], how much a cell's vote counts; None: all alike

    def rows(self, part: Rows) -> ImageFeatures:
        """Part of the batch."""
        mask, weight = (None if t is None else t[part] for t in (self.mask, self.weight))
        return ImageFeatures(self.coarse[part], self.fine[part], self.landcover[part], mask, weight)

    def window(self, rows: slice, columns: slice) -> ImageFeatures:
        """Some of the cells, side by side; each still knows what was around it."""
        down, across = (slice(4 * cut.start, 4 * cut.stop) for cut in (rows, columns))
        mask, weight = (None if t is None else t[:, rows, columns] for t in (self.mask, self.weight))
        coarse, landcover = (t[:, :, rows, columns] for t in (self.coarse, self.landcover))
        return ImageFeatures(coarse, self.fine[:, :, down, across], landcover, mask, weight)


class Steering(NamedTuple):
    """Which words' cells do not count, and which count for more; see ``matching/steer.py``."""

    ignore: Tensor  # (K,) bool
    prefer: Tensor  # (K,) bool

    def applied(self, features: ImageFeatures) -> ImageFeatures:
        """Mask cells that more likely than not bear an ignored word; weigh the others by their words."""
        ignored = features.landcover[:, self.ignore].sum(1)
        weight = 1 - ignored
        if self.prefer.any():
            weight = weight * (OTHERS + (1 - OTHERS) * features.landcover[:, self.prefer].sum(1))
        counts = ignored < 0.5
        return features._replace(mask=counts if features.mask is None else features.mask & counts, weight=weight)


class Frame(NamedTuple):
    """One image of each pair of a batch, as it was given and encoded."""

    image: Tensor  # (B, 1, H, W)
    modality: Tensor | None  # (B, 2) weights; None: to be inferred
    mask: Tensor | None  # (B, 1, H, W), 1 = valid
    features: ImageFeatures

    def with_modality(self, msfl: MSFL) -> Frame:
        """Infer the modality where it was not given: from the whole image once, not from what a warp leaves of it."""
        if self.modality is not None:
            return self
        return self._replace(modality=msfl.infer_modality(standardise(self.image, self.mask)))

    def rows(self, part: Rows) -> Frame:
        """Part of the batch."""
        modality, mask = (None if t is None else t[part] for t in (self.modality, self.mask))
        return Frame(self.image[part], modality, mask, self.features.rows(part))


class Matches(NamedTuple):
    """Matches of a batch; pixel centres at integers, x before y."""

    points0: Tensor  # (N, 2)
    points1: Tensor  # (N, 2)
    confidence: Tensor  # (N,)
    std: Tensor  # (N,) px
    batch: Tensor  # (N,) long, ascending

    def swapped(self) -> Matches:
        """Let the images change places."""
        return self._replace(points0=self.points1, points1=self.points0)

    def rows(self, part: Tensor, size: int) -> Matches:
        """Keep the pairs ``part`` (R,) of ``size``, numbered by their place in it."""
        place = part.new_full((size,), -1)
        place[part] = torch.arange(len(part), device=part.device)
        placed = self._replace(batch=place[self.batch])
        return Matches(*(t[placed.batch >= 0] for t in placed)).sorted()

    def sorted(self) -> Matches:
        """Order them by pair, those of a pair as they are."""
        order = self.batch.argsort(stable=True)
        return Matches(*(t[order] for t in self))
