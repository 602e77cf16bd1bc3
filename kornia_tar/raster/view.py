"""An image on its way to the matcher, at any size, turn, warp and part; masks go with it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.geometry import (
    DisplacementField,
    FloatArray,
    Transform,
    blocks,
    decompose,
    invert,
    source_window,
    warp_block,
)
from kornia_tar.raster.stretch import to_grey

Mask = NDArray[np.bool_] | None

PART = 2**22  # pixels that are floats at once
BLUR_FROM = 1.5  # source pixels for one of the frame, from which bilinear sampling would alias speckle
OVERVIEW_FROM = 8.0  # from which an image averaged over areas is sampled: wide blurs are slow


@dataclass(frozen=True)
class MaskedImage:
    """An image on its way to the matcher, its validity and modality.

    Attributes:
        image: (H, W) float32 in [0, 1]; or uint8 in [0, 255] for the same, as a large one stays until a part of it is
            looked at.
        mask: (H, W) bool, True where valid.
        modality: "optical", "sar", or None where it is to be inferred.
    """

    image: NDArray[Any]
    mask: NDArray[np.bool_]
    modality: str | None
    _overviews: dict[int, MaskedImage] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, image: NDArray[Any], mask: Mask, modality: str | None, name: str) -> MaskedImage:
        """Check an image (H, W) or (H, W, 3), uint8 or float in [0, 1]; errors call it ``name``."""
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
            raise TypeError(f"{name} must be uint8 or float in [0, 1], got {pixels.dtype}")
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            pixels = to_grey(as_floats(pixels))
        if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE:
            raise ValueError(
                f"{name} has shape {np.shape(image)}, need (H, W) or (H, W, 3) with sides of {MIN_SIDE} px"
            )
        valid = np.ones(pixels.shape, bool) if mask is None else np.asarray(mask, bool)
        if valid.shape != pixels.shape:
            raise ValueError(f"the mask of {name} has shape {valid.shape}, need {pixels.shape}")
        if pixels.dtype != np.uint8:
            if not np.isfinite(pixels[valid]).all():
                raise ValueError(f"{name} holds NaN or Inf: mask them")
            pixels = pixels.astype(np.float32, copy=False)
        return cls(pixels if valid.all() else np.where(valid, pixels, pixels.dtype.type(0)), valid, modality)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def digest(self) -> bytes:
        """A hash of all that the image says: pixels, validity and modality."""
        told = hashlib.sha256(repr((self.size, str(self.image.dtype), self.modality)).encode())
        told.update(np.ascontiguousarray(self.image).tobytes() + np.packbits(self.mask).tobytes())
        return told.digest()

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
        mask = shrunk(self.mask, target) > 0.99
        return MaskedImage(shrunk(self.image, target), mask, self.modality), matrix

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

    def warped(
        self, transform: FloatArray | Transform, size: tuple[int, int], part: tuple[slice, slice] | None = None
    ) -> MaskedImage:
        """In the frame of ``size`` (H, W) that ``transform``, a matrix or with a field, leads from.

        ``part``: rows and columns of the frame, to get no more than those. Floats are made block by block.
        """
        rows, columns = part or (slice(0, size[0]), slice(0, size[1]))
        source, way, scale = self._at_scale(_as_transform(transform), size)
        sigma = 0.5 * math.sqrt(scale**2 - 1) if scale > BLUR_FROM else 0.0
        shape = rows.stop - rows.start, columns.stop - columns.start
        image, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for down, across in blocks(shape, _side(scale)):
            block = _moved(down, rows.start), _moved(across, columns.start)
            window = source_window(way, *block, source.size, 3 + 4 * sigma)
            if window is not None:
                seen, valid = source._blurred(window, sigma)
                corner = window[1].start, window[0].start
                image[down, across], mask[down, across] = warp_block(seen, valid, way, *block, corner)
        return MaskedImage(image, mask, self.modality)

    def shown(
        self, transform: FloatArray | Transform, size: tuple[int, int], part: tuple[slice, slice]
    ) -> NDArray[np.bool_]:
        """Where a part of :meth:`warped` is valid."""
        way = _as_transform(transform)
        window = source_window(way, *part, self.size, 3)
        if window is None:
            return np.zeros((part[0].stop - part[0].start, part[1].stop - part[1].start), bool)
        mask = self.mask[window]
        return warp_block(mask, mask, way, *part, (window[1].start, window[0].start))[1]

    def _at_scale(self, way: Transform, size: tuple[int, int]) -> tuple[MaskedImage, Transform, float]:
        """The image, or one averaged over areas where it is much finer than a frame, the way to it, and its scale."""
        scale = scale_at(way.matrix, size)
        if not OVERVIEW_FROM <= scale < min(self.size) / 2:
            return self, way, scale
        step = int(2 ** math.floor(math.log2(2 * scale / OVERVIEW_FROM)))
        if step not in self._overviews:
            target = self.size[1] // step, self.size[0] // step
            cut = slice(0, target[1] * step), slice(0, target[0] * step)
            mask = shrunk(self.mask[cut], target)
            image = shrunk(self.image[cut], target) / np.maximum(mask, 1e-3)
            valid = mask > 0.99
            self._overviews[step] = MaskedImage(np.where(valid, image, 0).astype(np.float32), valid, self.modality)
        to_overview = np.array([[1 / step, 0, (1 / step - 1) / 2], [0, 1 / step, (1 / step - 1) / 2], [0, 0, 1]])
        shift = way.field and DisplacementField(way.field.origin, way.field.spacing, way.field.shift / step)
        return self._overviews[step], Transform(to_overview @ way.matrix, shift), scale / step

    def _blurred(
        self, window: tuple[slice, slice], sigma: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
        """A part of it, blurred; nodata is black and does not spread."""
        image, mask = as_floats(self.image[window]), self.mask[window]
        if sigma:
            blurred, share = (cv2.GaussianBlur(part, (0, 0), sigma) for part in (image, mask.astype(np.float32)))
            image = (blurred / np.maximum(share, 1e-3)).astype(np.float32)
        return image, mask

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


def as_floats(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) uint8, bool, or float in [0, 1] → float32 in [0, 1]."""
    floats: NDArray[np.float32] = image.astype(np.float32, copy=False)
    return floats / np.float32(255) if image.dtype == np.uint8 else floats


def shrunk(image: NDArray[Any], target: tuple[int, int]) -> NDArray[np.float32]:
    """Average an image (H, W), as :func:`as_floats` takes it, over areas to a smaller ``target`` (width, height).

    Along rows first, strip by strip, so that a large one is never floats as a whole.
    """
    height, width = image.shape
    strip = max(1, PART // width)
    if strip < height:
        narrow = np.empty((height, target[0]), np.float32)
        for top in range(0, height, strip):
            part = as_floats(image[top : top + strip])
            narrow[top : top + strip] = cv2.resize(part, (target[0], len(part)), interpolation=cv2.INTER_AREA)
    else:
        narrow = as_floats(image)
    return np.asarray(cv2.resize(narrow, target, interpolation=cv2.INTER_AREA), np.float32)


def _as_transform(transform: FloatArray | Transform) -> Transform:
    return transform if isinstance(transform, Transform) else Transform(transform)


def _side(scale: float) -> int:
    """Of the blocks of a frame that are made at once: with room for the margin that a blur sees around each."""
    return max(MIN_SIDE, int(math.sqrt(PART) / max(scale, 1.0) / 2))


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


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
