"""Bring an image to another grid by any smooth map, low-pass filtered where it is the finer one."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry import DisplacementField, FloatArray, Transform, blocks, source_window, warp_block
from kornia_tar.geometry.transform import PointMap
from kornia_tar.raster.view import MaskedImage, as_floats

NODES = 64  # of a map's field along the longer side: georeferences bend by metres over a whole image
BLUR_FROM = 1.2  # source pixels for one of the target, from which sampling would alias
MARGIN = 4  # px around the window that is read, beyond the filter's reach
BLOCK = 1024  # px of a grid's side, or of the image's where it is finer, that are made at once


def smooth_transform(points: PointMap, size: tuple[int, int], spacing: float = math.inf) -> Transform:
    """Describe a smooth map over an image of ``size`` (H, W) by a matrix and a field with nodes few enough for it.

    Args:
        points: the map, (N, 2) px → (N, 2) px.
        size: of the image it leads from.
        spacing: px between nodes, at most.

    Raises:
        ValueError: a map that is not finite all over the image, or degenerate.
    """
    return Transform.of(points, size, min(spacing, max(16.0, max(size) / NODES)))


def resample(view: MaskedImage, points: PointMap, size: tuple[int, int]) -> MaskedImage:
    """Bring an image to a grid of ``size`` (H, W).

    Only the window that the grid shows is touched. Where it has more pixels than the grid it is averaged over areas
    first, along either axis on its own; what is missing does not bleed into what is not.

    Args:
        view: the image.
        points: the map, (N, 2) px of the grid → (N, 2) px of the image.
        size: of the grid.

    Returns:
        the image on the grid; all missing where the grid shows none of it.

    Raises:
        ValueError: a map that is not finite all over the grid, or degenerate.
    """
    way = smooth_transform(points, size)
    image, mask = np.zeros(size, view.image.dtype), np.zeros(size, bool)
    for rows, columns in blocks(size, block_side(way, size)):
        window = averaged_window(way, size, rows, columns, view.size)
        if window is None:
            continue
        part, valid, there = low_passed(
            as_floats(view.image[window]), view.mask[window], way, size, (window[1].start, window[0].start)
        )
        found, mask[rows, columns] = warp_block(part, valid, there, rows, columns)
        image[rows, columns] = np.rint(255 * found) if image.dtype == np.uint8 else found
    return MaskedImage(image, mask, view.modality)


def block_side(way: Transform, size: tuple[int, int]) -> int:
    """Say how large blocks of a grid of ``size`` (H, W) are made at once, so that little of the image is read."""
    return max(32, int(BLOCK / max(1.0, *_scale(way, size))))


def averaged_window(
    way: Transform, size: tuple[int, int], rows: slice, columns: slice, size1: tuple[int, int]
) -> tuple[slice, slice] | None:  # fmt: skip
    """Find the part of an image that :func:`low_passed` needs for a block of a grid; None where it shows nothing.

    It begins where an area that is averaged begins, so that all blocks average the same areas.

    Args:
        way: pixels of the grid → pixels of the image.
        size: (H, W) of the grid.
        rows: of the block.
        columns: likewise.
        size1: (H, W) of the image.
    """
    scale = _scale(way, size)
    window = source_window(way, rows, columns, size1, MARGIN + 4 * float(np.maximum(scale, 1).max()))
    if window is None:
        return None
    steps = _steps(scale)[::-1]
    down, across = (
        slice(int(part.start // step * step), min(int(-(-part.stop // step) * step), length))
        for part, step, length in zip(window, steps, size1, strict=True)
    )
    return down, across


def low_passed(
    image: NDArray[Any], mask: NDArray[np.bool_], way: Transform, size: tuple[int, int],
    corner: ArrayLike = (0, 0),
) -> tuple[NDArray[Any], NDArray[np.bool_], Transform]:  # fmt: skip
    """Average an image over areas, as far as sampling it at the pixels of a coarser grid calls for.

    Args:
        image: (H, W), float32 or float64.
        mask: (H, W) bool, True where valid; what is missing does not bleed into what is not.
        way: pixels of the grid → pixels of the image that this one is cut from.
        size: (H, W) of the grid.
        corner: (x, y) px, where this image begins in that one.

    Returns:
        the image, smaller where many pixels fall on one of the grid's, its mask, and the way to its pixels.
    """
    scale, length = _scale(way, size), np.array(image.shape[::-1])
    steps = np.minimum(_steps(scale), np.maximum(1, length // 2))
    filtered, valid = _filtered(*_averaged(image, mask, steps), scale / steps)
    return filtered, valid, _in_units(way, np.asarray(corner) + (steps - 1) / 2, steps)


def is_finer(way: Transform, size: tuple[int, int]) -> bool:
    """Whether an image is so much finer than a grid of ``size`` (H, W) that sampling it would alias."""
    return bool((_scale(way, size) > BLUR_FROM).any())


def _scale(way: Transform, size: tuple[int, int]) -> FloatArray:
    """(2,): pixels of the source, along its x and its y, that one of the grid covers in the middle."""
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    ends = way(np.array([[x + 0.5, y], [x, y + 0.5], [x - 0.5, y], [x, y - 0.5]]))
    return np.asarray(np.linalg.norm(ends[:2] - ends[2:], axis=0))


def _steps(scale: FloatArray) -> NDArray[np.int_]:
    """(2,): pixels along x and y that are averaged, for so many on one of the grid."""
    return np.maximum(1, (scale / 1.5).astype(int))


def _averaged(
    image: NDArray[Any], mask: NDArray[np.bool_], steps: NDArray[np.int_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Means over blocks of ``steps`` (x, y) valid pixels; a block of which less than half is valid is missing."""
    if (steps == 1).all():
        return image, mask
    columns, rows = image.shape[1] // steps[0], image.shape[0] // steps[1]
    cut = slice(0, rows * steps[1]), slice(0, columns * steps[0])
    total, share = (
        cv2.resize(part[cut], (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
        for part in (np.where(mask, image, 0).astype(image.dtype), mask.astype(image.dtype))
    )
    valid = share >= 0.5
    return np.where(valid, total / np.maximum(share, 1e-3), 0).astype(image.dtype), valid


def _filtered(
    image: NDArray[Any], mask: NDArray[np.bool_], scale: FloatArray
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Blurred by what bilinear sampling at every ``scale``-th (x, y) pixel needs; the mask stays."""
    if (scale <= BLUR_FROM).all():
        return image, mask
    sigma = [0.5 * math.sqrt(s**2 - 1) if s > BLUR_FROM else 0.01 for s in scale]
    total, share = (
        cv2.GaussianBlur(part, (0, 0), sigmaX=sigma[0], sigmaY=sigma[1])
        for part in (np.where(mask, image, 0).astype(image.dtype), mask.astype(image.dtype))
    )
    return np.where(mask, total / np.maximum(share, 1e-3), 0).astype(image.dtype), mask


def _in_units(way: Transform, origin: FloatArray, steps: NDArray[np.int_]) -> Transform:
    """The map in pixels of the averaged part: (x - origin) / steps."""
    unit = np.array([[1 / steps[0], 0, -origin[0] / steps[0]], [0, 1 / steps[1], -origin[1] / steps[1]], [0, 0, 1]])
    field = way.field and DisplacementField(way.field.origin, way.field.spacing, way.field.shift / steps)
    return Transform(unit @ way.matrix, field)
