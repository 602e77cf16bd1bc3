"""Windows at full resolution, where a registration fits best, middling and worst."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import FloatArray
from kornia_tar.outputs.drawing import Picture, checkerboard, to_rgb
from kornia_tar.registration.result import Registration

SHOWN = (240, 400)  # px of a window once it is magnified, at most
ROOM = 6  # windows that the common ground should have room for: they are magnified until it has
MAX_MAGNIFY = 8
FEWEST_BLOCKS, FEWEST_POINTS = 3, 4  # held-out blocks to go by, and tie points of a region
COVERED = (0.95, 0.5)  # share of a window that both images show; the second where no place has the first
STEPS = np.array(sorted(np.ndindex(5, 5), key=lambda step: (step[0] - 2) ** 2 + (step[1] - 2) ** 2)) / 4 - 0.5


class Window(NamedTuple):
    """A part of image0's frame."""

    name: str  # "best", "middling" or "worst"; "here" of one alone
    rows: slice
    columns: slice
    magnify: int  # px to draw for one of image0
    error: float  # px of image1
    points: int  # tie points whose median residual the error is; 0 where it is a held-out block's

    @property
    def middle(self) -> tuple[float, float]:
        """(x, y) px of image0."""
        return (self.columns.start + self.columns.stop - 1) / 2, (self.rows.start + self.rows.stop - 1) / 2

    @property
    def measure(self) -> str:
        """What the error is, in words."""
        return f"median residual of {self.points} tie points" if self.points else "error of a held-out block"

    def cut(self, image0: Picture, registered: Picture, shown: NDArray[np.bool_]) -> tuple[Picture, Picture, Picture]:
        """Cut out image0, the registered image1 and a checkerboard of both, not magnified.

        Args:
            image0: (H, W) or (H, W, 3).
            registered: likewise, image1 in image0's frame.
            shown: (H, W) bool, where that holds data.
        """
        one, other = (to_rgb(part[self.rows, self.columns]) for part in (image0, registered))
        return one, other, checkerboard(one, other, shown[self.rows, self.columns])


class Region(NamedTuple):
    """A part of the ground, and how well it fits."""

    middle: tuple[float, float]  # (x, y) px of image0
    reach: tuple[float, float]  # px to either side of it
    error: float  # px of image1
    points: int  # see Window


def find_windows(outcome: Registration, shown: NDArray[np.bool_]) -> list[Window]:
    """Choose the places where a transform fits best, middling and worst.

    By the held-out blocks, where at least three tell a place, else by the tie points' residuals. No two overlap.

    Args:
        outcome: what the registrar says.
        shown: (H, W) bool, image0's pixels that both images show by its transform.

    Returns:
        the best first; three, fewer where there is no room, none where nothing tells how well it fits.
    """
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    if outcome.transform is None or not len(rows):
        return []
    box = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    magnify, size = _window_size(box)
    regions = sorted(_held_out(outcome) or _by_tie_points(outcome, size), key=lambda region: region.error)
    total = np.asarray(cv2.integral(shown.astype(np.uint8)), np.int32)
    found: dict[int, tuple[int, int]] = {}  # (top, left) by the rank of the region
    ranks = range(len(regions))
    for order in (ranks[::-1], ranks, sorted(ranks, key=lambda rank: abs(rank - (len(regions) - 1) / 2))):
        place = next(_places(order, regions, found, size, total), None)
        if place is not None:
            found[place[0]] = place[1]
    names = {1: ("here",), 2: ("best", "worst")}.get(len(found), ("best", "middling", "worst"))
    return [
        Window(
            name, slice(top, top + size[0]), slice(left, left + size[1]), magnify, regions[rank].error,
            regions[rank].points,
        )
        for name, (rank, (top, left)) in zip(names, sorted(found.items()), strict=False)
    ]  # fmt: skip


def _window_size(box: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """The magnification, and (rows, columns) of a window, on common ground of (rows, columns)."""
    for magnify in range(1, MAX_MAGNIFY + 1):
        size = min(box[0], SHOWN[0] // magnify), min(box[1], SHOWN[1] // magnify)
        if (box[0] // size[0]) * (box[1] // size[1]) >= ROOM:
            break
    return magnify, size


def _held_out(outcome: Registration) -> list[Region]:
    """The blocks that were held out; none where hardly one tells a place."""
    held = outcome.held_out
    if held is None:
        return []
    errors, places = np.linalg.norm(held.blocks, axis=2), held.places
    known = np.isfinite(errors)
    if known.sum() < FEWEST_BLOCKS:
        return []
    reach = np.ptp(places.reshape(-1, 2), axis=0) / (np.array(errors.shape[::-1]) - 1).clip(1) / 2
    return [
        Region((float(x), float(y)), (float(reach[0]), float(reach[1])), float(error), 0)
        for (x, y), error in zip(places[known], errors[known], strict=True)
    ]


def _by_tie_points(outcome: Registration, size: tuple[int, int]) -> list[Region]:
    """Regions of a window's size with the median residual of their tie points."""
    assert outcome.transform is not None
    points = outcome.matches.points0
    residuals = np.linalg.norm(outcome.transform(points) - outcome.matches.points1, axis=1)
    return [
        Region((float(x), float(y)), (size[1] / 2, size[0] / 2), float(np.median(residuals[members])), len(members))
        for members in in_blocks(points, size, FEWEST_POINTS)
        for x, y in [points[members].mean(axis=0)]
    ]


def in_blocks(points: FloatArray, size: tuple[int, int], fewest: int) -> list[NDArray[np.intp]]:
    """Sort points (N, 2) into blocks of (rows, columns) px; the indices of each that has at least ``fewest``."""
    if not len(points):
        return []
    block = np.floor((points + 0.5) / size[::-1]).astype(np.int64)
    _, number, count = np.unique(block, axis=0, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(number.ravel(), kind="stable"), np.cumsum(count)[:-1])
    return [rows for rows in members if len(rows) >= fewest]


def _places(
    order: Iterable[int], regions: list[Region], found: dict[int, tuple[int, int]], size: tuple[int, int],
    total: NDArray[np.int32],
) -> Iterator[tuple[int, tuple[int, int]]]:  # fmt: skip
    """Ranks of regions in turn with (top, left) of a window apart from those found; the well covered ones first.

    ``total`` (H + 1, W + 1) is the integral of what is shown.
    """
    most = np.array(total.shape[::-1]) - 1 - size[::-1]
    for least in COVERED:
        for rank in order:
            if rank in found:
                continue
            region = regions[rank]
            for step in STEPS:
                corner = region.middle + step * 2 * region.reach - (np.array(size[::-1]) - 1) / 2
                left, top = (int(v) for v in np.clip(np.rint(corner), 0, most))
                bottom, right = top + size[0], left + size[1]
                seen = int(total[bottom, right]) - total[top, right] - total[bottom, left] + total[top, left]
                apart = all(abs(top - t) >= size[0] or abs(left - c) >= size[1] for t, c in found.values())
                if apart and seen >= least * size[0] * size[1]:
                    yield rank, (top, left)
