"""Both images of a registration, as small as they are drawn as a whole."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry import DisplacementField, FloatArray, Transform, invert, valid_mask, warp_image
from kornia_tar.raster import Raster, to_rgb8
from kornia_tar.raster.view import shrunk

LONGEST = 2048  # px of a side


class Thumbnails(NamedTuple):
    """Two images made smaller by one whole number, 1 for all that are not large.

    Attributes:
        image0: (h, w, 3) uint8.
        image1: (h1, w1) uint8, as the matcher saw it.
        mask1: (h1, w1) bool, True where valid.
        step: pixels of an image along a side that are one here.
    """

    image0: NDArray[np.uint8]
    image1: NDArray[np.uint8]
    mask1: NDArray[np.bool_]
    step: int

    @classmethod
    def of(cls, first: Raster, second: Raster, grey1: NDArray[np.uint8]) -> Thumbnails:
        """Make the thumbnails of image0 and image1, the latter as the matcher saw it, too: ``grey1``."""
        step = math.ceil(max(*first.size, *second.size) / LONGEST)
        if step == 1:
            return cls(to_rgb8(first), grey1, second.mask, 1)
        height, width = (length // step for length in second.size)
        cut = slice(0, height * step), slice(0, width * step)
        image1 = np.rint(255 * shrunk(grey1[cut], (width, height))).astype(np.uint8)
        return cls(to_rgb8(first, step), image1, shrunk(second.mask[cut], (width, height)) > 0.5, step)

    def points(self, points: ArrayLike) -> FloatArray:
        """Map pixels (N, 2) of an image to those of its thumbnail."""
        return (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) / self.step - 0.5

    def warped(self, transform: Transform) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """image1 in the thumbnail of image0's frame by a transform between the images, and where it is valid."""
        small = (1 / self.step - 1) / 2
        to_small = np.array([[1 / self.step, 0, small], [0, 1 / self.step, small], [0, 0, 1]])
        field = transform.field
        if field is not None:
            (x, y), (across, down) = self.points(field.origin)[0], field.spacing
            field = DisplacementField((x, y), (across / self.step, down / self.step), field.shift / self.step)
        way = Transform(to_small @ transform.matrix @ invert(to_small), field)
        size = self.image0.shape[0], self.image0.shape[1]
        return warp_image(self.image1, way, size), valid_mask(self.mask1, way, size)
