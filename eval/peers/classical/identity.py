"""Predicts that nothing moved: what any method must beat, because the warps are drawn around no movement."""

from __future__ import annotations

import numpy as np

from eval.peers.base import Image, Matches
from eval.peers.store import Store


class Identity:
    """A grid of points matched onto themselves, within both images."""

    name = "identity"
    parameters = 0
    settings = "grid of 8 px"

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match every eighth pixel onto itself."""
        height, width = np.minimum(image0.shape[:2], image1.shape[:2])
        grid = np.stack(np.meshgrid(np.arange(4, width, 8), np.arange(4, height, 8)), -1)
        points = grid.reshape(-1, 2).astype(np.float32)
        return Matches(points, points.copy(), np.ones(len(points), np.float32))


def create(store: Store) -> Identity:
    """Build it; it needs nothing."""
    return Identity()
