"""Search the pose that an alignment begins from: both images small, image1 turned and scaled.

Each rotation and scale gives a candidate: one forward of the matcher, and a robust similarity through its matches, with
a wide threshold, since a similarity has neither shear nor perspective. The best of a scale are aligned at half the
size, where a cell sees twice as far, and the one with the largest gain at the search's own size. What each choice
brought stands in ``weights/RECIPE.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kornia_tar.conventions import CELL, MIN_SIDE
from kornia_tar.geometry import FloatArray, TransformModel, compose, fit_transform, invert, transform_points
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.fit import align
from kornia_tar.registration.alignment.tiled import FeatureCache, TileEncoder
from kornia_tar.registration.config import RegistrarConfig


class PoseCandidate(NamedTuple):
    """Where an alignment begins."""

    support: int  # matches that agree
    rotation: int  # degrees
    scale: float
    matrix: FloatArray  # (3, 3), image0 → image1


def find_pose(
    first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: RegistrarConfig
) -> PoseCandidate | None:
    """Find the pose with the largest gain, or None where no matches agree or there is no ground in common.

    Args:
        first: image0, at full size.
        second: image1.
        encoder: looks at them.
        config: which poses to try.

    Returns:
        the pose, its matrix aligned at the search's size and in full pixels.
    """
    return _Search(first, second, encoder, config).best()


class _Search:
    """The search for one pair."""

    def __init__(self, first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: RegistrarConfig) -> None:
        self._encoder, self._config = encoder, config
        self._small0, self._to_small0 = first.reduced(config.search.side)
        self._small1, self._to_small1 = second.reduced(config.search.side)
        self._half0, self._to_half0 = self._small0.reduced(max(self._small0.size) // 2)
        self._known = FeatureCache()  # of small0
        self._known_half = FeatureCache()
        self._near = config.search.near * max(self._small0.size) / max(first.size) + CELL

    def best(self) -> PoseCandidate | None:
        model: TransformModel = "similarity" if self._config.model == "similarity" else "affine"
        best: tuple[float, float, PoseCandidate] | None = None
        for starts in self._searches():
            if not starts:
                continue
            _, start = max((self._nearer(start) for start in starts), key=lambda one: one[0])
            pair = self._encoder.displacement_maps(
                self._small0, self._small1, start.matrix, self._known, self._config.alignment.min_cells
            )
            if pair is None:
                continue
            found = align(*pair, model, self._small0.size)
            # A small overlap may fit by chance.
            total = (
                found.log_likelihood_gain * found.cells if found.log_likelihood_gain > 0 else found.log_likelihood_gain
            )
            if best is None or total > best[0]:
                there = compose(found.matrix, start.matrix)
                matrix = compose(compose(self._to_small0, there), invert(self._to_small1))
                best = total, found.log_likelihood_gain, start._replace(matrix=matrix)
            if best[1] >= self._config.search.sure_gain:
                break
        return None if best is None else best[2]

    def _searches(self) -> Iterator[list[PoseCandidate]]:
        """Starts of all quarter turns at one scale after the other, then of the diagonals, which are seldom needed."""
        quarters = range(0, 360, 90) if self._config.search.rotations >= 4 else range(1)
        sides = min(*self._small0.size, *self._small1.size)
        scales = [scale for scale in self._config.search.scales if sides * min(scale, 1 / scale) >= MIN_SIDE]
        shrunk: dict[float, _ScaledPair] = {}
        for scale in scales:
            shrunk[scale] = _ScaledPair(self._small0, self._small1, scale, self._encoder)
            yield self._starts(shrunk[scale], quarters)
        if self._config.search.rotations == 8:
            for scale in scales:
                yield self._starts(shrunk[scale], range(45, 360, 90))

    def _starts(self, shrunk: _ScaledPair, rotations: range) -> list[PoseCandidate]:
        """Fits to the matches at each rotation, those with the most inliers first."""
        found = []
        for degrees in rotations:
            turned, upright = shrunk.view1.turned(degrees)
            matches = self._encoder.match(shrunk.features0, self._encoder.encode(turned))
            keep = matches.confidence >= self._config.search.min_confidence
            points0, points1 = (t[keep].cpu().double().numpy() for t in (matches.points0, matches.points1))
            points1 = transform_points(upright, points1)
            if math.isfinite(self._near):
                kept = np.linalg.norm(points1 - points0, axis=1) <= self._near
                points0, points1 = points0[kept], points1[kept]
            fit = fit_transform(points0, points1, model="similarity", threshold=self._config.search.inlier_threshold)
            if fit is None or self._config.acceptance.limits.violations(fit.matrix, shrunk.view0.size):
                continue
            matrix = compose(compose(shrunk.to_view0, fit.matrix), invert(shrunk.to_view1))
            found.append(PoseCandidate(int(fit.inliers.sum()), degrees, shrunk.scale, matrix))
        found.sort(key=lambda start: -start.support)
        here = [PoseCandidate(0, 0, 1.0, np.eye(3))] if math.isfinite(self._near) else []
        return found[: self._config.search.candidates] + here

    def _nearer(self, start: PoseCandidate) -> tuple[float, PoseCandidate]:
        """A start aligned at half the size, and what it gains there.

        A cell sees some 8 px around it: at half the size twice as far, as starts may be off.
        """
        matrix = compose(invert(self._to_half0), start.matrix)
        least = self._config.alignment.min_cells // 4
        pair = self._encoder.displacement_maps(self._half0, self._small1, matrix, self._known_half, least)
        if pair is None:
            return -math.inf, start
        found = align(*pair, "similarity", self._half0.size)
        step = compose(compose(self._to_half0, found.matrix), invert(self._to_half0))
        return found.log_likelihood_gain, start._replace(matrix=compose(step, start.matrix))


class _ScaledPair:
    """Both images with the finer one shrunk to the other's pixels, if ``scale`` is right; image0 looked at once."""

    def __init__(self, first: MaskedImage, second: MaskedImage, scale: float, encoder: TileEncoder) -> None:
        self.scale = scale
        self.view0, self.to_view0 = first.reduced(round(max(first.size) * min(1.0, scale)))
        self.view1, self.to_view1 = second.reduced(round(max(second.size) * min(1.0, 1 / scale)))
        self.features0 = encoder.encode(self.view0)
