"""Relief: where one matrix is not enough, a smooth field over the image, and the choice between them.

The ground moves its image where two sensors look from different sides. At the search's size that is few pixels, so the
cells are asked there first; what is held out there chooses the model and the field's smoothness. Then image1 is warped
by the field and the cells are asked again, at doubling sizes up to the full one, as for a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

import numpy as np

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
from kornia_tar.registration.alignment.smooth import Family, FieldFit, Look, plane
from kornia_tar.registration.alignment.tiled import FeatureCache, TileEncoder
from kornia_tar.registration.config import RegistrationModel

INTERVALS = 12  # of the control points, along the longer side
SMOOTHNESS = (1e4, 3e3, 1e3, 3e2, 1e2, 3e1)  # λ that are tried, until one is worse
REJECTED = 2.0  # standard errors by which a richer model's held-out gain must exceed a simpler one's
CELLS = 10_000  # that a field is fitted to
NODES = 8  # of the outcome's raster for one interval of the control points


class Refined(NamedTuple):
    """A transform that all cells found, and what they said last."""

    found: Alignment  # its matrix is not that of the transform; errors in the frame's pixels
    transform: Transform  # image0 → image1
    pair: tuple[DisplacementMaps, DisplacementMaps]  # at full size
    before: Transform  # by which image1 was warped then
    model: RegistrationModel


class Choice(NamedTuple):
    """The simplest model that held-out cells do not reject."""

    model: RegistrationModel
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
        self.raster = SplineRaster.over(first.size, full / INTERVALS)
        self._known = FeatureCache()

    def refine(
        self, matrix: FloatArray, magnify: float, plane_of: Plane, auto: bool
    ) -> Refined | None:
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
        choice = choose(FieldFit(seen[0], self.raster), get_args(TransformModel) if auto else ())
        start, sides = matrix, [*self._sides[1:], self._sides[-1]]
        if choice.model != "spline":
            refined = plane_of(matrix, choice.model)  # type: ignore[arg-type]  # any other is a plane one
            if refined is None or len(self._sides) == 1 or refined.found.log_likelihood_gain <= 0:
                return refined
            again = Look(*refined.pair, choice.coefficients * 0).some(CELLS)
            choice = choose(FieldFit(again, self.raster), ("affine",))
            if choice.model != "spline":
                return refined
            start, sides = refined.before.matrix, self._sides[-1:]
        return self._follow(start, choice, sides, magnify)

    def _follow(
        self, matrix: FloatArray, choice: Choice, sides: list[int], magnify: float
    ) -> Refined | None:
        family, field = choice.family, choice.coefficients
        for side in sides:
            asked, seen = field, self._look(side, matrix, field)
            if seen is None:
                return None
            fit = FieldFit(seen[0].some(CELLS), self.raster)
            field = fit.climb(field, family, (1.5, 1.0))
        pair, before = seen[1], self.transform(matrix, asked)
        found = judge(fit, field, family)
        if magnify > 1:
            closer = self._look(round(magnify * self._sides[-1]), matrix, field)
            if closer is not None:
                field = FieldFit(closer[0].some(CELLS), self.raster).climb(field, family, (1.5, 1.0))
        return Refined(found, self.transform(matrix, field), pair, before, "spline")

    def transform(self, matrix: FloatArray, field: FloatArray) -> Transform:
        """Return x → matrix · (x + u(x)) as the affine transform that is nearest to it and a field."""
        if not field.any():
            return Transform(matrix)
        there = lambda x: transform_points(matrix, x + self.raster(field, x))  # noqa: E731
        return Transform.of(there, self._first.size, float(self.raster.spacing.min()) / NODES)

    def _look(
        self, side: int, matrix: FloatArray, field: FloatArray
    ) -> tuple[Look, tuple[DisplacementMaps, DisplacementMaps]] | None:
        """Ask the cells at a size under a field; the look is in full pixels, the pair as it came."""
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
        known = self._known if side == full else FeatureCache()
        pair = self._encoder.displacement_maps(view, self._second, way, known, self._least)
        if pair is None:
            return None
        in1, in0 = (maps.scaled(from_view) for maps in pair)
        return Look(in1, in0, field), pair


def choose(fit: FieldFit, planes: tuple[TransformModel, ...]) -> Choice:
    """Choose the simplest model that held-out cells do not reject; a spline where no ``planes`` are given.

    Each model is fitted to all cells and, a Newton step away, to all but those of each fold of blocks. The spline's
    smoothness is the one with the largest held-out gain. A simpler model is rejected where its held-out gain falls
    short of the best's by more than ``REJECTED`` standard errors over blocks.
    """
    field, scored = fit.zero, []
    for model, family in _candidates(fit.raster, planes):
        field = fit.climb(field, family, (2.5, 1.5, 1.0) if len(scored) in (0, len(planes)) else (1.0,))
        held_out = fit.gains(fit.without_folds(field, family))
        scored.append((Choice(model, family, field), np.bincount(fit.block, held_out)))
        if len(scored) > len(planes) + 1 and scored[-1][1].sum() < scored[-2][1].sum():
            break
    best, most = max(scored, key=lambda one: one[1].sum())
    for choice, gains in scored[: len(planes)]:
        short = (most - gains)[np.bincount(fit.block) > 0]
        if short.sum() <= REJECTED * short.std(ddof=1) * np.sqrt(len(short)):
            return choice
    return best


def _candidates(raster: SplineRaster, planes: tuple[TransformModel, ...]) -> Iterator[tuple[RegistrationModel, Family]]:
    for model in planes:
        yield model, plane(raster, model)
    for smoothness in SMOOTHNESS:
        yield "spline", Family(None, smoothness)


def judge(fit: FieldFit, field: FloatArray, family: Family) -> Alignment:
    """Say how far to trust a field: the gain of held-out cells, and errors over the ground, in the middles of blocks.

    A field is known where cells are: at the image's corners, where a matrix is judged, it is at its worst.

    ``std`` is the jackknife's over folds of blocks; ``disagreement`` lies between fields that either image's cells make.
    """
    apart = fit.without_folds(field, family)
    seen = np.unique(fit.block)
    points = np.stack([np.bincount(fit.block, fit.points[:, k])[seen] for k in (0, 1)], 1)
    points /= np.bincount(fit.block)[seen, None]
    places = np.stack([fit.raster(one, points) for one in apart])  # (F, P, 2)
    folds = len(apart)
    spread = (folds - 1) / folds * np.square(places - places.mean(0)).sum((0, 2))
    ahead = np.arange(len(fit.points)) < fit.ahead
    one, other = (fit.raster(fit.climb(field, family, (1.0,), own), points) for own in (ahead, ~ahead))
    gains = fit.gains(apart)
    return Alignment(
        np.eye(3), float(gains.mean()), len(gains), float(np.sqrt(spread).mean()),
        float(np.linalg.norm(one - other, axis=1).mean()),
    )  # fmt: skip
