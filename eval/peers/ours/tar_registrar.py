"""TAR with its registrar: starts at rotations and scales, then all cells' vote, as ``kornia-tar register`` works."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eval.peers.base import Image, Matches
from eval.peers.ours.tar import TAR
from eval.peers.store import Store


class TARRegistrar:
    """``kornia_tar.Registrar``'s tie points, so that the shared estimator judges them as it judges all others'.

    They follow a transform of the kind that the level's estimator fits.
    """

    name = "TAR + Registrar"
    one_transform = True

    def __init__(self, checkpoint: Path | None) -> None:
        matcher = TAR(checkpoint)
        self._net = matcher.net.fuse()
        self.parameters, self.settings = matcher.parameters, matcher.settings

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Register; the tie points are those of the transform that was found, whether it is accepted or not."""
        from kornia_tar import Registrar, RegistrarConfig

        config = RegistrarConfig(model="homography" if hints.get("model") == "homography" else "affine")
        modality0, modality1 = hints.get("modality0"), hints.get("modality1")
        found = Registrar(self._net, config)(image0, image1, modality0=modality0, modality1=modality1)
        m = found.matches
        points0, points1, confidence = (part.astype(np.float32) for part in (m.points0, m.points1, m.confidence))
        return Matches(points0, points1, confidence, accepted=found.registered)


def create(store: Store) -> TARRegistrar:
    """Build it from a checkpoint, or from the one that kornia_tar ships."""
    return TARRegistrar(store.checkpoint)
