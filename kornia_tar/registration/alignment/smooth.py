"""Smooth alignment: the displacement field that all cells of both images together find most likely.

What ``fit.py`` does for a matrix, for a field u that leads image0's pixel x to x + u(x), in the frame of an affine
transform that is right on the whole. u is a sum of cubic B-splines whose coefficients maximise

    Σ_k log((1 - ε) A p_k(u) + ε)  -  λ/2 · (bending energy of u)

by Newton steps, with the curvature of each cell's own map: a road pins the field across itself alone. The plane models
are members of the same family (their fields are polynomials, which splines hold), so that cells that were held out
compare them all on equal terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.geometry import FloatArray, SplineRaster, TransformModel
from kornia_tar.registration.alignment.evidence import DisplacementMaps, join
from kornia_tar.registration.held_out import CheckPoints

WIDTHS = (2.5, 1.5, 1.0)  # of the splines over the maps, stage by stage, as in fit.py
STEPS = 6  # of Newton, at most, a stage
ENOUGH = 1e-3  # nats a cell that a step must gain for another to follow
FOLDS = 5
LEAST = 10  # cells of a block that has a vote
VAGUE = 3.0  # px, one sigma of a block's vote, beyond which it is none


class Family(NamedTuple):
    """Fields that a model allows: ``start + basis @ a``, or any where there is no basis."""

    basis: FloatArray | None  # (2M, P); coefficients of x stand before those of y
    smoothness: float  # λ; 0 with a basis


def plane(raster: SplineRaster, model: TransformModel) -> Family:
    """Return the fields of small transforms of a model; of a homography those to first order."""
    at, spacing = raster.controls(), raster.spacing
    half = max(raster.size) / 2
    (x, y), step = ((at - np.array(raster.size[::-1]) / 2) / half).T, spacing / half
    one, none = np.ones_like(x), np.zeros_like(x)
    shifts = [(one, none), (none, one)]
    if model == "similarity":
        columns = [*shifts, (x, y), (-y, x)]
    else:
        columns = [*shifts, (x, none), (y, none), (none, x), (none, y)]
    if model == "homography":  # the coefficients of t² are t² - step² / 3
        columns += [(x * x - step[0] ** 2 / 3, x * y), (x * y, y * y - step[1] ** 2 / 3)]
    return Family(np.stack([np.concatenate(pair) for pair in columns], 1), 0.0)


class Look(NamedTuple):
    """What the cells said after image1 was warped by a field, in image0's pixels."""

    in1: DisplacementMaps
    in0: DisplacementMaps
    asked: FloatArray  # (M, 2) coefficients of that field

    def some(self, count: int) -> Look:
        """About ``count`` cells at most, drawn evenly from both images'."""
        share = min(1.0, count / (len(self.in1.points) + len(self.in0.points)))
        if share == 1:
            return self
        drawn = (
            torch.linspace(0, len(m.points) - 1, round(share * len(m.points))).long() for m in (self.in1, self.in0)
        )
        return Look(self.in1.rows(next(drawn)), self.in0.rows(next(drawn)), self.asked)


class FieldFit:
    """Fields on a raster, judged by one look's K cells: image0's, then image1's.

    Coefficients are (M, 2) px for all cells, or (F, M, 2), one field for each fold of cells.

    Attributes:
        points: (K, 2) px, where the cells are in their own images.
        ahead: how many of them are image0's.
        block: (K,) which block of :func:`blocks` each is in.
        fold: (K,) in which of ``FOLDS`` that block is.
    """

    def __init__(self, look: Look, raster: SplineRaster) -> None:
        self.look, self.raster = look, raster
        self._both = join((look.in1, look.in0))
        self.ahead = len(look.in1.points)
        self.points = self._both.points.double().numpy()  # (K, 2) px
        self._located = raster.weights(self.points)
        shift = self._values(look.asked, self._located)
        self._asked1, self._behind0 = shift[: self.ahead], self.points[self.ahead :] + shift[self.ahead :]
        self._bending = raster.bending()
        self.block, self.fold = blocks(self.points, raster.size)

    @property
    def zero(self) -> FloatArray:
        """Coefficients of no displacement."""
        return np.zeros_like(self.look.asked)

    def places(self, coefficients: FloatArray) -> FloatArray:
        """(K, 2) px where a field sees the cells: image0's in image1 as it was warped, image1's in image0."""
        ahead, u = self.ahead, self._values(coefficients, self._located)
        goal = self.points[:ahead] + u[:ahead]
        there = self._values(self.look.asked, self.raster.weights(goal - self._asked1))
        back = self._behind0 - u[ahead:]
        back = self._behind0 - self._values(coefficients, self.raster.weights(back), ahead)
        return np.concatenate([goal - there, back])

    def gains(self, coefficients: FloatArray, width: float = 1.0) -> FloatArray:
        """(K,) nats that each cell gains over knowing nothing."""
        return _gains(self._both, self.places(coefficients), width)

    def climb(
        self,
        start: FloatArray,
        family: Family,
        widths: Sequence[float] = WIDTHS,
        cells: NDArray[np.bool_] | None = None,
    ) -> FloatArray:
        """Return the coefficients of the family's best field, uphill from ``start``; of some ``cells`` (K,) alone."""
        kept = np.ones(len(self.points), bool) if cells is None else cells
        found = start
        for width in widths:
            value, damping = self._objective(self.gains(found, width)[kept], found, family), 1e-3
            for _ in range(STEPS):
                slope, curve = (parts.sum(0) for parts in self._quadratic(found, width, np.where(kept, 0, -1), 1))
                for _ in range(4):
                    step = found + self._step(slope, curve, found, family, damping)
                    after = self._objective(self.gains(step, width)[kept], step, family)
                    if after > value:
                        break
                    damping *= 10
                else:
                    break
                gained, found, value, damping = after - value, step, after, damping / 10
                if gained < ENOUGH * kept.sum():
                    break
        return found

    def without_folds(self, coefficients: FloatArray, family: Family, steps: int = 1) -> FloatArray:
        """(F, M, 2): the best field without the cells of each fold, Newton ``steps`` away from that of all."""
        slopes, curves = self._quadratic(coefficients, 1.0, self.fold, FOLDS)
        found = [
            coefficients + self._step(slopes.sum(0) - slope, curves.sum(0) - curve, coefficients, family, 1e-3)
            for slope, curve in zip(slopes, curves, strict=True)
        ]
        for _ in range(steps - 1):
            for k, field in enumerate(found):
                slope, curve = (part[0] for part in self._quadratic(field, 1.0, np.where(self.fold == k, -1, 0), 1))
                found[k] = field + self._step(slope, curve, field, family, 1e-3)
        return np.stack(found)

    def votes(self, apart: FloatArray) -> CheckPoints:
        """Let the cells of each block say by how much the field is off that was fitted without them.

        From where fields ``apart``, (F, M, 2), see them, they climb to the shift that they together find most likely.
        Blocks whose cells agree on none have no vote.
        """
        places, (seen, index) = self.places(apart), np.unique(self.block, return_inverse=True)
        sign = np.where(np.arange(len(places)) < self.ahead, 1.0, -1.0)[:, None]  # image1's are led back
        shift, damping = np.zeros((len(seen), 2)), np.full(len(seen), 0.05)

        def sums(values: FloatArray) -> FloatArray:
            return np.bincount(index, values, len(seen)).astype(np.float64)

        def gains(shift: FloatArray, width: float) -> FloatArray:
            return sums(_gains(self._both, places + sign * shift[index], width))

        for width in WIDTHS:
            value = gains(shift, width)
            for _ in range(STEPS):
                slope, information = self._both.derivatives(places + sign * shift[index], width)
                information = _positive(information)
                gradient = np.stack([sums((sign * slope)[:, i]) for i in (0, 1)], 1)
                curve = np.stack([sums(information[:, i, j]) for i in (0, 1) for j in (0, 1)], 1).reshape(-1, 2, 2)
                floor = damping * np.trace(curve, axis1=1, axis2=2) + 1e-6
                step = np.linalg.solve(curve + floor[:, None, None] * np.eye(2), gradient[..., None])[..., 0]
                after = gains(shift + step, width)
                better = after > value
                shift, value = np.where(better[:, None], shift + step, shift), np.maximum(after, value)
                damping = np.where(better, damping / 2, damping * 8)
        sharp = np.linalg.eigvalsh(curve)[:, 0] > 1 / VAGUE**2
        told = (value > 0) & sharp & (sums(np.ones(len(index))) >= LEAST)
        middle = np.stack([sums(self.points[:, k]) for k in (0, 1)], 1) / sums(np.ones(len(index)))[:, None]
        return CheckPoints(middle[told], -shift[told])

    def by_block(self, values: FloatArray) -> FloatArray:
        """Sums of (K,) values over the blocks that hold cells."""
        return np.bincount(self.block, values)[np.unique(self.block)].astype(np.float64)

    def _values(
        self, coefficients: FloatArray, located: tuple[NDArray[np.int64], FloatArray], first: int = 0
    ) -> FloatArray:
        """Displacements (N, 2) px at located points, those of the cells from ``first`` on."""
        piece, weight = located
        members = self.raster.members[piece]
        own = (
            coefficients[members]
            if coefficients.ndim == 2
            else coefficients[self.fold[first : first + len(piece), None], members]
        )
        return np.matmul(weight[:, None, :], own)[:, 0]

    def _objective(self, gains: FloatArray, coefficients: FloatArray, family: Family) -> float:
        bent = np.einsum("ic,ij,jc", coefficients, self._bending, coefficients) if family.smoothness else 0.0
        return float(gains.sum() - family.smoothness / 2 * bent)

    def _step(self, slope: FloatArray, curve: FloatArray, at: FloatArray, family: Family, damping: float) -> FloatArray:
        """(M, 2): the damped Newton step of gradient (2M,) and negative Hessian (2M, 2M) of the gain."""
        if family.basis is None:
            count = len(at)
            slope = slope - family.smoothness * (self._bending @ at).T.ravel()
            curve = curve.copy()
            for part in (slice(0, count), slice(count, None)):
                curve[part, part] += family.smoothness * self._bending
        else:
            slope, curve = family.basis.T @ slope, family.basis.T @ curve @ family.basis
        scale = np.diag(curve)
        curve = curve + np.diag(damping * scale + 1e-6 * scale.max() + 1e-12)
        step = np.linalg.solve(curve, slope)
        return np.asarray(step if family.basis is None else family.basis @ step, np.float64).reshape(2, -1).T

    def _quadratic(
        self, coefficients: FloatArray, width: float, group: NDArray[np.int64], groups: int
    ) -> tuple[FloatArray, FloatArray]:
        """Gradients (groups, 2M) and negative Hessians (groups, 2M, 2M) of gains by group of cells; -1 is none."""
        places = self.places(coefficients)
        slope, information = self._both.derivatives(places, width)
        information = _positive(information)
        slope[self.ahead :] *= -1  # image1's cells lie where the field leads back to
        piece, weight = (
            np.concatenate([own[: self.ahead], back])
            for own, back in zip(self._located, self.raster.weights(places[self.ahead :]), strict=True)
        )
        pieces, count, members = len(self.raster.members), len(self.look.asked), self.raster.members
        kept = group >= 0
        at = torch.from_numpy(group[kept] * pieces + piece[kept])
        w = torch.from_numpy(weight[kept]).float()
        outer = (w[:, :, None] * w[:, None, :]).flatten(1)
        sums = lambda rows: torch.zeros(groups * pieces, rows.shape[1]).index_add_(0, at, rows).numpy()  # noqa: E731
        slopes, curves = np.zeros((groups, 2, count)), np.zeros((groups, 2, count, 2, count))
        pairs = (members[:, :, None] * count + members[:, None, :]).ravel()
        for i in (0, 1):
            parts = sums(w * torch.from_numpy(slope[kept, i, None]).float()).reshape(groups, -1)
            for g in range(groups):
                slopes[g, i] = np.bincount(members.ravel(), parts[g], count)
            for j in range(i + 1):
                parts = sums(outer * torch.from_numpy(information[kept, i, j, None]).float()).reshape(groups, -1)
                for g in range(groups):
                    block = np.bincount(pairs, parts[g], count**2).reshape(count, count)
                    curves[g, i, :, j, :] = curves[g, j, :, i, :] = block  # symmetric, as each outer product is
        return slopes.reshape(groups, -1), curves.reshape(groups, 2 * count, 2 * count)


def blocks(points: FloatArray, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the block (K,) of a raster over an image of ``size`` (H, W) that each point is in, and its fold.

    Blocks of one fold are a knight's move apart, so that each has neighbours that stay.
    """
    count = block_count(size)
    column, row = (np.floor((points + 0.5) / size[::-1] * count).clip(0, count - 1).astype(np.int64)).T
    return row * count + column, (2 * row + column) % FOLDS


def block_count(size: tuple[int, int]) -> int:
    """Count the blocks along a side: of 64 px, or cells on either side of an edge would see the same pixels."""
    return int(np.clip(max(size) // 64, 4, 8))


@torch.autocast("cpu", enabled=False)
def _gains(evidence: DisplacementMaps, places: FloatArray, width: float) -> FloatArray:
    """(K,) nats that the cells gain over knowing nothing at (K, 2) places, px; also under autocast as exact as here."""
    return evidence.log_likelihood_gain(torch.from_numpy(places).float(), width).double().numpy()


def _positive(forms: FloatArray) -> FloatArray:
    """(K, 2, 2) symmetric forms, given as (K, 3), with their negative eigenvalues raised to 0."""
    xx, xy, yy = forms.T
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    high, low = np.maximum(mean + half, 0), np.maximum(mean - half, 0)
    angle = np.arctan2(2 * xy, xx - yy) / 2
    c, s = np.cos(angle), np.sin(angle)
    off = (high - low) * c * s
    return np.stack([high * c * c + low * s * s, off, off, high * s * s + low * c * c], 1).reshape(-1, 2, 2)
