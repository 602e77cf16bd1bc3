"""A picture of one pair's verified matches."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Picture = NDArray[np.uint8]

_HEIGHT, _GAP, _HEAD, _MOST = 480, 12, 34, 200
_INLIER, _OUTLIER, _INK, _PAPER = (36, 168, 150), (196, 72, 64), (32, 36, 40), (250, 250, 248)


def draw_inliers(
    image0: Picture, image1: Picture, points0: ArrayLike, points1: ArrayLike, inliers: ArrayLike, title: str
) -> Picture:
    """Both images side by side; inliers are joined by teal lines, the others marked by red dots.

    Args:
        image0: (H0, W0, 3) uint8 RGB.
        image1: (H1, W1, 3).
        points0: (N, 2) pixels in image0.
        points1: (N, 2) pixels in image1.
        inliers: (N,) bool; where they are many, an even choice is drawn.
        title: one line above.

    Returns:
        (rows, columns, 3) uint8 RGB, the images 480 px high.
    """
    scales = [_HEIGHT / image.shape[0] for image in (image0, image1)]
    panels = [
        cv2.resize(image, (max(1, round(image.shape[1] * scale)), _HEIGHT), interpolation=cv2.INTER_AREA)
        for image, scale in zip((image0, image1), scales, strict=True)
    ]
    right = panels[0].shape[1] + _GAP
    sheet = np.full((_HEAD + _HEIGHT, right + panels[1].shape[1], 3), _PAPER, np.uint8)
    sheet[_HEAD:, : panels[0].shape[1]], sheet[_HEAD:, right:] = panels
    cv2.putText(sheet, title, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
    ends = [
        (np.asarray(p, np.float64).reshape(-1, 2) + 0.5) * s - 0.5 + corner
        for p, s, corner in zip((points0, points1), scales, ((0, _HEAD), (right, _HEAD)), strict=True)
    ]
    good = np.asarray(inliers, bool).reshape(-1)
    for which, colour in ((~good, _OUTLIER), (good, _INLIER)):
        rows = np.flatnonzero(which)
        for row in rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).astype(int)]:
            a, b = (tuple(int(v) for v in np.rint(points[row] * 16)) for points in ends)
            if good[row]:
                cv2.line(sheet, a, b, colour, 1, cv2.LINE_AA, 4)
            for point in (a, b):
                cv2.circle(sheet, point, 32, colour, -1, cv2.LINE_AA, 4)
    return sheet
