"""Data sets: each yields ``Sample`` in the order of its sorted names and is opened by path with ``open_dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """An optical image and another image of the same place.

    Args:
        name: unique within its set.
        optical: (H, W) or (H, W, 3) uint8.
        other: (H, W) uint8.
        modality: what ``other`` is: "sar", or another word such as "infrared".
        truth: (3, 3) matrix that maps optical to other where the set knows it; None for images aligned as they are.
        meta: whatever else the set says of the pair.
    """

    name: str
    optical: NDArray[np.uint8]
    other: NDArray[np.uint8]
    modality: str = "sar"
    truth: NDArray[np.float64] | None = None
    meta: dict[str, Any] = field(default_factory=dict)


class Dataset(Protocol):
    """A named set of samples, read one at a time."""

    @property
    def name(self) -> str:
        """The set's name, by which warps, caches and tables are called."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The samples' names, sorted."""
        ...

    def read(self, name: str) -> Sample:
        """Read one sample by its name."""
        ...


def open_dataset(path: Path) -> list[Dataset]:
    """Open what stands at a path: a WebDataset tar, a folder of them (its ``val-*.tar``), or an SRIF folder.

    Raises:
        FileNotFoundError: when nothing there can be read.
    """
    from eval.datasets.srif import SRIF
    from eval.datasets.webdataset import WebDataset

    if path.is_file() and path.suffix == ".tar":
        return [WebDataset(path)]
    if (path / "truth.json").is_file():
        return [SRIF(path)]
    if shards := sorted(path.glob("val-*.tar")):
        return [WebDataset(shard) for shard in shards]
    raise FileNotFoundError(
        f"{path}: no data set here; give a WebDataset .tar, a folder with val-*.tar, or an SRIF folder with truth.json"
    )
