"""A scored set and level: one row a matcher, and each pair's errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PairErrors:
    """What the figures of a report need to know of each pair of a table.

    Args:
        names: the pairs, N of them.
        rotations: (N,) degrees in [-180, 180], of the truth at the centre of image0.
        scales: (N,) size of image1's content against image0's, likewise.
        errors: per row's ``key`` the (N,) mean corner errors in px, inf for a failure.
    """

    names: list[str]
    rotations: NDArray[np.float64]
    scales: NDArray[np.float64]
    errors: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Table:
    """One set and level, scored.

    Args:
        dataset: name of the set.
        level: name of the level.
        drawn: what the level's warps are.
        model: what the shared estimator fits.
        pairs: number of pairs in every row.
        borders: number of pairs whose image1 is filled, cropped or untouched.
        rows: one per matcher, best first: scores, seconds, parameters, matcher, key (by which it is asked for),
            settings, predicted (provenance).
        ceiling: scores of true matches through the shared estimator.
        not_run: matchers without a row, with the reason.
        detail: per pair, for the figures; not part of the JSON, because the caches hold all of it.
    """

    dataset: str
    level: str
    drawn: str
    model: str
    pairs: int
    borders: dict[str, int]
    rows: list[dict[str, Any]]
    ceiling: dict[str, float]
    not_run: dict[str, str]
    detail: PairErrors | None = None

    @property
    def plotted(self) -> list[dict[str, Any]]:
        """The rows whose pairs are at hand; those kept of an earlier table have none."""
        return [row for row in self.rows if self.detail is None or row["key"] in self.detail.errors]

    @property
    def title(self) -> str:
        """The set and level in words."""
        return f"{self.dataset}, level {self.level}"

    @property
    def about(self) -> str:
        """The pairs in one line."""
        borders = ", ".join(f"{kind} {number}" for kind, number in self.borders.items()) or "unknown"
        return f"{self.pairs} pair{'s' * (self.pairs != 1)}; {self.drawn}; border of image1: {borders}."


def motion(truth: ArrayLike, shape0: Sequence[int]) -> tuple[float, float]:
    """Return rotation (degrees in [-180, 180]) and scale of a 3x3 matrix at the centre of image0 (height, width).

    The Jacobian there, split into its nearest rotation and the root of its determinant.
    """
    matrix = np.asarray(truth, dtype=np.float64)
    mapped = matrix @ np.array([(shape0[1] - 1) / 2, (shape0[0] - 1) / 2, 1.0])
    jacobian = (matrix[:2, :2] - np.outer(mapped[:2] / mapped[2], matrix[2, :2])) / mapped[2]
    angle = math.atan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])
    return math.degrees(angle), math.sqrt(abs(float(np.linalg.det(jacobian))))
