"""A picture of one pair's verified matches."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from kornia_tar.outputs.drawing import INK, PAPER, Picture, draw_matches, paste, subsample

_HEIGHT, _GAP, _HEAD, _MOST = 480, 12, 34, 200
_INLIER, _OUTLIER = (36, 168, 150), (196, 72, 64)


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
    panels = [
        np.asarray(cv2.resize(image, (max(1, round(image.shape[1] * _HEIGHT / image.shape[0])), _HEIGHT),
                              interpolation=cv2.INTER_AREA), np.uint8)
        for image in (image0, image1)
    ]  # fmt: skip
    right = panels[0].shape[1] + _GAP
    sheet = np.full((_HEAD + _HEIGHT, right + panels[1].shape[1], 3), PAPER, np.uint8)
    on0 = paste(sheet, panels[0], (0, _HEAD), image0.shape[1])
    on1 = paste(sheet, panels[1], (right, _HEAD), image1.shape[1])
    cv2.putText(sheet, title, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    good = np.asarray(inliers, bool).reshape(-1)
    rows = np.concatenate([subsample(np.flatnonzero(which), _MOST) for which in (~good, good)])
    start, end = (np.asarray(points, np.float64).reshape(-1, 2)[rows] for points in (points0, points1))
    colours = np.where(good[rows, None], _INLIER, _OUTLIER)
    return draw_matches(sheet, on0, on1, start, end, colours, joined=good[rows])
