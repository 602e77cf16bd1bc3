"""Resample images and masks by a matrix."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry.matrix import as_matrix


def warp_image(
    image: NDArray[Any],
    matrix_0_to_1: ArrayLike,
    size: tuple[int, int],
    *,
    fill: float = 0,
    interpolation: int = cv2.INTER_LINEAR,
) -> NDArray[Any]:
    """Resample image1 into the frame of image0: ``out[y, x] = image[matrix_0_to_1 @ (x, y)]``.

    The matrix leads from the output's pixels to the input's, so the fitted image0 -> image1 matrix registers
    image1 onto image0 as it is, without an inverse. There is no low-pass filter: where image1 is much finer
    than image0 (scale > 2), blur it first.

    Args:
        image: (H1, W1) or (H1, W1, C), image1; any real dtype, kept.
        matrix_0_to_1: (3, 3).
        size: (H, W) of image0, and of the result.
        fill: value outside image1.
        interpolation: an OpenCV flag, e.g. ``cv2.INTER_NEAREST`` for labels.

    Returns:
        (H, W) or (H, W, C) of the dtype of ``image``.
    """
    matrix, (height, width) = as_matrix(matrix_0_to_1), size
    native = image.dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64)
    source = image if native else image.astype(np.float64)
    bands = source[..., None] if source.ndim == 2 else source
    # OpenCV takes four channels at most in one call.
    warped = [
        cv2.warpPerspective(
            np.ascontiguousarray(bands[..., first : first + 4]),
            matrix,
            (width, height),
            flags=interpolation | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(float(fill),) * 4,
        ).reshape(height, width, -1)
        for first in range(0, bands.shape[-1], 4)
    ]
    out = np.concatenate(warped, axis=-1) if len(warped) > 1 else warped[0]
    out = out[..., 0] if image.ndim == 2 else out
    if native:
        return out
    return (np.rint(out) if image.dtype.kind in "iub" else out).astype(image.dtype)


def valid_mask(mask: NDArray[np.bool_], matrix_0_to_1: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of :func:`warp_image`'s result rest on valid pixels of image1 alone.

    Args:
        mask: (H1, W1) bool, True where image1 holds data; ``np.ones`` where it does everywhere.
        matrix_0_to_1: (3, 3).
        size: (H, W) of image0.

    Returns:
        (H, W) bool; False too where bilinear interpolation would mix in a single invalid or outer pixel.
    """
    matrix = as_matrix(matrix_0_to_1)
    missing = warp_image((~mask).astype(np.float32), matrix, size, fill=1)
    x, y = np.arange(size[1]), np.arange(size[0])[:, None]
    in_front = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] > 1e-12
    return cast(NDArray[np.bool_], (missing == 0) & in_front)
