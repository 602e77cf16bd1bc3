"""Matched points of two images, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]  # of floats


@dataclass(frozen=True)
class PointMatches:
    """N matches of one pair, in pixels of both images; pixel centres at integers.

    Attributes:
        points0: (N, 2) x, y in image0.
        points1: (N, 2) x, y in image1.
        confidence: (N,), higher is better.
        std: (N,) stated one-sigma error per axis, px; None of a matcher that does not state it.
    """

    points0: Array
    points1: Array
    confidence: Array
    std: Array | None = None

    def __len__(self) -> int:
        return len(self.points0)

    @property
    def stated_std(self) -> Array:
        """``std``, of matches that must have it."""
        if self.std is None:
            raise ValueError("these matches state no standard deviation")
        return self.std

    @classmethod
    def empty(cls) -> Self:
        """No matches; what there is not has a standard deviation, too."""
        return cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))

    def swapped(self) -> Self:
        """The same matches with the images' roles exchanged."""
        return replace(self, points0=self.points1, points1=self.points0)

    def inside(self, size0: Sequence[int], size1: Sequence[int], *, border: bool = True) -> Self:
        """Those whose two ends lie on images of these sizes.

        Args:
            size0: (H, W) of image0; an array's shape (H, W, C) will do.
            size1: of image1.
            border: whether the outer edge of the outermost pixels still belongs to an image.
        """
        kept = np.ones(len(self), bool)
        below = np.less_equal if border else np.less
        for points, size in ((self.points0, size0), (self.points1, size1)):
            kept &= (below(-0.5, points) & below(points, np.array([size[1], size[0]]) - 0.5)).all(axis=1)
        return self.chosen(kept)

    def chosen(self, rows: ArrayLike) -> Self:
        """Some of the matches: by a mask (N,) or by indices."""
        index, values = np.asarray(rows), {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v[index] for name, v in values.items() if isinstance(v, np.ndarray)})
