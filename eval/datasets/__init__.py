"""Data sets: each yields ``Sample`` in the order of its sorted names and is opened by path with ``open_dataset``.

One file a set; its class's docstring says whose the data are, under what licence, how they lie and how to get them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

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
        truth: (3, 3) matrix that maps optical to other where the set knows it; None for images aligned as they are,
            and where there are only tie points.
        meta: whatever else the set says of the pair.
        tie_points: (N, 4) points x0, y0 in optical and x1, y1 in other that show the same spot, in pixels with centres
            at integers; None where the set has none.
    """

    name: str
    optical: NDArray[np.uint8]
    other: NDArray[np.uint8]
    modality: str = "sar"
    truth: NDArray[np.float64] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    tie_points: NDArray[np.float64] | None = None


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


class Reader(Protocol):
    """A class of sets that can find its own layout.

    ``SPLITS`` are the names of its official parts; ``HOW`` says what it is, where to get it and where to put it.
    """

    SPLITS: ClassVar[tuple[str, ...]]
    HOW: ClassVar[str]

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> Sequence[Dataset]:
        """Open the sets of this layout at a path; none where the layout is another."""
        ...


def open_dataset(path: Path | str, split: str | None = None) -> list[Dataset]:
    """Open what stands at a path.

    Args:
        path: the path of a set, whose kind shows in its layout; or ``<kind>:<path>`` with a kind of ``webdataset``,
            ``srif``, ``sen12``, ``osdataset``, ``qxs``, ``spacenet9``, ``pairs``. A folder whose subfolders are sets
            opens them all; a folder of WebDataset tars its ``val-*.tar``.
        split: the part to open of a set that has official ones, such as ``train``; by default the one to evaluate on.

    Returns:
        One or more sets; no two have the same name, and each name can be part of a file name.

    Raises:
        FileNotFoundError: when the set is not there; says where to get it and where to put it.
        ValueError: when the set has no such split, cannot be read, or has another's name.
    """
    readers = _readers()
    kind, colon, rest = str(path).partition(":")
    if colon and kind in readers:
        reader, place = readers[kind], Path(rest).expanduser()
        if split is not None and split not in reader.SPLITS:
            has = f"has the splits {', '.join(reader.SPLITS)}" if reader.SPLITS else "has no official splits"
            raise ValueError(f"{path}: no split {split!r}: {kind} {has}")
        found = list(reader.find(place, split))
        if not found:
            seen = f"; {told}" if (told := _seen(place)) and kind == "pairs" else ""
            raise FileNotFoundError(f"{place}: nothing here of {reader.HOW.format(path=place)}{seen}")
    else:
        place = Path(path).expanduser()
        suited = [reader for reader in readers.values() if split is None or split in reader.SPLITS]
        found = _detect(place, split, suited)
        if not found and place.is_dir():
            folders = sorted(folder for folder in place.iterdir() if folder.is_dir())
            found = [dataset for folder in folders for dataset in _detect(folder, split, suited)]
        if not found:
            part = "" if split is None else f" with a split {split!r}"
            pairs = readers["pairs"]
            seen = f"; {told}" if (told := _seen(place)) else ""
            raise FileNotFoundError(
                f"{path}: no data set here{part}{seen}; give the path of a WebDataset .tar or of a set's folder, or"
                f" name its kind, as in osdataset:{path}, to be told where to get it and where to put it"
                f" ({', '.join(readers)}). For pairs of your own make {pairs.HOW.format(path=place)}"
            )
    if doubles := [name for name, count in Counter(dataset.name for dataset in found).items() if count > 1]:
        raise ValueError(f"{path}: several sets are called {doubles[0]!r}; open them one at a time or rename a folder")
    return found


def _detect(path: Path, split: str | None, readers: Sequence[type[Reader]]) -> list[Dataset]:
    return next((list(found) for reader in readers if (found := reader.find(path, split))), [])


def _seen(path: Path) -> str:
    """Say which parts of pairs of one's own lie at a path; imported late as all kinds are."""
    from eval.datasets.pairs import Pairs

    return Pairs.seen(path)


def _readers() -> dict[str, type[Reader]]:
    """All kinds, those with the most telling layout first; imported late because they import ``Sample``."""
    from eval.datasets.osdataset import OSDataset
    from eval.datasets.pairs import Pairs
    from eval.datasets.qxs import QXSSAROPT
    from eval.datasets.sen12 import SEN12
    from eval.datasets.spacenet9 import SpaceNet9
    from eval.datasets.srif import SRIF
    from eval.datasets.webdataset import WebDataset

    return {
        "webdataset": WebDataset,
        "srif": SRIF,
        "sen12": SEN12,
        "osdataset": OSDataset,
        "qxs": QXSSAROPT,
        "spacenet9": SpaceNet9,
        "pairs": Pairs,
    }
