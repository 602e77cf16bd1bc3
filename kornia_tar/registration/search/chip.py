"""Search where a chip lies: an image that shows a part of what the other one shows, however small it was resampled.

For each relative scale the image that covers less ground is the chip. Both are reduced to one ground sampling distance;
the large one is encoded once, and the chip, at every turn, is matched with one window of its cells after the other: in
a window there are few cells to be mistaken for each other. Then the second look is asked about the windows with the
most inliers, as in ``pose``: once, for a chip has so few cells that asked again it comes to believe in any place. Of
the window that it is surest of it is asked again, for the place alone; the confidence stays that of the first time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.conventions import CELL, MIN_SIDE
from kornia_tar.geometry import FloatArray, compose, fit_transform, image_corners, invert, transform_points
from kornia_tar.network.frames import Frame, ImageFeatures, Matches
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.config import RegistrarConfig
from kornia_tar.registration.search.pose import PoseCandidate, moved

LEAST_RATIO = 1.5  # of the sides of the ground, below which the ordinary search sees both whole
MOST_RATIO = 12.0  # beyond it a chip is a needle in a haystack
CHIP_SIDE, LARGE_SIDE = 192, 1152  # px, longest sides of what the network is shown; the chip's gives way
MOST_WIDE_RATIO, WIDE_LARGE_SIDE = 4.0, 384  # the same at scales far from 1, which few pairs have and all would pay for
WINDOW, STEP = 1.5, 0.75  # sides of the chip
CANDIDATES = 3  # of one scale, that the second look is asked about
SURE = 0.45  # what the second look must say of a place for no other scale to be tried; of wrong ones it said 0.32
MARGIN = 0.1  # of the chip's side, around the ground that the second look is shown


def find_chip(
    first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: RegistrarConfig
) -> PoseCandidate | None:
    """Find the place of the smaller ground in the larger one, or None where no matches agree.

    Args:
        first: image0, at full size.
        second: image1.
        encoder: looks at them; its weights have a second look.
        config: which rotations and scales to try.

    Returns:
        the pose, its matrix in full pixels.
    """
    best: tuple[_Slide, _Asked] | None = None
    slides = list(_slides(first, second, encoder, config))
    quarters = range(0, 360, 90) if config.search.rotations >= 4 else range(1)
    looks = [(slide, quarters) for slide in slides]
    if config.search.rotations == 8:
        likeliest = config.search.told_scale or config.search.scales[0]
        looks += [(slide, range(45, 360, 90)) for slide in slides if slide.scale == likeliest]
    for slide, rotations in looks:
        for place in slide.best(rotations):
            asked = slide.asked(place)
            if asked is not None and (best is None or asked.agreement > best[1].agreement):
                best = slide, asked
        if best is not None and best[1].agreement >= SURE:
            break
    return None if best is None else best[0].confirmed(best[1])


def _slides(
    first: MaskedImage, second: MaskedImage, encoder: TileEncoder, config: RegistrarConfig
) -> Iterator[_Slide]:  # fmt: skip
    """The chip and the large image at each relative scale, where one is much smaller than the other."""
    told = config.search.told_scale
    for scale in (*config.search.scales, *config.search.wide_scales) if told is None else (told,):
        sides = max(first.size) * scale, max(second.size)  # of the ground, px of image1
        ratio = max(sides) / min(sides)
        wide = told is None and scale not in config.search.scales
        if LEAST_RATIO <= ratio <= (MOST_WIDE_RATIO if wide else MOST_RATIO):
            side = min(CHIP_SIDE, (WIDE_LARGE_SIDE if wide else LARGE_SIDE) / ratio)
            yield _Slide(first, second, scale, sides[0] > sides[1], side, encoder, config)


class _Place(NamedTuple):
    """A window where matches agree, in full pixels of chip and large image."""

    inliers: int
    rotation: int
    matrix: FloatArray  # chip → large
    matches: Matches  # that agree


class _Asked(NamedTuple):
    """What the second look said of a place."""

    agreement: float  # mean confidence of the cells within
    rotation: int
    matrix: FloatArray  # chip → large, full pixels
    seen: Matches  # in the pixels of the frames
    frames: tuple[Frame, Frame]  # chip, and the ground that it would show
    size: tuple[int, int]  # of the chip's frame
    ways: tuple[FloatArray, FloatArray]  # from full pixels to those of the frames


class _Slide:
    """A chip on its way over a large image, both at one ground sampling distance if ``scale`` is right."""

    def __init__(
        self, first: MaskedImage, second: MaskedImage, scale: float, swapped: bool, side: float, encoder: TileEncoder,
        config: RegistrarConfig,
    ) -> None:  # fmt: skip
        self.scale, self._swapped = scale, swapped
        self._encoder, self._config = encoder, config
        self._full_chip, self._full_large = (second, first) if swapped else (first, second)
        self._finer = 1 / scale if swapped else scale  # px of the large image for one of the chip
        self._chip, self._to_chip, self._large, self._to_large = self._alike(self._full_large, max(MIN_SIDE, side))

    @cached_property
    def _windows(self) -> list[tuple[slice, slice, ImageFeatures]]:
        """Rows, columns and features of every window of the large image."""
        features = self._encoder.encode(self._large)
        cells = round(WINDOW * max(self._chip.size) / CELL)
        rows, columns = (_windows(length, cells) for length in features.coarse.shape[2:])
        return [(row, column, self._encoder.within(features.window(row, column))) for row in rows for column in columns]

    def _alike(self, large: MaskedImage, side: float) -> tuple[MaskedImage, FloatArray, MaskedImage, FloatArray]:
        """The chip, at most ``side`` px long, and the large image, or its part, at one ground sampling distance.

        Each with the matrix from its full pixels; neither is magnified.
        """
        longest = max(self._full_chip.size)
        factor = min(side / longest, 1.0, self._finer)
        chip, to_chip = self._full_chip.reduced(round(factor * longest))
        return chip, to_chip, *large.reduced(round(factor / self._finer * max(large.size)))

    def best(self, rotations: range) -> list[_Place]:
        """Return the places with most inliers, at one turn and within half a chip the best alone."""
        found = sorted(self._places(rotations), key=lambda place: -place.inliers)
        kept: list[tuple[_Place, FloatArray]] = []
        middle = [[(length - 1) / 2 for length in self._full_chip.size[::-1]]]
        near = 0.5 * max(self._chip.size) * max(self._full_large.size) / max(self._large.size)
        for place in found:
            at = transform_points(place.matrix, middle)[0]
            if all(np.linalg.norm(at - there) > near or place.rotation != one.rotation for one, there in kept):
                kept.append((place, at))
            if len(kept) == CANDIDATES:
                break
        return [place for place, _ in kept]

    def _places(self, rotations: range) -> Iterator[_Place]:
        """Match the chip with every window."""
        rules = self._config.search
        for degrees in rotations:
            turned, upright = self._chip.turned(degrees)
            chip = self._encoder.to_match(turned)
            for row, column, window in self._windows:
                matches = self._encoder.match(chip, window)
                corner = np.array([[1.0, 0, CELL * column.start], [0, 1, CELL * row.start], [0, 0, 1]])
                matches = moved(matches, upright, corner)
                points0, points1 = (t.cpu().double().numpy() for t in matches[:2])
                fit = fit_transform(points0, points1, model="similarity", threshold=rules.inlier_threshold)
                if fit is None:
                    continue
                matrix = compose(compose(self._to_chip, fit.matrix), invert(self._to_large))
                if not self._config.acceptance.limits.violations(matrix, self._full_chip.size):
                    agree = Matches(*(t[torch.from_numpy(fit.inliers).to(t.device)] for t in matches))
                    agree = moved(agree, invert(self._to_chip), invert(self._to_large))
                    yield _Place(len(agree.points0), degrees, matrix, agree)

    def asked(self, place: _Place) -> _Asked | None:
        """Ask the second look about a place, on the ground that the chip would show; None where nothing fits."""
        ground, to_ground = self._ground(place.matrix)
        chip, to_chip, large, to_large = self._alike(ground, self._config.search.side)
        to_large = compose(to_ground, to_large)
        frames = self._encoder.frame(chip), self._encoder.frame(large)
        seen = self._encoder.look_again(*frames, moved(place.matches, to_chip, to_large))
        return self._fitted(_Asked(0.0, place.rotation, np.eye(3), seen, frames, chip.size, (to_chip, to_large)))

    def confirmed(self, one: _Asked) -> PoseCandidate:
        """Ask again from what was said: windows lead the second look less far than a whole image does.

        The agreement stays that of the first time.
        """
        again = self._fitted(one._replace(seen=self._encoder.look_again(*one.frames, one.seen))) or one
        matrix = invert(again.matrix) if self._swapped else again.matrix
        return PoseCandidate(0.0, one.rotation, self.scale, matrix, one.agreement)

    def _fitted(self, one: _Asked) -> _Asked | None:
        """The affine transform of what was seen, chip → large in full pixels, and how sure the cells within are."""
        (to_chip, to_large), threshold = one.ways, self._config.search.inlier_threshold
        points0, points1, sure = (t.cpu().double().numpy() for t in one.seen[:3])
        fit = fit_transform(points0, points1, model="affine", threshold=threshold, weights=sure)
        if fit is None:
            return None
        inside = _within(transform_points(invert(fit.matrix), points1), one.size)  # around it nothing can agree
        matrix = compose(compose(to_chip, fit.matrix), invert(to_large))
        if self._config.acceptance.limits.violations(matrix, self._full_chip.size):
            return None
        return one._replace(agreement=float(sure[inside].mean()) if inside.any() else 0.0, matrix=matrix)

    def _ground(self, matrix: FloatArray) -> tuple[MaskedImage, FloatArray]:
        """The part of the large image that the chip would show, and the matrix from the image's pixels to its own."""
        corners = transform_points(matrix, image_corners(self._full_chip.size))
        margin = MARGIN * float(np.ptp(corners, axis=0).max())
        return self._full_large.part(corners.min(0) - margin, corners.max(0) + margin)


def _within(points: FloatArray, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which of (N, 2) points lie in an image of ``size`` (H, W)."""
    inside = (points >= -0.5) & (points <= np.array(size[::-1]) - 0.5)
    return np.asarray(inside.all(axis=1), bool)


def _windows(length: int, side: int) -> list[slice]:
    """Cover ``length`` cells by windows of ``side``, one step apart or less."""
    if length <= side:
        return [slice(0, length)]
    count = math.ceil((length - side) / (side * STEP / WINDOW)) + 1
    return [slice(start, start + side) for start in np.linspace(0, length - side, count).round().astype(int).tolist()]
