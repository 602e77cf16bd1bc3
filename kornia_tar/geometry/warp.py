"""Resample images and masks by a matrix or a transform."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry.matrix import as_matrix
from kornia_tar.geometry.transform import Transform

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
    for top in range(0, size[0], BLOCK):
        for left in range(0, size[1], BLOCK):
            rows, columns = slice(top, min(top + BLOCK, size[0])), slice(left, min(left + BLOCK, size[1]))
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
