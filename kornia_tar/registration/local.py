"""Relief: where one matrix is not enough, a smooth field over the image, and the choice between them.

The ground moves its image where two sensors look from different sides. At the search's size that is few pixels, so the
cells are asked there first; what is held out there chooses the model and the field's smoothness. Then image1 is warped
by the field and the cells are asked again, at doubling sizes up to the full one, as for a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from kornia_tar.geometry import (
    DisplacementField,
    FloatArray,
    SplineRaster,
    Transform,
    TransformModel,
    compose,
    invert,
    transform_points,
)
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.evidence import DisplacementMaps
from kornia_tar.registration.alignment.fit import Alignment
from kornia_tar.registration.alignment.smooth import WIDTHS, Family, FieldFit, Look, plane
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.config import RegistrationModel
from kornia_tar.registration.held_out import CheckPoints

INTERVALS = 12  # of the control points, along the longer side
SPACING = 32.0  # px between them, at least
SMOOTHNESS = (1e4, 3e3, 1e3, 3e2, 1e2)  # λ that are tried, until one is worse
REJECTED_BY = {"affine": 2.0, "homography": 2.0, "spline": 3.0}  # standard errors of the held-out gain, see choose
CELLS = 10_000  # that a field is fitted to
NODES = 8  # of the outcome's raster for one interval of the control points


class Refined(NamedTuple):
    """A transform that all cells found, and what they said last."""

    found: Alignment  # its matrix is not that of the transform; errors in the frame's pixels
    transform: Transform  # image0 → image1
    pair: tuple[DisplacementMaps, DisplacementMaps]  # at full size
    before: Transform  # by which image1 was warped then
    model: RegistrationModel
    check: CheckPoints


class Choice(NamedTuple):
    """The simplest model that held-out cells do not reject."""

    model: Literal["similarity", "affine", "homography", "spline"]
    family: Family
    coefficients: FloatArray  # (M, 2)


Plane = Callable[[FloatArray, TransformModel], Refined | None]  # an alignment from a start, by one model


class Relief:
    """Follow the ground from a start.

    Args:
        first: image0, in whose frame and pixels the field is.
        second: image1.
        encoder: looks at them.
        side: px, of the size to begin at.
        least: cells that both images must show.
    """

    def __init__(
        self, first: MaskedImage, second: MaskedImage, encoder: TileEncoder, side: int, least: int
    ) -> None:  # fmt: skip
        self._first, self._second, self._encoder, self._least = first, second, encoder, least
        full = max(first.size)
        self._sides = [side * 2**k for k in range(full.bit_length()) if side * 2**k < full] + [full]
        self.raster = raster_over(first.size)

    def refine(self, matrix: FloatArray, magnify: float, plane_of: Plane, auto: bool) -> Refined | None:
        """Align from ``matrix`` by a field, or with ``auto`` by the simplest model that the cells allow.

        Args:
            matrix: (3, 3), image0 → image1.
            magnify: how far to magnify image0 for a last look; 1 for none.
            plane_of: aligns by one of the plane models.
            auto: whether plane models may be chosen.
        """
        seen = self._look(self._sides[0], matrix, np.zeros((len(self.raster.controls()), 2)))
        if seen is None:
            return None
        choice = choose(FieldFit(seen.some(CELLS), self.raster), get_args(TransformModel) if auto else ())
        if choice.model == "spline":
            return self._follow(matrix, choice, [*self._sides[1:], self._sides[-1]], magnify)
        refined = plane_of(matrix, choice.model)
        if refined is None or len(self._sides) == 1 or refined.found.log_likelihood_gain <= 0:
            return refined
        # Relief of few pixels shows at full size alone.
        again = Look(*refined.pair, np.zeros_like(seen.asked)).some(CELLS)
        choice = choose(FieldFit(again, self.raster), ("affine",))
        if choice.model != "spline":
            return refined
        return self._follow(refined.before.matrix, choice, self._sides[-1:], magnify) or refined

    def _follow(self, matrix: FloatArray, choice: Choice, sides: list[int], magnify: float) -> Refined | None:
        """Ask at one size after the other, the last of them the full one, and climb from what was asked."""
        family, field = choice.family, choice.coefficients
        for side in sides:
            look = self._look(side, matrix, field)
            if look is None:
                return None
            seen, fit = look, FieldFit(look.some(CELLS), self.raster)
            field = fit.climb(field, family, WIDTHS[1:])
        apart = fit.without_folds(field, family, steps=2)
        found, check = judge(fit, field, family, apart), fit.votes(apart)
        closer = self._look(round(magnify * self._sides[-1]), matrix, field) if magnify > 1 else None
        if closer is not None:
            field = FieldFit(closer.some(CELLS), self.raster).climb(field, family, WIDTHS[1:])
        before = self.transform(matrix, seen.asked)
        return Refined(found, self.transform(matrix, field), (seen.in1, seen.in0), before, "spline", check)

    def transform(self, matrix: FloatArray, field: FloatArray) -> Transform:
        """Return x → matrix · (x + u(x)) as the affine transform that is nearest to it and a field."""
        if not field.any():
            return Transform(matrix)
        there = lambda x: transform_points(matrix, x + self.raster(field, x))  # noqa: E731
        return Transform.of(there, self._first.size, float(self.raster.spacing.min()) / NODES)

    def _look(self, side: int, matrix: FloatArray, field: FloatArray) -> Look | None:
        """Ask the cells at a size, with image1 warped by a field."""
        first, full = self._first, max(self._first.size)
        view, to_view = first.reduced(side) if side <= full else first.enlarged(side / full)
        from_view, size = invert(to_view), view.size
        way = Transform(compose(from_view, matrix))
        if field.any():
            shift = lambda x: transform_points(matrix, x + self.raster(field, x)) - transform_points(matrix, x)  # noqa: E731
            spacing = float(self.raster.spacing.min()) / NODES * side / full
            way = Transform(
                way.matrix, DisplacementField.over(size, spacing, lambda x: shift(transform_points(from_view, x)))
            )
        pair = self._encoder.displacement_maps(view, self._second, way, self._least)
        if pair is None:
            return None
        in1, in0 = (maps.scaled(from_view) for maps in pair)
        return Look(in1, in0, field)


def choose(fit: FieldFit, planes: tuple[TransformModel, ...]) -> Choice:
    """Choose the simplest model that held-out cells do not reject; a spline where no ``planes`` are given.

    The spline's smoothness is the one with the largest held-out gain, a Newton step away from the fit to all cells.
    Then each plane model, and that spline, are fitted to all cells but those of each fold of blocks. A plane model is
    rejected where a richer one's held-out gain is larger by more than some standard errors over blocks: ``REJECTED_BY``
    of plane models, which cost little where they are not needed, and more of the spline.
    """
    field, tried = fit.zero, list[Choice]()
    for model in planes:
        family = plane(fit.raster, model)
        field = fit.climb(field, family, (1.0,) if tried else WIDTHS)
        tried.append(Choice(model, family, field))
    best, most = None, -np.inf
    for smoothness in SMOOTHNESS:
        family = Family(None, smoothness)
        field = fit.climb(field, family, (1.0,) if best else WIDTHS)
        gain = fit.gains(fit.without_folds(field, family)).sum()
        if best and gain < most:
            break
        best, most = Choice("spline", family, field), gain
    assert best is not None
    if not tried:
        return best
    tried.append(best)
    gains = [fit.by_block(fit.gains(fit.without_folds(one.coefficients, one.family, steps=2))) for one in tried]
    for k, one in enumerate(tried):
        richer = zip(tried[k + 1 :], gains[k + 1 :], strict=True)
        if not any(_excess(more, gains[k]) > REJECTED_BY[other.model] for other, more in richer):
            return one
    return best


def _excess(richer: FloatArray, simpler: FloatArray) -> float:
    """By how many standard errors gains by block are larger."""
    more = richer - simpler
    error = more.std(ddof=1) * np.sqrt(len(more)) if len(more) > 1 else np.inf
    return float(more.sum() / max(error, 1e-9))


def check_plane(
    pair: tuple[DisplacementMaps, DisplacementMaps], before: FloatArray, matrix: FloatArray, model: TransformModel,
    size: tuple[int, int],
) -> CheckPoints:  # fmt: skip
    """Hold out the cells that a plane model was fitted to, fold by fold of blocks.

    Args:
        pair: what the cells said after image1 was warped by ``before``.
        before: (3, 3), image0 → image1.
        matrix: (3, 3), what was found.
        model: in which family.
        size: (H, W) of image0.
    """
    raster = raster_over(size)
    rest = compose(matrix, invert(before))
    field = raster.coefficients(lambda x: transform_points(rest, x) - x)
    fit = FieldFit(Look(*pair, np.zeros_like(field)).some(CELLS), raster)
    return fit.votes(fit.without_folds(field, plane(raster, model)))


def raster_over(size: tuple[int, int]) -> SplineRaster:
    """Return the control points over an image of ``size`` (H, W)."""
    return SplineRaster.over(size, max(max(size) / INTERVALS, SPACING))


def judge(fit: FieldFit, field: FloatArray, family: Family, apart: FloatArray) -> Alignment:
    """Say how far to trust a field: the gain of held-out cells, and errors over the ground, in the middles of blocks.

    A field is known where cells are: at the image's corners, where a matrix is judged, it is at its worst.

    ``std`` is the jackknife's over folds of blocks; ``disagreement`` lies between the fields of either image's cells.
    """
    seen = np.unique(fit.block)
    points = np.stack([fit.points[fit.block == one].mean(0) for one in seen])
    places = np.stack([fit.raster(one, points) for one in apart])  # (F, P, 2)
    folds = len(apart)
    spread = (folds - 1) / folds * np.square(places - places.mean(0)).sum((0, 2))
    ahead = np.arange(len(fit.points)) < fit.ahead
    one, other = (fit.raster(fit.climb(field, family, (1.0,), own), points) for own in (ahead, ~ahead))
    gains = torch.from_numpy(np.ascontiguousarray(fit.gains(apart)))
    apart_by = float(np.linalg.norm(one - other, axis=1).mean())
    return Alignment(np.eye(3), gains, float(np.sqrt(spread).mean()), apart_by)
