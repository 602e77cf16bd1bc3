"""GeFolki (Brigot et al., IEEE JSTARS 2016): dense flow by local ranks, made for SAR and optics.

The package gefolki is GPL-3.0. It is run beside this project where a user has installed it; nothing of it is shipped.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any
from unittest import mock

import numpy as np

from eval.peers.base import Image, Matches
from eval.peers.classical import _grid as grid
from eval.peers.store import Store, need
from kornia_tar.raster import to_grey

INSTALL = (
    "pip install -c constraints.txt --no-deps gefolki scipy scikit-image imagecodecs loguru lazy-loader imageio"
    " tifffile networkx (gefolki is GPL-3.0)"
)
# As in the package's own example of an optical and a radar image.
RADII = tuple(range(32, 4, -4))
RANK, ITERATIONS, LEVELS = 4, 2, 6


class GeFolki:
    """The flow with the parameters of the package's optical and radar example, read off on a grid.

    It refines images that lie nearly upon one another: it starts from no movement. Two images of different size are
    filled with zeros to a common one.
    """

    name = "GeFolki"
    parameters = 0

    def __init__(self) -> None:
        try:
            from gefolki import GEFolki, adapthist
        except ImportError as error:
            raise need("gefolki", INSTALL) from error
        self._flow, self._rescale = GEFolki, adapthist.rescale_intensity
        self.settings = (
            f"gefolki {version('gefolki')}, radii {RADII}, rank {RANK}, {ITERATIONS} iterations, {LEVELS} levels, grid"
            f" of {grid.STEP} px"
        )

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is 1 for all."""
        height, width = np.maximum(image0.shape[:2], image1.shape[:2])
        padded = [_padded(image, height, width) for image in (image0, image1)]
        if any(np.ptp(image) == 0 for image in padded):  # it divides by the range
            return grid.none()
        fixed = mock.patch("gefolki.adapthist.rescale_intensity", self._whole)
        levels = max(
            0, min(LEVELS, int(np.log2(min(height, width) / RANK)))
        )  # no level is smaller than a rank's window
        with np.errstate(all="ignore"), fixed:  # divisions by zero on flat ground are its own, and set to zero
            flow = self._flow(*padded, iteration=ITERATIONS, radius=RADII, rank=RANK, levels=levels)
        points0 = grid.points(image0)
        x, y = points0.astype(int).T
        points1 = points0 + np.stack([part[y, x] for part in flow], axis=1)
        sure = np.ones(len(points0), np.float32)
        return Matches(points0.astype(np.float32), points1.astype(np.float32), sure).on_images(image0, image1)

    def _whole(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """Rescale whole numbers to whole numbers, as the scikit-image that gefolki was written for did."""
        return np.asarray(self._rescale(image, *args, **kwargs)).astype(image.dtype)


def _padded(image: Image, height: int, width: int) -> np.ndarray:
    grey = to_grey(image)
    below, right = height - grey.shape[0], width - grey.shape[1]
    return np.pad(grey, ((0, below), (0, right))).astype(np.float32)


def create(store: Store) -> GeFolki:
    """Build it; it needs no weights."""
    return GeFolki()
