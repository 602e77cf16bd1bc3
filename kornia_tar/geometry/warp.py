"""Resample images and masks by a matrix or a transform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry.matrix import as_matrix, transform_points
from kornia_tar.geometry.transform import DisplacementField, Transform

BLOCK = 512  # rows and columns that are resampled at once through a field


def warp_image(
    image: NDArray[Any],
    transform: ArrayLike | Transform,
    size: tuple[int, int],
    *,
    fill: float = 0,
    interpolation: int = cv2.INTER_LINEAR,
) -> NDArray[Any]:
    """Resample image1 into the frame of image0: ``out[y, x] = image[transform(x, y)]``.

    The transform leads from the output's pixels to the input's, so the fitted image0 -> image1 transform registers
    image1 onto image0 as it is, without an inverse. There is no low-pass filter: where image1 is much finer
    than image0 (scale > 2), blur it first.

    Args:
        image: (H1, W1) or (H1, W1, C), image1; any real dtype, kept.
        transform: (3, 3) matrix, or a :class:`Transform`.
        size: (H, W) of image0, and of the result.
        fill: value outside image1.
        interpolation: an OpenCV flag, e.g. ``cv2.INTER_NEAREST`` for labels.

    Returns:
        (H, W) or (H, W, C) of the dtype of ``image``.
    """
    way = transform if isinstance(transform, Transform) else Transform(as_matrix(transform))
    native = image.dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64)
    source = image if native else image.astype(np.float64)
    bands = source[..., None] if source.ndim == 2 else source
    resample = _by_matrix if way.field is None else _by_field
    # OpenCV takes four channels at most in one call.
    warped = [
        resample(np.ascontiguousarray(bands[..., first : first + 4]), way, size, float(fill), interpolation)
        for first in range(0, bands.shape[-1], 4)
    ]
    out = np.concatenate(warped, axis=-1) if len(warped) > 1 else warped[0]
    out = out[..., 0] if image.ndim == 2 else out
    if native:
        return out
    return saturated(out, image.dtype)


def saturated(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Turn floats into another dtype: integers by rounding, and what is beyond their ends becomes the end."""
    if dtype.kind not in "iub":
        return values.astype(dtype)
    if dtype.kind == "b":
        return np.rint(values).astype(dtype)
    ends, whole = np.iinfo(dtype), np.rint(values)
    inside = (whole > ends.min) & (whole < ends.max)
    out = np.where(inside, whole, 0).astype(dtype)
    out[whole >= ends.max], out[whole <= ends.min] = ends.max, ends.min
    return out


def _by_matrix(
    bands: NDArray[Any], way: Transform, size: tuple[int, int], fill: float, interpolation: int
) -> NDArray[Any]:
    warped = cv2.warpPerspective(
        bands, way.matrix, (size[1], size[0]), flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,) * 4,
    )  # fmt: skip
    return warped.reshape(*size, -1)


def _by_field(
    bands: NDArray[Any], way: Transform, size: tuple[int, int], fill: float, interpolation: int
) -> NDArray[Any]:
    """Block by block: the maps need little memory, and OpenCV's limit of 32767 px a side is the block's."""
    out = np.full((*size, bands.shape[2]), fill, bands.dtype)
    for rows, columns in blocks(size, BLOCK):
        x, y = way.maps(rows, columns)
        inside = (x > -1) & (y > -1) & (x < bands.shape[1]) & (y < bands.shape[0])
        if not inside.any():
            continue
        x0, y0 = (max(0, int(part[inside].min()) - 4) for part in (x, y))
        x1, y1 = (int(part[inside].max()) + 6 for part in (x, y))
        source = np.ascontiguousarray(bands[y0:y1, x0:x1])
        out[rows, columns] = cv2.remap(
            source, x - x0, y - y0, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,) * 4
        ).reshape(*x.shape, -1)
    return out


def valid_mask(mask: NDArray[np.bool_], transform: ArrayLike | Transform, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of :func:`warp_image`'s result rest on valid pixels of image1 alone.

    Args:
        mask: (H1, W1) bool, True where image1 holds data; ``np.ones`` where it does everywhere.
        transform: (3, 3) matrix, or a :class:`Transform`.
        size: (H, W) of image0.

    Returns:
        (H, W) bool; False too where bilinear interpolation would mix in a single invalid or outer pixel.
    """
    missing = warp_image((~mask).astype(np.float32), transform, size, fill=1)
    matrix = transform.matrix if isinstance(transform, Transform) else as_matrix(transform)
    x, y = np.arange(size[1]), np.arange(size[0])[:, None]
    in_front = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] > 1e-12
    return cast(NDArray[np.bool_], (missing == 0) & in_front)


def blocks(size: tuple[int, int], side: int) -> Iterator[tuple[slice, slice]]:
    """Cut (H, W) into blocks of ``side`` px, row by row; the last ones are smaller."""
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield slice(top, min(top + side, size[0])), slice(left, min(left + side, size[1]))


def source_window(
    transform: Transform, rows: slice, columns: slice, size1: tuple[int, int], margin: float
) -> tuple[slice, slice] | None:  # fmt: skip
    """Find the part of image1 that a block of image0's frame shows.

    Args:
        transform: image0 → image1.
        rows: of the block.
        columns: likewise.
        size1: (H, W) of image1.
        margin: px of image1 around what is shown.

    Returns:
        rows and columns of image1; all where the block reaches a homography's horizon; None where it shows nothing.
    """
    x, y = (columns.start, columns.stop - 1), (rows.start, rows.stop - 1)
    there = transform_points(transform.matrix, [[a, b] for a in x for b in y])
    if not np.isfinite(there).all():
        return slice(0, size1[0]), slice(0, size1[1])
    low, high = there.min(0), there.max(0)
    if transform.field is not None:
        low, high = low + transform.field.shift.min((0, 1)), high + transform.field.shift.max((0, 1))
    start, stop = np.floor(low - margin).clip(0), np.minimum(np.ceil(high + margin) + 1, size1[::-1])
    if (stop <= start).any():
        return None
    return slice(int(start[1]), int(stop[1])), slice(int(start[0]), int(stop[0]))


def between_parts(transform: Transform, rows: slice, columns: slice, corner: ArrayLike = (0, 0)) -> Transform:
    """Turn image0 → image1 into the same between a block of image0's frame and a part of image1.

    Args:
        transform: image0 → image1.
        rows: of the block, which begins before the horizon.
        columns: likewise.
        corner: (x, y) px, where the part of image1 begins.
    """
    to_frame = np.array([[1.0, 0, columns.start], [0, 1, rows.start], [0, 0, 1]])
    x, y = np.asarray(corner, np.float64)
    matrix, field = np.array([[1.0, 0, -x], [0, 1, -y], [0, 0, 1]]) @ transform.matrix @ to_frame, transform.field
    if field is not None:
        origin = field.origin[0] - columns.start, field.origin[1] - rows.start
        field = DisplacementField(origin, field.spacing, field.shift)
    return Transform(matrix, field)


def warp_block(
    image: NDArray[Any], mask: NDArray[np.bool_], transform: Transform, rows: slice, columns: slice,
    corner: ArrayLike = (0, 0), *, fill: float = 0, interpolation: int = cv2.INTER_LINEAR,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:  # fmt: skip
    """Give a block of what :func:`warp_image` and :func:`valid_mask` give, from a part of image1.

    Args:
        image: (h1, w1) or (h1, w1, C), the part of image1 that :func:`source_window` names.
        mask: (h1, w1) bool.
        transform: image0 → image1, between the whole images.
        rows: of the block, image0's.
        columns: likewise.
        corner: (x, y) px, where the part begins.
        fill: value outside image1.
        interpolation: an OpenCV flag.
    """
    size = rows.stop - rows.start, columns.stop - columns.start
    x, y = (columns.start, columns.stop - 1), (rows.start, rows.stop - 1)
    if np.isfinite(transform_points(transform.matrix, [[a, b] for a in x for b in y])).all():
        here = between_parts(transform, rows, columns, corner)
        return warp_image(image, here, size, fill=fill, interpolation=interpolation), valid_mask(mask, here, size)
    to_x, to_y = (part - start for part, start in zip(transform.maps(rows, columns), np.asarray(corner), strict=True))
    parts = [
        cv2.remap(np.ascontiguousarray(band), to_x.astype(np.float32), to_y.astype(np.float32), flag,
                  borderMode=cv2.BORDER_CONSTANT, borderValue=(value,) * 4)
        for band, flag, value in [((~mask).astype(np.float32), cv2.INTER_LINEAR, 1.0)] + [
            (band.astype(np.float64), interpolation, float(fill))
            for band in (image[..., None] if image.ndim == 2 else image).transpose(2, 0, 1)
        ]
    ]  # fmt: skip
    out = saturated(np.stack(parts[1:], -1), image.dtype)
    return (out[..., 0] if image.ndim == 2 else out), parts[0] == 0
