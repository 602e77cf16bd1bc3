"""What flows through the network: an image's features, the image with them, matches of a batch of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kornia_tar.network.msfl import MSFL, standardise

Rows = slice | Tensor  # part of a batch
OTHERS = 0.2  # weight of cells that surely bear no preferred word, where some are preferred


def part_of(pairs: Sequence[int], size: int, device: torch.device) -> Rows:
    """Index some pairs, ascending, of a batch of ``size``; all of them by a slice, which copies and waits for nothing.

    The host names them, and so need not ask a GPU how many they are.
    """
    return slice(None) if len(pairs) == size else torch.tensor(pairs, device=device)


class ImageFeatures(NamedTuple):
    """One image after MSFL and TAFE."""

    coarse: Tensor  # (B, C, h, w) at 1/8, text-enhanced
    fine: Tensor  # (B, C2, 4h, 4w) at 1/2
    landcover: Tensor  # (B, K, h, w) probabilities of the words where they were asked for, else TAFE's attention
    mask: Tensor | None  # (B, h, w) bool
    weight: Tensor | None = None  # (B, h, w) in [0, 1], how much a cell's vote counts; None: all alike
    tokens: Tensor | None = None  # (B, N, C), see CFDM.look_within; of an image that is matched more than once

    def rows(self, part: Rows) -> ImageFeatures:
        """Part of the batch."""
        mask, weight, tokens = (None if t is None else t[part] for t in (self.mask, self.weight, self.tokens))
        return ImageFeatures(self.coarse[part], self.fine[part], self.landcover[part], mask, weight, tokens)

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

    def rows(self, pairs: Sequence[int], size: int) -> Matches:
        """Keep some pairs of ``size``, ascending, numbered by their place among them."""
        if len(pairs) == size:
            return self
        place = [pairs.index(pair) if pair in pairs else -1 for pair in range(size)]
        placed = self._replace(batch=torch.tensor(place, device=self.batch.device)[self.batch])
        return placed.take(placed.batch >= 0)

    def placed(self, part: Rows) -> Matches:
        """Number matches of a part of a batch, see :func:`part_of`, by their pairs' places in the whole."""
        return self if isinstance(part, slice) else self._replace(batch=part[self.batch])

    def take(self, wanted: Tensor) -> Matches:
        """Keep those that are ``wanted`` (N,), a mask, and order them by pair, those of a pair as they are."""
        index = wanted.nonzero().flatten()  # once for all: each tensor indexed by a mask counts it anew
        return Matches(*(t[index] for t in self)).sorted()

    def sorted(self) -> Matches:
        """Order them by pair, those of a pair as they are."""
        order = self.batch.argsort(stable=True)
        return Matches(*(t[order] for t in self))

    def counts(self, size: int) -> Tensor:
        """Count the matches of each of ``size`` pairs: (size,); by no ``bincount``, which the host waits for."""
        return self.batch.new_zeros(size).index_add(0, self.batch, torch.ones_like(self.batch))

    def longest(self, size: int) -> int:
        """Count the matches of that pair of ``size`` which has most, at least 1; a single pair has all of them."""
        return max(1, len(self.batch) if size == 1 else int(self.counts(size).max()))
