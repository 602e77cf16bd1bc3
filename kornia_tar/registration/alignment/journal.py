"""What tiles said, kept while a large scene is looked at, so that a run that was interrupted goes on where it was.

A tile is known by all that its answer depends on: the network, its pixels, and which of its cells are asked. So nothing
that is kept can be out of date; at worst it is of no use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.evidence import DisplacementMaps

Arrays = Mapping[str, NDArray[Any]]


class Journal(Protocol):
    """Keeps arrays by name, and is told how far a look at many tiles is."""

    def load(self, name: str) -> Arrays | None:
        """Return what was saved under a name; None where nothing was, or nothing that can be read."""

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name."""

    def progress(self, done: int, total: int) -> None:
        """Take note that so many of the tiles of one look are done."""


class TileAnswer(NamedTuple):
    """What some cells of one tile say, in the frame of its image."""

    own: int  # cells of image0 that were there to choose from
    in1: DisplacementMaps
    in0: DisplacementMaps

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays; inverse of :meth:`from_arrays`."""
        found: dict[str, NDArray[Any]] = {"own": np.array(self.own), "step": np.array(self.in1.step)}
        for name, maps in (("in1", self.in1), ("in0", self.in0)):
            found |= {
                f"{name}_{part}": getattr(maps, part).detach().numpy() for part in ("points", "corner", "probability")
            }
        return found

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> TileAnswer | None:
        """Read what :meth:`to_arrays` gives; None where it is something else."""
        try:
            sides = []
            for name in ("in1", "in0"):
                points, corner, probability = (
                    torch.from_numpy(np.asarray(arrays[f"{name}_{part}"], np.float32))
                    for part in ("points", "corner", "probability")
                )
                if points.shape != corner.shape or points.shape[1:] != (2,) or len(points) != len(probability):
                    return None
                sides.append(DisplacementMaps(points, corner, probability, float(arrays["step"])))
            return cls(int(arrays["own"]), *sides)
        except (KeyError, TypeError, ValueError):
            return None


def tile_name(network: str, tile0: MaskedImage, tile1: MaskedImage, *asked: Any) -> str:
    """Name a tile by a hash of all that its answer depends on.

    Args:
        network: a hash of the weights.
        tile0: of image0.
        tile1: of image1, warped.
        asked: which of its cells are asked, and where it lies; plain values.
    """
    told = hashlib.sha256(repr((network, asked)).encode())
    for tile in (tile0, tile1):
        told.update(tile.digest)
    return told.hexdigest()


def network_name(net: torch.nn.Module) -> str:
    """Name a network by a hash of its weights, of what steers it, and of where it runs."""
    steering = getattr(net, "steering", None)
    told = hashlib.sha256(repr(steering and [part.tolist() for part in steering]).encode())
    for key, value in net.state_dict().items():
        told.update(f"{key} {value.dtype} {value.device.type}".encode())
        told.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
