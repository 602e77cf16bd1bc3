"""What the pictures share: paper, ink and how an image gets its size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

MARGIN, GAP = 28, 16  # px
PAPER, INK, GREY = (250, 250, 248), (32, 36, 40), (112, 118, 124)


def fit(image: Picture, width: int, height: int) -> Picture:
    """(H, W, 3) scaled to as much of a box of ``width`` × ``height`` as its shape fills."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def to_rgb(image: NDArray[np.uint8]) -> Picture:
    """(H, W) or (H, W, 3) uint8 → (H, W, 3); ValueError on anything else."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
        raise ValueError(f"an image is {image.dtype} {image.shape}; it must be uint8 (H, W) or (H, W, 3)")
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
