"""Search the pose that an alignment begins from: both images small, image1 turned and scaled.

Each rotation and scale is one first look of the network, and a robust similarity through its matches, with a wide
threshold, since a similarity has neither shear nor perspective. Then the second look is asked about the best of a
scale: it warps by their matches, and its confidence tells a true pose from a chance one (0.01 between different places,
0.8 to 0.9 on true pairs). What each choice brought stands in ``weights/RECIPE.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from kornia_tar.conventions import CELL, MIN_SIDE
from kornia_tar.geometry import FloatArray, TransformModel, compose, fit_transform, invert, transform_points
from kornia_tar.network.net import Matches
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.config import RegistrarConfig

CLEAR = 2.0  # times the inliers of the next pose
# Of 120 pairs of different places, looked at as they are, one had as many inliers; of 40 true ones of `tar` 39 had.
WORTH_ASKING = 58  # inliers of the images as they are, from which the second look is asked before any turn is tried


class PoseCandidate(NamedTuple):
    """Where an alignment begins."""

    evidence: float  # inliers of the first look; of a second look the sum of its confidences' squares
    rotation: int  # degrees
    scale: float
    matrix: FloatArray  # (3, 3), image0 → image1
    agreement: float = 0.0  # mean confidence of the second look


def find_pose(
    first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: RegistrarConfig
) -> PoseCandidate | None:
    """Find the pose of which the network is surest, or None where no matches agree.

    Args:
        first: image0, at full size.
        second: image1.
        encoder: looks at them.
        config: which poses to try.

    Returns:
        the pose, its matrix in full pixels.
    """
    search = _Search(first, second, encoder, config)
    best = search.best()
    if best is None:
        return None
    return best._replace(matrix=compose(compose(search.to_small0, best.matrix), invert(search.to_small1)))


class _Search:
    """The search for one pair, in the pixels of both images made small."""

    def __init__(self, first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: RegistrarConfig) -> None:
        self._encoder, self._config, self._rules = encoder, config, config.search
        small0, self.to_small0 = first.reduced(config.search.side)
        small1, self.to_small1 = second.reduced(config.search.side)
        self._small0, self._small1 = small0, small1
        self._near = config.search.near * max(small0.size) / max(first.size) + CELL
        reduced = [max(small.size) / max(full.size) for small, full in ((small0, first), (small1, second))]
        told = self._rules.told_scale
        scales = self._rules.scales if told is None else (told * reduced[1] / reduced[0],)
        sides = min(*small0.size, *small1.size)
        self._scales = [scale for scale in scales if sides * min(scale, 1 / scale) >= MIN_SIDE]
        self._shrunk: dict[float, _ScaledPair] = {}
        self._full = _Pair(small0, small1, encoder, 1)

    @cached_property
    def _half(self) -> _Pair:
        return _Pair(self._small0, self._small1, self._encoder, 2)

    def best(self) -> PoseCandidate | None:
        """Return the pose with most evidence; the search ends early at one that is beyond doubt.

        The images as they are may be sure at once, or a pose that has far more inliers than the others. Else candidates
        of one scale are compared at half the size, where a cell sees twice as far, as poses may be off; the best of
        each is then asked about at full size: at once where half the size finds it likely, else when all are tried,
        for some right ones say no more than chance at half the size.
        """
        if self._encoder.looks_twice and (upright := self._upright()) is not None:
            return upright.pose
        best: _Candidate | None = None
        late: list[_Candidate] = []
        for candidates in self._first_looks():
            one = self._confirmed(candidates, late) if self._encoder.looks_twice else next(iter(candidates), None)
            best = max((c for c in (best, one) if c is not None), key=_evidence, default=None)
            if best is not None and best.pose.agreement >= self._rules.sure_agreement:
                return best.pose
        late.sort(key=_evidence, reverse=True)
        asked = [self._look_again(one, self._full) for one in late[: self._rules.late_candidates]]
        best = max((c for c in (best, *asked) if c is not None), key=_evidence, default=None)
        if best is not None and self._encoder.looks_twice and best.pose.agreement >= self._rules.hopeless_agreement:
            best = max(best, self._look_again(best, self._full), key=_evidence)
        return None if best is None else best.pose

    def _confirmed(self, candidates: list[_Candidate], late: list[_Candidate]) -> _Candidate | None:
        """Ask the second look about candidates of one scale; the best of those that are unlikely goes to ``late``."""
        if (clear := self._clear(candidates)) is not None:
            return clear
        nearer = (self._look_again(one, self._half) for one in candidates)
        one = max(nearer, key=_evidence, default=None)
        if one is None or one.pose.agreement >= self._rules.likely_agreement:
            return one and self._look_again(one, self._full)
        late.append(one)
        return None

    def _clear(self, candidates: list[_Candidate]) -> _Candidate | None:
        """Ask about the first candidate where it has far more inliers than the next; None unless it is sure."""
        if not candidates or any(CLEAR * _evidence(other) > _evidence(candidates[0]) for other in candidates[1:]):
            return None
        return self._sure(candidates[0])

    def _upright(self) -> _Candidate | None:
        """Ask about the images as they are, where chance does not explain their inliers; None unless that is sure."""
        found = self._poses(self._scaled(self._scales[0]), range(1))[:1] if self._scales else []
        return self._sure(found[0]) if found and _evidence(found[0]) >= WORTH_ASKING else None

    def _sure(self, one: _Candidate) -> _Candidate | None:
        """Ask the second look at full size; None unless it is sure."""
        seen = self._look_again(one, self._full)
        return seen if seen.pose.agreement >= self._rules.sure_agreement else None

    def _first_looks(self) -> Iterator[list[_Candidate]]:
        """Look at all quarter turns at one scale after the other, then at the diagonals, which are seldom needed."""
        quarters = range(0, 360, 90) if self._rules.rotations >= 4 else range(1)
        for scale in self._scales:
            yield self._poses(self._scaled(scale), quarters)
        if self._rules.rotations == 8:
            for scale in self._scales:
                yield self._poses(self._scaled(scale), range(45, 360, 90))

    def _scaled(self, scale: float) -> _ScaledPair:
        """Both images at one relative scale, the same object each time."""
        if scale not in self._shrunk:
            self._shrunk[scale] = _ScaledPair(self._small0, self._small1, scale, self._encoder, self._rules.first_side)
        return self._shrunk[scale]

    def _poses(self, shrunk: _ScaledPair, rotations: range) -> list[_Candidate]:
        """Fits to the matches at each rotation, those with the most inliers first, and the matches."""
        found, here = [], list[_Candidate]()
        for degrees in rotations:
            matches = shrunk.matches(degrees)
            points0, points1 = (t.cpu().double().numpy() for t in matches[:2])
            if math.isfinite(self._near):
                kept = torch.from_numpy(np.linalg.norm(points1 - points0, axis=1) <= self._near)
                matches = Matches(*(t[kept.to(t.device)] for t in matches))
                points0, points1 = points0[kept], points1[kept]
                here = [_Candidate(PoseCandidate(0.0, degrees, shrunk.scale, np.eye(3)), matches)]
            keep = (matches.confidence >= self._rules.min_confidence).cpu().numpy()
            threshold = self._rules.inlier_threshold * max(1.0, shrunk.scale)
            fit = fit_transform(points0[keep], points1[keep], model="similarity", threshold=threshold)
            if fit is None or self._config.acceptance.limits.violations(fit.matrix, self._small0.size):
                continue
            pose = PoseCandidate(float(fit.inliers.sum()), degrees, shrunk.scale, fit.matrix)
            found.append(_Candidate(pose, matches))
        found.sort(key=_evidence, reverse=True)
        return found[: self._rules.candidates] + here

    def _look_again(self, one: _Candidate, pair: _Pair) -> _Candidate:
        """Ask the second look about a pose, and fit the transform to its matches; no evidence where none fits."""
        to0, to1 = pair.to_pair0, pair.to_pair1
        seen = self._encoder.look_again(*pair.frames, moved(one.matches, to0, to1))
        seen = moved(seen, invert(to0), invert(to1))
        points0, points1, sure = (t.cpu().double().numpy() for t in seen[:3])
        model: TransformModel = "similarity" if self._config.model == "similarity" else "affine"
        fit = fit_transform(points0, points1, model=model, threshold=self._rules.inlier_threshold, weights=sure)
        if fit is None or self._config.acceptance.limits.violations(fit.matrix, self._small0.size):
            return one._replace(pose=one.pose._replace(evidence=0.0, agreement=0.0))
        pose = one.pose._replace(evidence=float((sure**2).sum()), agreement=float(sure.mean()), matrix=fit.matrix)
        return _Candidate(pose, seen)


class _Candidate(NamedTuple):
    """A pose and the matches that speak for it, in the small images' pixels."""

    pose: PoseCandidate
    matches: Matches


def _evidence(one: _Candidate) -> float:
    return one.pose.evidence


class _Pair:
    """Both small images, ``shrink`` times smaller, encoded upright."""

    def __init__(self, small0: MaskedImage, small1: MaskedImage, encoder: TileEncoder, shrink: int) -> None:
        view0, self.to_pair0 = small0.reduced(max(small0.size) // shrink)
        view1, self.to_pair1 = small1.reduced(max(small1.size) // shrink)
        self.frames = encoder.frame(view0), encoder.frame(view1)


def moved(matches: Matches, matrix0: FloatArray, matrix1: FloatArray) -> Matches:
    """Return the same matches in other pixels of both images."""
    points0, points1 = (
        torch.from_numpy(transform_points(matrix, points.cpu().double().numpy())).to(points)
        for matrix, points in ((matrix0, matches.points0), (matrix1, matches.points1))
    )
    return matches._replace(points0=points0, points1=points1)


class _ScaledPair:
    """Both images with the finer one shrunk to the other's pixels, if ``scale`` is right; first looks at them.

    A diagonal turn of image1 is a quarter turn of it, which is known by then, and one of image0 by 45° the other way:
    one image to encode instead of four, unless image0 is the larger one.
    """

    def __init__(
        self, first: MaskedImage, second: MaskedImage, scale: float, encoder: TileEncoder, side: int
    ) -> None:  # fmt: skip
        self.scale, self._encoder = scale, encoder
        shrink = min(1.0, side / max(*first.size, *second.size))
        self._view0, self._to_view0 = first.reduced(round(max(first.size) * shrink * min(1.0, scale)))
        self._view1, self._to_view1 = second.reduced(round(max(second.size) * shrink * min(1.0, 1 / scale)))
        self._known: dict[int, Matches] = {}

    def matches(self, degrees: int) -> Matches:
        """Match the images with image1 turned by so many degrees; in the pixels of the images as they were given."""
        if degrees not in self._known:
            tilt = degrees % 90 if self._view0.image.size <= self._view1.image.size else 0
            turned0, upright0 = self._view0.turned(-tilt % 360)
            turned1, upright1 = self._view1.turned(degrees - tilt)
            found = self._encoder.match(self._encoder.to_match(turned0), self._encoder.to_match(turned1))
            ways = (upright0, self._to_view0), (upright1, self._to_view1)
            self._known[degrees] = moved(found, *(compose(upright, invert(to_view)) for upright, to_view in ways))
        return self._known[degrees]
