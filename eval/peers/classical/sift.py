"""RootSIFT: OpenCV's SIFT, Hellinger-normalised (Arandjelovic and Zisserman, CVPR 2012)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from kornia.feature import match_smnn

from eval.peers.base import Image, Matches
from eval.peers.store import Store
from kornia_tar.raster import to_grey

RATIO = 0.9
FEATURES = 4096


class RootSIFT:
    """SIFT with mutual nearest neighbours and a ratio test of 0.9 in both directions.

    Those two are what Jin et al. (Image Matching across Wide Baselines, IJCV 2021) found best for RootSIFT. At most
    4096 features and OpenCV's thresholds, but its ``enable_precise_upscale``: without it, points are biased by a
    quarter of a pixel.
    """

    name = "RootSIFT"
    parameters = 0
    settings = f"opencv {cv2.__version__}, {FEATURES} features, mutual, ratio {RATIO}"

    def __init__(self) -> None:
        self._sift = cv2.SIFT.create(nfeatures=FEATURES, enable_precise_upscale=True)

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is one minus the larger of the two ratios."""
        (points0, descriptors0), (points1, descriptors1) = self._extract(image0), self._extract(image1)
        ratios, pairs = match_smnn(descriptors0, descriptors1, RATIO)
        return Matches.of(points0[pairs[:, 0]], points1[pairs[:, 1]], 1 - ratios)

    def _extract(self, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
        grey = to_grey(image)
        keypoints, descriptors = self._sift.detectAndCompute(grey, None)
        if descriptors is None:
            return torch.zeros(0, 2), torch.zeros(0, 128)
        root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12))
        return torch.from_numpy(cv2.KeyPoint.convert(keypoints)), torch.from_numpy(root)


def create(store: Store) -> RootSIFT:
    """Build it; it needs nothing."""
    return RootSIFT()
