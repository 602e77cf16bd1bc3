"""What the pictures share: paper, ink, how an image gets its size, and lines between matched points."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

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


class Placed(NamedTuple):
    """Where an image lies on a canvas."""

    scale: float  # px of the canvas per px of the image
    corner: tuple[int, int]  # (x, y) px, of its top left pixel

    def __call__(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map (N, 2) pixels of the image to the canvas."""
        # Pixel centres lie at integers: the corner of the first pixel stays where it is, its centre moves.
        return (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * self.scale - 0.5 + self.corner


def paste(canvas: Picture, image: Picture, corner: tuple[int, int], width: int) -> Placed:
    """Paste an image (h, w, 3), resized from one that is ``width`` px wide, with its top left pixel at (x, y)."""
    x, y = corner
    canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return Placed(image.shape[1] / width, corner)


def subsample(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Choose at most ``most`` of the rows, evenly."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def draw_matches(
    canvas: Picture,
    on0: Placed,
    on1: Placed,
    points0: ArrayLike,
    points1: ArrayLike,
    colours: ArrayLike,
    *,
    joined: ArrayLike = True,
    radius: float = 2.0,
    opacity: float = 1.0,
) -> Picture:
    """Draw matches between two images that lie on one canvas: a dot at each end, and a line from dot to dot.

    Args:
        canvas: (H, W, 3).
        on0: where image0 lies.
        on1: where image1 lies.
        points0: (N, 2) pixels of image0, those on top last.
        points1: (N, 2) pixels of image1.
        colours: (N, 3) RGB, or one for all.
        joined: (N,) whether there is a line, or one for all.
        radius: of the dots, px.
        opacity: of what is drawn.

    Returns:
        the picture; the canvas stays as it is.
    """
    layer, start, end = canvas.copy(), on0(points0), on1(points1)
    paint = np.broadcast_to(np.asarray(colours, np.float64), (len(start), 3))
    for a, b, colour, line in zip(start, end, paint, np.broadcast_to(joined, len(start)), strict=True):
        ink = tuple(float(v) for v in colour)
        first, last = (tuple(int(v) for v in np.rint(point * 16)) for point in (a, b))
        if line:
            cv2.line(layer, first, last, ink, 1, cv2.LINE_AA, 4)
        for point in (first, last):
            cv2.circle(layer, point, round(radius * 16), ink, -1, cv2.LINE_AA, 4)
    return np.asarray(cv2.addWeighted(layer, opacity, canvas, 1 - opacity, 0), np.uint8)
