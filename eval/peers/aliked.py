"""ALIKED-n16 with mutual nearest neighbours (Zhao et al., IEEE TIM 2023), through kornia."""

from __future__ import annotations

from pathlib import Path

import kornia
import torch
from kornia.feature import match_mnn

from eval.peers import Image, Matches, NotRun, count, digest, load_strictly, read_weights, to_tensor

FEATURES = 2048


class Aliked:
    """The network with its published weights, the 2048 strongest points, mutual nearest neighbours.

    Args:
        path: ``aliked-n16.pth`` of github.com/Shiaoming/ALIKED, BSD-3-Clause.
    """

    name = "ALIKED-n16"

    def __init__(self, path: Path) -> None:
        try:
            from kornia.feature import ALIKED
        except ImportError as error:
            raise NotRun("needs kornia >= 0.9") from error
        state = read_weights(path)
        self._net = ALIKED("aliked-n16", max_num_keypoints=FEATURES, detection_threshold=0.0)
        load_strictly(self._net, state)
        self.parameters = count(self._net)
        self.settings = f"kornia {kornia.__version__}, {FEATURES} features, mutual, weights {digest(path)}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is the cosine of the two descriptors, at least 0."""
        features0, features1 = (self._net(to_tensor(image))[0] for image in (image0, image1))
        distances, pairs = match_mnn(features0.descriptors, features1.descriptors)
        cosine = (1 - distances**2 / 2).clamp(0, 1)
        return Matches.of(features0.keypoints[pairs[:, 0]], features1.keypoints[pairs[:, 1]], cosine)


def create(weights: Path, checkpoint: Path | None) -> Aliked:
    """Build it from ``aliked/aliked-n16.pth``."""
    return Aliked(weights / "aliked" / "aliked-n16.pth")
