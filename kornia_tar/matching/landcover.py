"""Land cover in words: what TAFE reads in two images, as maps, shares and one picture.

The map is that of the land-cover head (``network/tafe.py``), per cell of 8×8 pixels the probability of each of the
text's names; of weights without that head it is TAFE's attention. How true it is, is measured by ``python -m eval study
landcover``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.conventions import CELL, MODALITIES
from kornia_tar.matching.matcher import TARMatcher

_TILE, _OVERLAP = 1024, 128  # px, multiples of a cell; bounds the memory, and hides the seams


@dataclass(frozen=True)
class LandCoverMap:
    """Land cover of one image, one value per cell of 8×8 pixels.

    Attributes:
        names: K words.
        probabilities: (K, h, w) float32, sum to one in each cell, or to less: the rest is "none of these".
        valid: (h, w) bool, False where more than half of the cell is nodata.
        modality: "optical" or "sar", what the image was taken for.
        seen: those of the names that training taught the look of; None where the map is TAFE's attention.
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    valid: NDArray[np.bool_]
    modality: str
    seen: tuple[str, ...] | None = None

    @property
    def dominant(self) -> NDArray[np.intp]:
        """(h, w) index of the most probable name; -1 at invalid cells."""
        return np.where(self.valid, self.probabilities.argmax(axis=0), -1)

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) share of the valid cells in which each name is the most probable."""
        return np.bincount(self.dominant[self.valid], minlength=len(self.names)) / max(1, self.valid.sum())

    @property
    def mean(self) -> NDArray[np.float64]:
        """(K,) mean probability over the valid cells."""
        return self.probabilities[:, self.valid].mean(axis=1, dtype=np.float64)

    def only(self, names: Sequence[str]) -> LandCoverMap:
        """The same map with ``names`` alone to choose from, as if the text had no others.

        Raises:
            ValueError: a name that the map does not speak of, or fewer than two.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"the text has no {', '.join(map(repr, unknown))}: it has {', '.join(self.names)}")
        if len(set(names)) < 2:
            raise ValueError(f"need two names or more to choose from, got {', '.join(names) or 'none'}")
        chosen = tuple(dict.fromkeys(names))
        part = self.probabilities[[self.names.index(name) for name in chosen]]
        part = part.clip(np.finfo(np.float32).tiny)
        return replace(self, names=chosen, probabilities=part / part.sum(axis=0))


@dataclass(frozen=True)
class Agreement:
    """How far the maps of two images that lie on each other say the same.

    Attributes:
        cells: cells valid in both.
        same: share of them with the same dominant name.
        chance: what the two maps' shares alone would give.
    """

    cells: int
    same: float
    chance: float


def compare_landcover(first: LandCoverMap, second: LandCoverMap) -> Agreement:
    """Compare two maps cell by cell.

    Raises:
        ValueError: maps of different names or sizes.
    """
    if first.names != second.names or first.valid.shape != second.valid.shape:
        raise ValueError(
            f"maps of {len(first.names)} names on {first.valid.shape} and of {len(second.names)} on "
            f"{second.valid.shape} cells: need the same"
        )
    both = first.valid & second.valid
    a, b = first.dominant[both], second.dominant[both]
    if not len(a):
        return Agreement(0, float("nan"), float("nan"))
    shares = [np.bincount(k, minlength=len(first.names)) / len(k) for k in (a, b)]
    return Agreement(len(a), float((a == b).mean()), float(shares[0] @ shares[1]))


@torch.inference_mode()
def read_landcover(
    matcher: TARMatcher, grey: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, modality: str | None = None
) -> LandCoverMap:
    """Read an image's land cover, tile by tile where a side is beyond 1024 px.

    Args:
        matcher: whose text has at least one name.
        grey: (H, W), sides of at least 32 px, as :func:`kornia_tar.raster.to_grey8` gives it.
        mask: (H, W), True = valid; default everywhere.
        modality: "optical" or "sar"; None: told from the image.

    Raises:
        ValueError: a matcher without text names, or an image that it refuses.
    """
    if not matcher.text_names:
        raise ValueError("these weights contain no text, so there is no land-cover map; give a bank or other weights")
    if len(matcher.text_names) != len(matcher.net.tafe.tokens):
        told = f"{len(matcher.text_names)} names for {len(matcher.net.tafe.tokens)} features"
        raise ValueError(f"these weights have {told} of their text; give a bank or other weights")
    device = next(matcher.parameters()).device
    valid = np.ones(grey.shape, bool) if mask is None else mask
    image = torch.from_numpy(grey)[None, None].to(device).float() / 255
    shown = torch.from_numpy(valid)[None, None].to(device).float()
    modality = modality or MODALITIES[int(matcher.infer_modality(image, shown).argmax())]
    rows, columns = -(-grey.shape[0] // CELL), -(-grey.shape[1] // CELL)
    total = np.zeros((len(matcher.text_names), rows, columns), np.float32)
    weight, seen = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), bool)
    for y in _starts(grey.shape[0]):
        for x in _starts(grey.shape[1]):
            part = slice(y, y + _TILE), slice(x, x + _TILE)
            if not valid[part].any():
                continue
            found = matcher.encode(image[..., *part], shown[..., *part], modality).features
            assert found.mask is not None  # a mask was given
            at = slice(y // CELL, (y + _TILE) // CELL), slice(x // CELL, (x + _TILE) // CELL)
            height, width = weight[at].shape  # the net's map may hold a padded cell more
            feather = np.minimum.outer(_ramp(height), _ramp(width))
            total[:, *at] += found.landcover[0, :, :height, :width].float().cpu().numpy() * feather
            weight[at] += feather
            seen[at] |= found.mask[0, :height, :width].cpu().numpy()
    flat = np.float32(1 / len(total))
    return LandCoverMap(
        matcher.text_names, np.where(weight > 0, total / np.maximum(weight, 1e-9), flat), seen, modality,
        matcher.seen_names,
    )  # fmt: skip


def _starts(length: int) -> list[int]:
    """Where tiles begin; the last one ends with the image, on the grid of cells."""
    last = max(0, -(-(length - _TILE) // CELL) * CELL)
    return [*range(0, last, _TILE - _OVERLAP), last]


def _ramp(length: int) -> NDArray[np.float32]:
    """Weights of a tile's cells along a side: 1, falling towards its ends within the overlap."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(distance / (_OVERLAP // CELL), 1).astype(np.float32)
