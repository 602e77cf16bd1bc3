"""SplineRaster: smooth functions over an image, as sums of cubic B-splines on a raster of control points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry.matrix import FloatArray
from kornia_tar.geometry.transform import PointMap

SUPPORT = 4  # controls along an axis that bear on a point
# Powers 1, t, t², t³ of the place within an interval → weights of its four controls.
_CUBIC = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6


@dataclass(frozen=True)
class SplineRaster:
    """Tensor products of uniform cubic B-splines over an image; outside of it they are constant.

    Controls lie in rows: control ``r * columns + c``; one more than the image needs on every side.

    Attributes:
        size: (H, W) of the image.
        intervals: (down, across), pieces that the image is cut into.
    """

    size: tuple[int, int]
    intervals: tuple[int, int]

    @classmethod
    def over(cls, size: tuple[int, int], spacing: float) -> SplineRaster:
        """Cover an image of ``size`` (H, W) with controls at most ``spacing`` px apart."""
        down, across = (max(1, int(np.ceil((length - 1) / spacing))) for length in size)
        return cls(size, (down, across))

    @property
    def rows(self) -> int:
        """Controls in a column."""
        return self.intervals[0] + SUPPORT - 1

    @property
    def columns(self) -> int:
        """Controls in a row."""
        return self.intervals[1] + SUPPORT - 1

    @property
    def spacing(self) -> FloatArray:
        """(2,) px between controls, along x and along y."""
        return np.array([(self.size[1] - 1) / self.intervals[1], (self.size[0] - 1) / self.intervals[0]])

    def controls(self) -> FloatArray:
        """(M, 2) px where the controls lie: a linear function's values there are its coefficients."""
        y, x = np.mgrid[: self.rows, : self.columns]
        return (np.stack([x.ravel(), y.ravel()], 1) - 1) * self.spacing

    def locate(self, points: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
        """Find the piece (N,), in rows, that each of (N, 2) points lies in, and where in it (N, 2), in [0, 1]."""
        last = np.array(self.intervals[::-1])
        at = (np.asarray(points, np.float64).reshape(-1, 2) / self.spacing).clip(0, last)
        low = np.minimum(at.astype(np.int64), last - 1)
        return low[:, 1] * self.intervals[1] + low[:, 0], at - low

    @cached_property
    def members(self) -> NDArray[np.int64]:
        """(pieces, 16) controls that bear on each piece."""
        row, column = np.mgrid[: self.intervals[0], : self.intervals[1]].reshape(2, -1, 1, 1)
        step = np.arange(SUPPORT)
        return ((row + step[:, None]) * self.columns + column + step).reshape(-1, SUPPORT**2)

    def weights(self, points: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
        """Return the piece (N,) of each of (N, 2) points, and the weights (N, 16) of its :attr:`members` there."""
        piece, part = self.locate(points)
        x, y = (np.power(part[:, [axis]], np.arange(SUPPORT)) @ _CUBIC for axis in (0, 1))  # (N, 4)
        return piece, (y[:, :, None] * x[:, None, :]).reshape(len(part), -1)

    def __call__(self, coefficients: FloatArray, points: ArrayLike) -> FloatArray:
        """Return the values (N, C) at (N, 2) px of the functions with (M, C) coefficients."""
        piece, weight = self.weights(points)
        return np.einsum("nk,nkc->nc", weight, coefficients[self.members[piece]])

    def coefficients(self, function: PointMap) -> FloatArray:
        """Return the (M, C) coefficients of the splines that come nearest to a function, (N, 2) px → (N, C)."""
        places = [
            np.linspace(0, length - 1, 2 * count + 2) for length, count in zip(self.size, self.intervals, strict=True)
        ]
        y, x = np.meshgrid(*places, indexing="ij")
        points = np.stack([x.ravel(), y.ravel()], 1)
        piece, weight = self.weights(points)
        rows = np.zeros((len(points), self.rows * self.columns))
        np.put_along_axis(rows, self.members[piece], weight, 1)
        return cast(FloatArray, np.linalg.lstsq(rows, function(points), rcond=None)[0])

    def bending(self) -> FloatArray:
        """(M, M): the bending energy ∫∫ f_xx² + 2 f_xy² + f_yy² dx dy over the image, a quadratic form."""
        across, down = (_products(count, step) for count, step in zip(self.intervals[::-1], self.spacing, strict=True))
        return np.kron(down[0], across[2]) + 2 * np.kron(down[1], across[1]) + np.kron(down[2], across[0])


def _products(intervals: int, step: float) -> list[FloatArray]:
    """∫ b_i⁽ᵈ⁾ b_j⁽ᵈ⁾ over an axis, for the derivatives d = 0, 1, 2; (controls, controls) each."""
    nodes, node_weights = np.polynomial.legendre.leggauss(SUPPORT)  # exact up to degree 7
    t = (nodes + 1) / 2
    found = []
    for order in range(3):
        powers = np.stack([
            np.prod(np.arange(k, k - order, -1)) * t ** max(k - order, 0) for k in range(SUPPORT)
        ], 1)  # fmt: skip
        values = powers @ _CUBIC / step**order  # (nodes, 4)
        piece = (values * node_weights[:, None] / 2 * step).T @ values
        whole = np.zeros((intervals + SUPPORT - 1,) * 2)
        for start in range(intervals):
            whole[start : start + SUPPORT, start : start + SUPPORT] += piece
        found.append(whole)
    return found
