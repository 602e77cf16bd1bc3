"""An image on its way to the matcher, at any size, turn, warp and part; masks go with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.geometry import FloatArray, Transform, decompose, invert, valid_mask, warp_image
from kornia_tar.raster.stretch import to_grey

Mask = NDArray[np.bool_] | None


@dataclass(frozen=True)
class MaskedImage:
    """An image on its way to the matcher: (H, W) float32 in [0, 1], its validity and modality."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    modality: str | None

    @classmethod
    def of(cls, image: NDArray[Any], mask: Mask, modality: str | None, name: str) -> MaskedImage:
        """Check an image (H, W) or (H, W, 3), uint8 or float in [0, 1]; errors call it ``name``."""
        pixels = np.asarray(image)
        if pixels.dtype == np.uint8:
            pixels = pixels.astype(np.float32) / 255
        elif pixels.dtype.kind != "f":
            raise TypeError(f"{name} must be uint8 or float in [0, 1], got {pixels.dtype}")
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            pixels = to_grey(pixels.astype(np.float32))
        if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE:
            raise ValueError(
                f"{name} has shape {np.shape(image)}, need (H, W) or (H, W, 3) with sides of {MIN_SIDE} px"
            )
        valid = np.ones(pixels.shape, bool) if mask is None else np.asarray(mask, bool)
        if valid.shape != pixels.shape:
            raise ValueError(f"the mask of {name} has shape {valid.shape}, need {pixels.shape}")
        if not np.isfinite(pixels[valid]).all():
            raise ValueError(f"{name} holds NaN or Inf: mask them")
        return cls(np.where(valid, pixels, 0).astype(np.float32), valid, modality)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def flat(self) -> bool:
        """Whether all valid pixels are alike; not where there are none."""
        valid = self.image[self.mask]
        return valid.size > 0 and float(np.ptp(valid)) < 1e-6

    def reduced(self, side: int) -> tuple[MaskedImage, FloatArray]:
        """At most ``side`` pixels long, and the matrix from full to reduced pixels."""
        height, width = self.size
        factor = min(1.0, side / max(height, width))
        target = max(MIN_SIDE, round(width * factor)), max(MIN_SIDE, round(height * factor))
        sx, sy = target[0] / width, target[1] / height
        matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        if factor == 1 and target == (width, height):
            return self, matrix
        image = cv2.resize(self.image, target, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(self.mask.astype(np.float32), target, interpolation=cv2.INTER_AREA) > 0.99
        return MaskedImage(image.astype(np.float32), mask, self.modality), matrix

    def enlarged(self, factor: float) -> tuple[MaskedImage, FloatArray]:
        """``factor`` times as large, and the matrix from its own to the enlarged pixels, a similarity."""
        size = math.ceil(self.size[0] * factor), math.ceil(self.size[1] * factor)
        matrix = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
        return self.warped(invert(matrix), size), matrix

    def turned(self, degrees: int) -> tuple[MaskedImage, FloatArray]:
        """Turned counter-clockwise, nothing cut off, and the matrix from its pixels back to the upright ones."""
        (height, width), angle = self.size, math.radians(degrees)
        cos, sin = (0.0 if abs(part) < 1e-9 else part for part in (math.cos(angle), math.sin(angle)))
        along = lambda a, b: math.ceil(a * abs(cos) + b * abs(sin) - 1e-9)  # noqa: E731
        size = along(height, width), along(width, height)
        to_middle = np.array([[1, 0, -(size[1] - 1) / 2], [0, 1, -(size[0] - 1) / 2], [0, 0, 1]])
        from_middle = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
        matrix = from_middle @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ to_middle
        if degrees % 90:
            return self.warped(matrix, size), matrix
        image, mask = np.rot90(self.image, degrees // 90), np.rot90(self.mask, degrees // 90)
        return MaskedImage(np.ascontiguousarray(image), np.ascontiguousarray(mask), self.modality), matrix

    def warped(self, transform: FloatArray | Transform, size: tuple[int, int]) -> MaskedImage:
        """In the frame that ``transform``, a matrix or with a field, leads from."""
        matrix = transform.matrix if isinstance(transform, Transform) else transform
        image, scale = self.image, scale_at(matrix, size)
        if scale > 1.5:  # bilinear sampling of a much finer image would alias its speckle
            blurred, share = (
                cv2.GaussianBlur(part, (0, 0), 0.5 * math.sqrt(scale**2 - 1))
                for part in (image, self.mask.astype(np.float32))
            )
            image = (blurred / np.maximum(share, 1e-3)).astype(np.float32)  # nodata is black and must not spread
        return MaskedImage(warp_image(image, transform, size), valid_mask(self.mask, transform, size), self.modality)

    def cut(self, rows: slice, columns: slice) -> MaskedImage:
        """A tile of it."""
        part = np.ascontiguousarray(self.image[rows, columns])
        return MaskedImage(part, np.ascontiguousarray(self.mask[rows, columns]), self.modality)

    def part(self, low: ArrayLike, high: ArrayLike) -> tuple[MaskedImage, FloatArray]:
        """Cut the box between two corners (x, y) px, as far as the image goes, and return the matrix to its pixels.

        It is widened to ``MIN_SIDE`` where it is narrower.
        """
        cuts = []
        for start, stop, length in zip(np.asarray(low), np.asarray(high), self.size[::-1], strict=True):
            begin = int(np.clip(math.floor(start), 0, length - MIN_SIDE))
            cuts.append(slice(begin, int(np.clip(math.ceil(stop) + 1, begin + MIN_SIDE, length))))
        columns, rows = cuts
        return self.cut(rows, columns), np.array([[1.0, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]])


def scale_at(matrix: FloatArray, size: tuple[int, int]) -> float:
    """Pixels of the target per pixel of the source, at the middle of a source of ``size`` (H, W)."""
    return decompose(matrix, at=(size[1] / 2, size[0] / 2)).scale


def stretch_at(matrix: FloatArray, size: tuple[int, int]) -> float:
    """How many times as much one axis is stretched as the other, at the middle of a source of ``size`` (H, W)."""
    return decompose(matrix, at=(size[1] / 2, size[0] / 2)).anisotropy


def tiles(size: tuple[int, int], side: int) -> list[tuple[slice, slice]]:
    """Cut (H, W) into equal overlapping-or-touching tiles of at most ``side``; none is a sliver."""

    def cuts(length: int) -> list[slice]:
        if length <= side:
            return [slice(0, length)]
        starts = np.linspace(0, length - side, -(-length // side)).round().astype(int)
        return [slice(int(s), int(s) + side) for s in starts]

    return [(rows, columns) for rows in cuts(size[0]) for columns in cuts(size[1])]
