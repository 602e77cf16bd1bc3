"""Matchers by name, each also from a rotation search: ``aliked@4`` is the best of four turns, ``aliked@8`` of eight.

The registrar tries the same turns. "Large deformation" is then not won by a search that the others were denied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from eval import peers
from eval.benchmark import metrics
from eval.peers import Image, Matcher, Matches
from kornia_tar.geometry import transform_points
from kornia_tar.raster.view import MaskedImage

TURNS = (4, 8)
INLIER_PIXELS = 3.0
HELP = "  <matcher>@4, <matcher>@8, the same matcher from a rotation search: the best of 4 or 8 turns of image1"


class Turned:
    """A matcher that sees image1 at several turns and keeps the matches of the best one.

    The turns are the registrar's: counter-clockwise, nothing cut off, zeros in the corners that a diagonal opens. The
    best has the most inliers of the estimator that all matchers share, at the level's model and 3 px; the first of
    equal ones counts. Of a matcher that hands over one transform all points are inliers, whatever it found; the mean of
    its confidence decides.

    Args:
        matcher: the matcher; its attribute ``one_transform``, where it has one, says that it is of the latter kind.
        turns: 4, or 8 with the diagonals.
    """

    def __init__(self, matcher: Matcher, turns: int) -> None:
        self._matcher, self._turns = matcher, turns
        self._by_confidence = bool(getattr(matcher, "one_transform", False))
        self.name = f"{matcher.name}, best of {turns} turns"
        self.parameters = matcher.parameters
        judge = "confidence" if self._by_confidence else f"inliers at {INLIER_PIXELS:g} px"
        self.settings = f"{matcher.settings}, best of {turns} turns by {judge}"

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match at every turn; the points of the best one come back in the upright image1."""
        model: metrics.Model = "homography" if hints.get("model") == "homography" else "affine"
        best, most = None, -1.0
        for degrees in range(0, 360, 360 // self._turns):
            found = self._at(degrees, image0, image1, hints)
            support = self._support(found, model)
            if best is None or support > most:
                best, most = found, support
        return cast(Matches, best)

    def _at(self, degrees: int, image0: Image, image1: Image, hints: dict[str, str]) -> Matches:
        if degrees == 0:  # not even a copy: what the matcher says without this search
            return self._matcher.match(image0, image1, **hints)
        turned, back = turn(image1, degrees)
        found = self._matcher.match(image0, turned, **hints)
        upright = transform_points(back, found.points1).astype(np.float32)
        return replace(found, points1=upright).on_images(image0, image1)

    def _support(self, found: Matches, model: metrics.Model) -> float:
        if not len(found.points0):
            return 0.0
        if self._by_confidence:
            return float(found.confidence.mean())
        matrix = metrics.estimate(found.points0, found.points1, model)
        if matrix is None:
            return 0.0
        return float((metrics.match_errors(found.points0, found.points1, matrix) < INLIER_PIXELS).sum())


def turn(image: Image, degrees: int) -> tuple[Image, metrics.Array]:
    """Turn an image counter-clockwise as the registrar does, and return it with the matrix back to upright pixels."""
    valid = np.ones(image.shape[:2], bool)
    bands = [image] if image.ndim == 2 else list(np.moveaxis(image, -1, 0))
    turned = [MaskedImage(band, valid, None).turned(degrees) for band in bands]
    pixels = [view.image for view, _ in turned]
    if pixels[0].dtype != np.uint8:  # a diagonal resamples, to floats in [0, 1]
        pixels = [np.rint(255 * band).astype(np.uint8) for band in pixels]
    return pixels[0] if image.ndim == 2 else np.stack(pixels, axis=-1), turned[0][1]


def split(name: str) -> tuple[str, int]:
    """Split ``<matcher>@<turns>`` into both; 1 turn where there is no ``@``.

    Raises:
        ValueError: when the turns are neither 4 nor 8.
    """
    matcher, at, turns = name.partition("@")
    if not at:
        return name, 1
    if turns not in map(str, TURNS):
        raise ValueError(f"matcher {name!r}: turns are {turns or 'missing'}; ask for {matcher}@4 or {matcher}@8")
    return matcher, int(turns)


def check(names: Sequence[str]) -> None:
    """Raise ValueError for the first name that is no matcher's, before any is built."""
    for name in names:
        peers.check(split(name)[0])


def create(name: str, weights: Path, checkpoint: Path | None = None, *, download: bool = False) -> Matcher:
    """Build a matcher by its name, such as ``aliked`` or ``aliked@4``; the rest as :func:`eval.peers.create`."""
    matcher, turns = split(name)
    built = peers.create(matcher, weights, checkpoint, download=download)
    return built if turns == 1 else Turned(built, turns)
