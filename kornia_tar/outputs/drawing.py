"""What the pictures share: paper, ink, size, code, and how two images are shown as one: by colour, field or line."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from kornia_tar.raster.stretch import to_grey

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


def data_uri(image: Picture, quality: int | None) -> str:
    """Encode (H, W) or (H, W, 3) as WebP in a data URI, exactly where ``quality``, of 0 to 100, is None."""
    buffer = io.BytesIO()
    if quality is None:
        Image.fromarray(image).save(buffer, "webp", lossless=True)
    else:
        Image.fromarray(image).save(buffer, "webp", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def overlay(optical: Picture, sar: Picture, shown: NDArray[np.bool_]) -> Picture:
    """Show two images (H, W, 3) as one: what agrees turns grey or white, what does not shows coloured fringes.

    Optical in green and blue, SAR in red; optical alone, paler, where there is no SAR.
    """
    grey, radar = (to_grey(image) for image in (optical, sar))
    mean = cv2.addWeighted(grey, 0.5, radar, 0.5, 0)
    red, other = (cv2.addWeighted(band, 0.8, mean, 0.2, 0) for band in (radar, grey))  # pure red would shout
    alone = cv2.addWeighted(grey, 0.5, np.full_like(grey, 255), 0.35, 0)
    return np.where(shown[..., None], np.stack([red, other, other], axis=-1), alone[..., None])


def checkerboard(first: Picture, second: Picture, shown: NDArray[np.bool_], least: int = 8) -> Picture:
    """Show two images (H, W, 3) in turn, in fields of at least ``least`` px, about eight along the longer side."""
    cell = max(least, -(-max(first.shape[:2]) // 8))
    y, x = np.arange(first.shape[0])[:, None] // cell, np.arange(first.shape[1]) // cell
    return np.where((((x + y) % 2 == 1) & shown)[..., None], second, first)


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
