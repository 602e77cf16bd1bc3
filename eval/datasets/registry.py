"""All kinds of data sets, and the one that a path holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.datasets.base import Dataset, Reader
from eval.datasets.osdataset import OSDataset
from eval.datasets.pairs import Pairs
from eval.datasets.qxs import QXSSAROPT
from eval.datasets.sen12 import SEN12
from eval.datasets.spacenet9 import SpaceNet9
from eval.datasets.srif import SRIF
from eval.datasets.webdataset import WebDataset

# Those with the most telling layout first.
READERS: dict[str, type[Reader]] = {
    "webdataset": WebDataset,
    "srif": SRIF,
    "sen12": SEN12,
    "osdataset": OSDataset,
    "qxs": QXSSAROPT,
    "spacenet9": SpaceNet9,
    "pairs": Pairs,
}


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
    kind, colon, rest = str(path).partition(":")
    if colon and kind in READERS:
        reader, place = READERS[kind], Path(rest).expanduser()
        if split is not None and split not in reader.SPLITS:
            has = f"has the splits {', '.join(reader.SPLITS)}" if reader.SPLITS else "has no official splits"
            raise ValueError(f"{path}: no split {split!r}: {kind} {has}")
        found = list(reader.find(place, split))
        if not found:
            seen = f"; {told}" if (told := _seen(place)) and kind == "pairs" else ""
            raise FileNotFoundError(f"{place}: nothing here of {reader.HOW.format(path=place)}{seen}")
    else:
        place = Path(path).expanduser()
        suited = [reader for reader in READERS.values() if split is None or split in reader.SPLITS]
        found = _detect(place, split, suited)
        if not found and place.is_dir():
            folders = sorted(folder for folder in place.iterdir() if folder.is_dir())
            found = [dataset for folder in folders for dataset in _detect(folder, split, suited)]
        if not found:
            part = "" if split is None else f" with a split {split!r}"
            pairs = READERS["pairs"]
            seen = f"; {told}" if (told := _seen(place)) else ""
            raise FileNotFoundError(
                f"{path}: no data set here{part}{seen}; give the path of a WebDataset .tar or of a set's folder, or"
                f" name its kind, as in osdataset:{path}, to be told where to get it and where to put it"
                f" ({', '.join(READERS)}). For pairs of your own make {pairs.HOW.format(path=place)}"
            )
    if doubles := [name for name, count in Counter(dataset.name for dataset in found).items() if count > 1]:
        raise ValueError(f"{path}: several sets are called {doubles[0]!r}; open them one at a time or rename a folder")
    return found


def one_set(path: Path | str) -> Dataset:
    """Open what stands at a path, as :func:`open_dataset` does, or raise ValueError where it holds several sets."""
    datasets = open_dataset(path)
    if len(datasets) != 1:
        raise ValueError(f"{path} holds {len(datasets)} sets, name one: {', '.join(d.name for d in datasets)}")
    return datasets[0]


def _detect(path: Path, split: str | None, readers: Sequence[type[Reader]]) -> list[Dataset]:
    return next((list(found) for reader in readers if (found := reader.find(path, split))), [])


def _seen(path: Path) -> str:
    """Say which parts of pairs of one's own lie at a path; imported late as all kinds are."""
    from eval.datasets.pairs import Pairs

    return Pairs.seen(path)
