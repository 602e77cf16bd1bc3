"""CommonGround: the parts of two images that show the same ground, cut out for an alignment, and the way back.

A chip has few cells of its own, and where the other image is reduced to one tile it would keep a handful of them. Cut
to what both show, the two are a pair as any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kornia_tar.geometry import FloatArray, Transform, compose, image_corners, invert, transform_points
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.result import Registration

MARGIN = 0.1  # of the ground's longer side, left around it: the pose that tells it is a rough one


@dataclass(frozen=True)
class CommonGround:
    """The parts of two images around what both show.

    Attributes:
        first: part of image0.
        second: part of image1.
        to_first: (3, 3), px of image0 → px of its part; a shift.
        to_second: (3, 3), likewise of image1.
        size: (H, W) of image0.
    """

    first: MaskedImage
    second: MaskedImage
    to_first: FloatArray
    to_second: FloatArray
    size: tuple[int, int]

    @classmethod
    def of(cls, first: MaskedImage, second: MaskedImage, matrix: FloatArray) -> CommonGround:
        """Cut both images to what both show under ``matrix`` (3, 3), image0 → image1, roughly right."""
        first_part, to_first = _shown(first, second, invert(matrix))
        second_part, to_second = _shown(second, first, matrix)
        return cls(first_part, second_part, to_first, to_second, first.size)

    def inward(self, matrix: FloatArray) -> FloatArray:
        """Turn a matrix between the images into one between the parts."""
        return compose(compose(invert(self.to_first), matrix), self.to_second)

    def outward(self, outcome: Registration) -> Registration:
        """Turn a registration of the parts into one of the images; errors stay those at the parts' corners."""
        if outcome.transform is None:
            return outcome
        whole, back = outcome.transform.after(self.to_first, self.size), invert(self.to_second)
        transform, m = Transform(compose(whole.matrix, back), whole.field), outcome.matches
        points0, points1 = (
            transform_points(invert(matrix), points)
            for matrix, points in ((self.to_first, m.points0), (self.to_second, m.points1))
        )
        matches, held = replace(m, points0=points0, points1=points1), outcome.held_out
        if held is not None:
            places = transform_points(invert(self.to_first), held.places.reshape(-1, 2))
            held = replace(held, places=places.reshape(held.places.shape))
        return replace(outcome, matrix=transform.matrix, field=transform.field, matches=matches, held_out=held)


def _shown(own: MaskedImage, other: MaskedImage, to_own: FloatArray) -> tuple[MaskedImage, FloatArray]:
    """The part of an image around what another one shows, and the matrix from the image's pixels to the part's."""
    corners = transform_points(to_own, image_corners(other.size)).clip(0, np.array(own.size[::-1]) - 1)
    margin = MARGIN * float(np.ptp(corners, axis=0).max())
    return own.part(corners.min(0) - margin, corners.max(0) + margin)
