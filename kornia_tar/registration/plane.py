"""Align by one plane model: settle where to begin at the size of one tile, then at full size, small images magnified.

Cells see some 8 px of the size they are asked at, which no error of the start must outgrow. A pose of the search may be
further off where half of its matches are wrong: then the cells are asked from its similarity, too, at half the size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kornia_tar.conventions import CELL
from kornia_tar.geometry import (
    FloatArray,
    Transform,
    TransformModel,
    compose,
    corner_error,
    fit_least_squares,
    image_corners,
    invert,
    transform_points,
)
from kornia_tar.raster.view import MaskedImage, scale_at
from kornia_tar.registration.alignment.evidence import DisplacementMaps
from kornia_tar.registration.alignment.fit import Alignment, align
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.config import AlignmentConfig
from kornia_tar.registration.local import Refined, check_plane

SMALL_MOVE, AGREED = 3.0, 0.1  # px of the size aligned at, where cells see 8; nats per cell
LARGEST_STEP = 3.0  # from one size to the next
WORTHWHILE = 1.2  # times, least magnification
WORTH_MAGNIFYING = 0.03  # nats per cell, below which a transform is hardly ever right


class PlaneAlignment:
    """Align two images by plane models, in image0's frame and pixels.

    Args:
        first: image0.
        second: image1.
        encoder: looks at them.
        config: how.
    """

    def __init__(
        self, first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: AlignmentConfig
    ) -> None:  # fmt: skip
        self._first, self._second, self._encoder, self._config = first, second, encoder, config
        self._side = min(config.tile, max(first.size))
        self._levels: dict[int, _Level] = {}

    def settled(self, matrix: FloatArray, model: TransformModel) -> FloatArray:
        """Correct a start at the size of one tile; the start itself where too few cells show both images.

        A start that the cells agree on, and hardly move, is settled. Else two ways are gone: from the pose as it is,
        and from the similarity nearest to it, which the cells correct at half the size, where they see twice as far.
        The one that all cells gain more from goes on; where neither gains anything, but the similarity did at half the
        size, that.

        Args:
            matrix: (3, 3), image0 → image1.
            model: of the outcome.
        """
        level = self._level(self._side)
        found = self._step(level, matrix, model)
        if found is not None and _gain(found) >= AGREED and self._hardly_moved(matrix, found.matrix):
            return found.matrix
        similar = self._similar(matrix)
        other = None if similar is None else self._step(level, similar.matrix, model)
        found = max((step for step in (found, other) if step is not None), key=_gain, default=None)
        if similar is not None and _gain(similar) > 0 and (found is None or _gain(found) <= 0):
            return similar.matrix
        return matrix if found is None else found.matrix

    def refine(self, matrix: FloatArray, model: TransformModel, check_points: FloatArray) -> Refined | None:
        """Align at growing sizes up to the full one and beyond; None without ground in common.

        Args:
            matrix: (3, 3), image0 → image1, settled.
            model: to fit.
            check_points: (P, 2) px of image0, whose errors to estimate.
        """
        full, start = self._level(max(self._first.size)), self._up_to_full_size(matrix, model)
        step = self._step(full, start, model, check_points)
        if step is None:
            return None
        for _ in range(self._config.refinements - 1):
            step = self._step(full, step.matrix, model, check_points) or step
        matrix, found = step.matrix, step.found
        if _gain(step) >= WORTH_MAGNIFYING and (factor := self.magnification()) > 1:
            # A magnified cell stands for less ground, so that more of them vote, and their maps are finer. It looks for
            # itself in less ground, too, and has less to tell: the gain stays that of the full size.
            closer = self._step(_Level(*self._first.enlarged(factor)), step.matrix, model, check_points)
            if closer is not None and _gain(closer) > 0 and math.isfinite(closer.found.std):
                matrix = closer.matrix
                found = found._replace(std=closer.found.std, disagreement=closer.found.disagreement)
        check = check_plane(step.pair, step.before, matrix, model, self._first.size)
        return Refined(found, Transform(matrix), step.pair, Transform(step.before), model, check)

    def magnification(self) -> float:
        """How far to magnify image0: no further than all cells can vote; less, if then one tile does.

        1 where that would be too little.
        """
        height, width = self._first.size
        factor = min(self._config.magnify, math.sqrt(self._config.max_cells / (2 * height * width / CELL**2)))
        single = self._config.tile / max(height, width)
        factor = single if 0.8 * factor <= single < factor else factor
        return factor if factor >= WORTHWHILE else 1.0

    def _similar(self, matrix: FloatArray) -> _Step | None:
        """The similarity nearest to a start, corrected by the cells at half of a tile; None where too few show both."""
        level, step = self._level(self._side // 2), None
        matrix = _nearest_similarity(matrix, self._first.size)
        for _ in range(2):
            step = self._step(level, matrix if step is None else step.matrix, "similarity")
            if step is None:
                return None
        return step

    def _hardly_moved(self, start: FloatArray, end: FloatArray) -> bool:
        pixel = max(self._first.size) / self._side * scale_at(start, self._first.size)
        return corner_error(end, start, self._first.size) < SMALL_MOVE * pixel

    def _up_to_full_size(self, matrix: FloatArray, model: TransformModel) -> FloatArray:
        """Align at sizes between one tile's and the full one."""
        full = max(self._first.size)
        count = math.ceil(math.log(full / self._side, LARGEST_STEP) - 1e-9)
        for k in range(1, count):
            step = self._step(self._level(round(self._side * (full / self._side) ** (k / count))), matrix, model)
            matrix = matrix if step is None else step.matrix
        # Reduced images have whole sides: their frames are a little stretched.
        return _nearest_similarity(matrix, self._first.size) if model == "similarity" else matrix

    def _level(self, side: int) -> _Level:
        """Image0 at most ``side`` px long, reduced once."""
        if side not in self._levels:
            self._levels[side] = _Level(*self._first.reduced(side))
        return self._levels[side]

    def _step(
        self, level: _Level, matrix: FloatArray, model: TransformModel, check_points: FloatArray | None = None
    ) -> _Step | None:
        """One alignment from ``matrix`` at one size; None where too few cells show both images."""
        before = compose(invert(level.to_view), matrix)
        pair = self._encoder.displacement_maps(level.view, self._second, before, self._config.min_cells)
        if pair is None:
            return None
        points = None if check_points is None else transform_points(level.to_view, check_points)
        found = align(*pair, model, level.view.size, before=before, check_points=points)
        factor = scale_at(level.to_view, self._first.size)
        found = found._replace(std=found.std / factor, disagreement=found.disagreement / factor)
        in1, in0 = (maps.scaled(invert(level.to_view)) for maps in pair)
        return _Step(compose(level.to_view, compose(found.matrix, before)), matrix, found, (in1, in0))


class _Level(NamedTuple):
    """Image0 at one size, and the matrix from its full pixels."""

    view: MaskedImage
    to_view: FloatArray


class _Step(NamedTuple):
    """What one alignment found; all in image0's full frame but ``found.matrix``, which is in the view's."""

    matrix: FloatArray  # (3, 3), image0 → image1
    before: FloatArray  # by which image1 was warped
    found: Alignment
    pair: tuple[DisplacementMaps, DisplacementMaps]


def _gain(step: _Step) -> float:
    return step.found.log_likelihood_gain


def _nearest_similarity(matrix: FloatArray, size: tuple[int, int]) -> FloatArray:
    corners = image_corners(size)
    nearest = fit_least_squares(corners, transform_points(matrix, corners), "similarity")
    return matrix if nearest is None else nearest
