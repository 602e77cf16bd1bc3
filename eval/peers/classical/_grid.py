"""Hand one transform of a whole image over as tie points; no peer by itself, but what others use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eval.peers.base import Image, Matches

STEP = 8


def points(image: Image, step: int = STEP) -> NDArray[np.float64]:
    """Return a grid of pixels (N, 2), x before y, that covers an image."""
    height, width = image.shape[:2]
    x, y = np.arange(step // 2, width, step), np.arange(step // 2, height, step)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float64)


def matches(matrix: NDArray[np.float64], confidence: float, image0: Image, image1: Image) -> Matches:
    """Return a grid of matches that follow a (2, 3) or (3, 3) affine matrix exactly.

    The shared estimator then finds that matrix again. Points that leave image1 are dropped.

    Args:
        matrix: maps image0 to image1.
        confidence: of them all.
        image0: the image that the grid covers.
        image1: the other one.
    """
    points0 = points(image0)
    points1 = points0 @ matrix[:2, :2].T + matrix[:2, 2]
    sure = np.full(len(points0), confidence, np.float32)
    return Matches(points0.astype(np.float32), points1.astype(np.float32), sure).on_images(image0, image1)


def none() -> Matches:
    """Return no matches: what a method that found no transform has to say."""
    empty = np.zeros((0, 2), np.float32)
    return Matches(empty, empty, np.zeros(0, np.float32))
