"""The grid on which two georeferenced images are compared: image0's axes, the coarser image's ground distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.geometry import FloatArray, invert, transform_points
from kornia_tar.raster.georeference import Georeference, mean_distance, metres, pixel_map
from kornia_tar.raster.resample import resample
from kornia_tar.raster.view import MaskedImage

COARSER = 1.5  # times image0's ground sampling distance, from which the grid takes image1's
MUCH_COARSER = 3.0  # from which image0 shows so much more that image1 is worth magnifying twice
SQUARE = 1.1  # ratio of a pixel's sides, up to which image0's pixels are left as they are
SLACK = 0.05  # px of the grid, that may be lost at its edges rather than a row be added
LEAST_RADIUS = 200.0  # m
LEAST_RADIUS_PX = 50.0  # px of the coarser image: 500 m at 10 m
RADIUS_SHARE = 0.1  # of the longer side of the common area


@dataclass(frozen=True)
class CommonGrid:
    """The common area of two images, widened by the search radius, on square pixels.

    Attributes:
        first: image0's georeference.
        second: image1's.
        to_grid: (3, 3), px of image0 → px of the grid; a shift and a scale.
        size: (H, W) of the grid.
        distance: m, of a pixel of the grid.
        radius: m, how far image1 may lie from where its georeference says.
        share: length of the smaller image's longer side in the grid over the grid's own.
    """

    first: Georeference
    second: Georeference
    to_grid: FloatArray
    size: tuple[int, int]
    distance: float
    radius: float
    share: float

    @classmethod
    def of(cls, first: Georeference, second: Georeference, radius: float | None = None) -> CommonGrid:
        """Lay out the grid.

        Args:
            first: image0's georeference.
            second: image1's.
            radius: m; None for one that fits the data: 50 px of the coarser image, a tenth of the common area's side,
                or 200 m, whichever is largest.

        Raises:
            ValueError: the georeferences say that the two show different ground, or their ground is too small for it.
        """
        own, other = first.ground_distance(), second.ground_distance()
        coarser = max(mean_distance(own), mean_distance(other))
        distance = _grid_distance(mean_distance(own), coarser)
        # Their own pixels where possible: image0 is not resampled then.
        square = max(own) <= SQUARE * min(own) and distance < 1.01 * mean_distance(own)
        scale = np.ones(2) if square else np.array(own) / distance
        box0 = np.stack([np.full(2, -0.5), np.array(first.size[::-1]) * scale - 0.5])
        seen = pixel_map(second, first)(second.spread_points())
        seen = seen[np.isfinite(seen).all(axis=1)]
        if not len(seen):
            raise ValueError("image1's georeference leads nowhere near image0")
        seen = (seen + 0.5) * scale - 0.5
        box1 = np.stack([seen.min(0), seen.max(0)])
        sides = np.minimum(box0[1], box1[1]) - np.maximum(box0[0], box1[0])
        common, longer = float(sides.min()), float(sides.max()) if sides.min() > 0 else 0.0
        if radius is None:
            radius = max(LEAST_RADIUS, LEAST_RADIUS_PX * coarser, RADIUS_SHARE * longer * distance)
        wide = radius / distance
        low = np.maximum(np.maximum(box0[0], box1[0]) - wide, np.minimum(box0[0], box1[0]))
        high = np.minimum(np.minimum(box0[1], box1[1]) + wide, np.maximum(box0[1], box1[1]))
        start, stop = np.floor(low + 0.5 + SLACK).astype(int), np.ceil(high + 0.5 - SLACK).astype(int)
        if (stop - start < MIN_SIDE).any():
            raise ValueError(_apart(first, second, common, radius, distance))
        to_grid = np.diag([*scale, 1.0])
        to_grid[:2, 2] = (scale - 1) / 2 - start
        size = int(stop[1] - start[1]), int(stop[0] - start[0])
        longest = min(float((box[1] - box[0]).max()) for box in (box0, box1))
        return cls(first, second, to_grid, size, distance, radius, min(1.0, longest / max(size)))

    def to_first(self, points: ArrayLike) -> FloatArray:
        """Map the grid's pixels (N, 2) to image0's."""
        return transform_points(invert(self.to_grid), points)

    def to_second(self, points: ArrayLike) -> FloatArray:
        """Map the grid's pixels (N, 2) to image1's, as the georeferences claim."""
        return pixel_map(self.first, self.second)(self.to_first(points))

    @property
    def finer(self) -> float:
        """Pixels of image1 for one of the grid, along a line."""
        x, y = (self.size[1] - 1) / 2, (self.size[0] - 1) / 2
        ends = self.to_second([[x + 0.5, y], [x, y + 0.5], [x - 0.5, y], [x, y - 0.5]])
        return math.sqrt(abs(np.linalg.det(ends[:2] - ends[2:])))

    def views(self, first: MaskedImage, second: MaskedImage) -> tuple[MaskedImage, MaskedImage]:
        """Bring image0 and image1 to the grid.

        Raises:
            ValueError: the georeferences are not defined all over it.
        """
        return resample(first, self.to_first, self.size), resample(second, self.to_second, self.size)


def _grid_distance(own: float, coarser: float) -> float:
    """Metres between the grid's pixels, for image0's own distance and the coarser image's."""
    if coarser <= COARSER * own:
        return own
    return coarser if coarser <= MUCH_COARSER * own else coarser / 2


def _apart(first: Georeference, second: Georeference, common: float, radius: float, distance: float) -> str:
    """What to say of images without enough common ground."""
    if common > 0:
        return f"the common ground by the georeferences is only {common * distance:.0f} m wide"
    way = metres(first.to_lonlat([first.centre]), second.to_lonlat([second.centre]))[0]
    return (
        f"the georeferences do not overlap: image1's middle lies {np.hypot(*way) / 1000:.1f} km from image0's, and "
        f"{radius:.0f} m are searched"
    )
