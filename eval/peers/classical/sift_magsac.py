"""RootSIFT, its matches filtered by MAGSAC++ (Barath et al., CVPR 2020) before the estimator that all share."""

from __future__ import annotations

import cv2
import numpy as np

from eval.peers.base import Image, Matches
from eval.peers.classical.sift import RootSIFT
from eval.peers.store import Store


class RootSIFTMagsac(RootSIFT):
    """The inliers of a homography by OpenCV's ``USAC_MAGSAC`` at 3 px, 10 000 iterations, confidence 0.9999.

    Where it finds no model, nothing is left: it then says that the images do not match.
    """

    name = "RootSIFT + MAGSAC"
    settings = f"{RootSIFT.settings}, USAC_MAGSAC 3 px"

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match and filter; the confidence is RootSIFT's."""
        found = super().match(image0, image1)
        inliers = np.zeros(len(found.points0), bool)
        if len(inliers) >= 4:
            cv2.setRNGSeed(0)
            ends = found.points0.astype(np.float64), found.points1.astype(np.float64)
            matrix, mask = cv2.findHomography(*ends, cv2.USAC_MAGSAC, 3.0, maxIters=10_000, confidence=0.9999)
            if matrix is not None:
                inliers = mask.ravel().astype(bool)
        return Matches(found.points0[inliers], found.points1[inliers], found.confidence[inliers])


def create(store: Store) -> RootSIFTMagsac:
    """Build it; it needs nothing."""
    return RootSIFTMagsac()
