"""DeDoDe (Edstedt et al., 3DV 2024) with LightGlue, through kornia."""

from __future__ import annotations

import torch
from kornia.feature import DeDoDe

from eval.peers.base import Image, count, to_tensor
from eval.peers.learned import _lightglue as lightglue
from eval.peers.store import Store

FEATURES = 2048
DETECTOR = "dedode/dedode_detector_L_v2.pth"
URL = "https://github.com/Parskatt/DeDoDe/releases/download/"
DETECTOR_URL = URL + "v2/dedode_detector_L_v2.pth"
DESCRIPTOR_URL = URL + "dedode_pretrained_models/dedode_descriptor_B.pth"
GLUE_URL = "https://cmp.felk.cvut.cz/~mishkdmy/models/dedodeb_lightglue.pth"


class Dedode(lightglue.Sparse):
    """Detector L of version 2, descriptor B, the 2048 strongest points, the LightGlue that kornia trained for them.

    kornia's DeDoDe counts pixel centres from 0.5, and so does the LightGlue trained on it; half a pixel is taken off
    the matches.

    Args:
        store: with ``dedode/dedode_detector_L_v2.pth`` and ``dedode/dedode_descriptor_B.pth``
            (github.com/Parskatt/DeDoDe, MIT) and ``lightglue/dedodeb_lightglue.pth`` (kornia, Apache-2.0).
    """

    name = "DeDoDe + LightGlue"
    offset = 0.5

    def __init__(self, store: Store) -> None:
        if not store.untrained:  # asked for before the slow building
            store.file(DETECTOR, DETECTOR_URL)
        self._net = DeDoDe(detector_model="L", descriptor_model="B", amp_dtype=torch.float32).eval()
        store.load(self._net.detector, DETECTOR, DETECTOR_URL)
        store.load(self._net.descriptor, "dedode/dedode_descriptor_B.pth", DESCRIPTOR_URL)
        glue = lightglue.build("dedodeb", store, GLUE_URL)
        self.parameters = count(self._net, glue)
        super().__init__(glue, f"L v2, B upright, {FEATURES} features, {store.settings}")

    def extract(self, image: Image) -> lightglue.Features:
        """Return the strongest points of an image."""
        points, _, descriptors = self._net(to_tensor(image, 3), n=FEATURES)
        return points[0], descriptors[0]


def create(store: Store) -> Dedode:
    """Build it."""
    return Dedode(store)
