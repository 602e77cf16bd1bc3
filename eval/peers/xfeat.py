"""XFeat, sparse, with mutual nearest neighbours (Potje et al., CVPR 2024), through kornia."""

from __future__ import annotations

import kornia
import torch
from kornia.feature import match_mnn

from eval.peers import Image, Matches, NotRun, Store, count, to_tensor

FEATURES = 4096
FILE = "xfeat/xfeat_from_onnx_kornia_state_dict.pt"
URL = "https://github.com/verlab/accelerated_features/raw/main/weights/xfeat.pt"  # in kornia's names


class XFeat:
    """The network with its published weights, at most 4096 points, mutual nearest neighbours.

    kornia's points are in our frame where height and width are multiples of 32; else half a resized pixel is put back.

    Args:
        store: with ``xfeat/xfeat_from_onnx_kornia_state_dict.pt``, the weights of
            github.com/verlab/accelerated_features in kornia's names, Apache-2.0.
    """

    name = "XFeat"

    def __init__(self, store: Store) -> None:
        try:
            from kornia.feature import XFeat as KorniaXFeat
        except ImportError as error:
            raise NotRun("needs kornia >= 0.9") from error
        self._xfeat = KorniaXFeat(top_k=FEATURES)
        # The semi-dense refinement is not run here.
        store.load(self._xfeat.net, FILE, URL, unused="fine_matcher")
        self._xfeat.eval()
        self.parameters = count(self._xfeat)
        self.settings = f"kornia {kornia.__version__}, sparse, {FEATURES} features, mutual, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is the cosine of the two descriptors, at least 0."""
        (points0, descriptors0), (points1, descriptors1) = self._extract(image0), self._extract(image1)
        distances, pairs = match_mnn(descriptors0, descriptors1)
        return Matches.of(points0[pairs[:, 0]], points1[pairs[:, 1]], (1 - distances**2 / 2).clamp(0, 1))

    def _extract(self, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
        features = self._xfeat.detectAndCompute(to_tensor(image))[0]
        size = torch.tensor(image.shape[1::-1], dtype=torch.float32)
        resized = (size // 32 * 32).clamp(min=32)
        # kornia scales pixel i to i * size / resized; its centre lies at (i + 0.5) * size / resized - 0.5.
        return features["keypoints"] + (size / resized - 1) / 2, features["descriptors"]


def create(store: Store) -> XFeat:
    """Build it."""
    return XFeat(store)
