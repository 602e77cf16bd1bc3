"""The truth of SRIF's optical-SAR pairs, recovered from the images because the published files belong to other ones."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kornia_tar.raster import to_grey

_ANGLES = np.arange(91)  # degrees, as SRIF turned its images
_COARSE, _FINE = 128, 256  # sides at which all angles, and the best one's neighbours, are tried
_NEAR = 3  # degrees around the best angle looked at again
_APART = 8  # degrees between two peaks that count as two
_LEVELS = 16
_SMOOTH = 1.5  # sigma in px that calms the speckle
_BLACK = 4  # JPEG leaves the black corners no brighter


def recover_truth(optical: NDArray[np.uint8], sar: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
    r"""Find the rotation between an optical and a SAR image of SRIF by mutual information.

    SRIF resized the whole optical picture to the SAR picture's size and turned the latter about (W/2, H/2) by a whole
    number of degrees, 0 to 90, which left black corners; the files of its other kinds of pairs say so. Hence the scale
    follows from the sizes, and the angle is

    .. math::
        \hat t = \arg\max_t \; I\big(S;\, O \circ T_t^{-1}\big)

    with the pixels outside the turned optical picture black as well, so that the frame counts like the content.

    Checked against the 60 matrices of ``srif-opt-sar/truth.json``, which were recovered by a kindred method and are
    no survey: 60 of 60 agree within 3 degrees and 10 px mean corner error (median 0 px, worst 6 px); with the frame
    masked away, so that the content alone speaks, 55 of 60. A high confidence shows that the angle is clear, not that
    the images show the same place: given another pair's optical picture, the black frame still brings out the angle.
    Nothing here sees the 1 to 2 px by which the pictures were off before SRIF turned them.

    Args:
        optical: (H0, W0) or (H0, W0, 3) uint8, upright.
        sar: (H1, W1) uint8, turned, black where it shows nothing.

    Returns:
        (3, 3) matrix that maps optical to SAR (pixel centres at integers), and a confidence in [0, 1]: how far the
        best angle stands above the best of those 8 degrees or more away, as a part of its height above the median.
    """
    grey = to_grey(optical)
    scores = _scores(grey, sar, _COARSE, _ANGLES)
    best = int(scores.argmax())
    second = scores[np.abs(_ANGLES - best) >= _APART].max()
    confidence = (scores[best] - second) / max(scores[best] - np.median(scores), 1e-9)
    near = _ANGLES[np.abs(_ANGLES - best) <= _NEAR]
    angle = float(near[_scores(grey, sar, _FINE, near).argmax()])
    return similarity(optical.shape[:2], sar.shape[:2], angle), float(np.clip(confidence, 0, 1))


def similarity(shape0: tuple[int, ...], shape1: tuple[int, ...], angle: float) -> NDArray[np.float64]:
    """Resize (H0, W0) to (H1, W1), then turn counter-clockwise by degrees about (W1/2, H1/2), as OpenCV does."""
    (height0, width0), (height1, width1) = shape0, shape1
    x, y = width1 / width0, height1 / height0
    resize = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])  # pixel areas onto pixel areas
    return np.vstack([cv2.getRotationMatrix2D((width1 / 2, height1 / 2), angle, 1), [0, 0, 1]]) @ resize


def _scores(
    optical: NDArray[np.uint8], sar: NDArray[np.uint8], side: int, angles: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Mutual information at each angle, both images brought to one working size of ``side`` pixels."""
    scale = side / max(sar.shape)
    height, width = (max(1, round(length * scale)) for length in sar.shape)
    levels0, levels1 = _levels(optical, (width, height)), _levels(sar, (width, height))
    scores = []
    for angle in angles:
        turn = similarity((height, width), (height, width), float(angle))[:2]
        turned = cv2.warpAffine(levels0, turn, (width, height), flags=cv2.INTER_NEAREST, borderValue=0)
        scores.append(_mutual_information(np.asarray(turned), levels1))
    return np.array(scores)


def _levels(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to (width, height), smooth, and sort into equally filled levels; black keeps level 0 to itself."""
    smooth = np.asarray(cv2.GaussianBlur(cv2.resize(image, size, interpolation=cv2.INTER_AREA), (0, 0), _SMOOTH))
    shown = smooth[smooth > _BLACK]
    if not shown.size:
        return np.zeros(smooth.shape, dtype=np.uint8)
    edges = np.quantile(shown, np.linspace(0, 1, _LEVELS)[1:-1])
    return np.where(smooth > _BLACK, 1 + np.searchsorted(edges, smooth), 0).astype(np.uint8)


def _mutual_information(levels0: NDArray[Any], levels1: NDArray[np.uint8]) -> float:
    """Mutual information in nats of two images of levels."""
    joint = np.bincount((levels0.astype(np.int32) * _LEVELS + levels1).ravel(), minlength=_LEVELS**2)
    p = joint.reshape(_LEVELS, _LEVELS) / joint.sum()
    product = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    return float((p[p > 0] * np.log(p[p > 0] / product[p > 0])).sum())
