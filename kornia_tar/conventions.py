"""The conventions that every room keeps: pixels, modalities, cells.

Convention:
    Pixel centres lie at integers, x before y, origin at the top-left pixel's centre (OpenCV's and hloc's frame).
    kornia's LoFTR, RoMa and DeDoDe count pixel centres from +0.5; GDAL's and COLMAP's origin is the first pixel's
    corner. They are converted at those doors only. Sizes are (H, W). Every matrix is 3x3 and maps image0 to image1.
"""

from __future__ import annotations

from typing import Any, Literal

Modality = Literal["optical", "sar"]
MODALITIES: tuple[Modality, ...] = ("optical", "sar")
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as OpenCV and kornia have it
CELL = 8  # pixels on a side of a coarse cell
STRIDE = 16  # of the network's deepest stage, px; images are padded to a multiple of it
MIN_SIDE = 2 * STRIDE  # of an image, px
PIXELS = "keypoints are (x, y) pixels, pixel centres at integers, origin top-left; matrices map image0 to image1"


def turn_back(x: Any, y: Any, quarters: int, height: int, width: int) -> tuple[Any, Any]:
    """Carry pixels of ``image.rot90(quarters)`` to pixels of ``image``, as NumPy and torch turn: counter-clockwise.

    Args:
        x: numbers, arrays or tensors, px of the turned image.
        y: likewise.
        quarters: of a turn; any integer.
        height: of the image that was turned, px.
        width: likewise.

    Returns:
        x and y of the image that was turned.
    """
    return ((x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x))[quarters % 4]
