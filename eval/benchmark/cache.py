"""Matches on disk: one HDF5 file per set, level and matcher, one group per pair, so that scoring needs no matching.

The file is only ever replaced as a whole by a longer copy of itself. A killed run leaves the last copy, in which every
pair is complete; at most the last seconds of work are done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from eval.peers import Matches
from kornia_tar.files import check_promised, one_line, writing_hdf5

SECONDS_BETWEEN_COPIES = 5.0


@dataclass(frozen=True)
class Prediction:
    """What a matcher said of one pair, and what is needed to score it.

    Args:
        matches: the matches.
        truth: (3, 3), image0 -> image1.
        shape0: height and width of image0.
        border: how image1 ends, see ``protocol.Pair``.
        seconds: CPU time of the match, of all threads together.
        digest: of the pair that was asked, see ``protocol.Pair.digest``.
        tie_points: (N, 4) x0, y0, x1, y1, or None.
    """

    matches: Matches
    truth: NDArray[np.float64]
    shape0: tuple[int, int]
    border: str
    seconds: float
    digest: str
    tie_points: NDArray[np.float64] | None = None


class Cache:
    """Predictions of one matcher on one set and level; use as a context, which writes what is pending at its end.

    Args:
        path: the HDF5 file; made by the first write.
        about: what is said of the whole file. ``key`` in it decides: a file with another key is started anew. It is
            written with every copy, so it may grow while pairs are added.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self._about = about
        self._pending: dict[str, Prediction] = {}
        self._written = time.monotonic()
        self._fresh = not path.is_file() or read_about(path).get("key") != about["key"]
        self._digests: dict[str, str] = {} if self._fresh else read_digests(path)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def holds(self, name: str, digest: str) -> bool:
        """Whether the answer to this very pair is kept; one to other images or another truth is none."""
        return self._digests.get(name) == digest

    def add(self, name: str, prediction: Prediction) -> None:
        """Add a pair, in place of one of its name; it reaches the disk within seconds of the next call."""
        self._pending[name] = prediction
        self._digests[name] = prediction.digest
        if time.monotonic() - self._written > SECONDS_BETWEEN_COPIES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, atomically."""
        if not self._pending:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing_hdf5(self.path, None if self._fresh else self.path.read_bytes()) as file:
            file.attrs["about"] = json.dumps(self._about)
            for name, prediction in self._pending.items():
                if name in file:
                    del file[name]
                _write(file.create_group(name), prediction)
        self._fresh = False
        self._pending = {}
        self._written = time.monotonic()


def cache_path(folder: Path, dataset: str, level: str, matcher: str) -> Path:
    """Return the cache file of a matcher on a set and level."""
    return folder / f"{dataset}.{level}.{file_key(matcher)}.h5"


def file_key(matcher: str) -> str:
    """Return a matcher's name as part of a file's name."""
    return matcher.replace(":", "-")


def read_about(path: Path) -> dict[str, Any]:
    """Read what a file says of itself, or raise ValueError where it is none of ours."""
    with _opened(path) as file:
        return dict(json.loads(file.attrs["about"]))


def read_names(path: Path) -> list[str]:
    """Read the names of the pairs that a file holds."""
    with _opened(path) as file:
        return sorted(file)


def read_digests(path: Path) -> dict[str, str]:
    """Read the digest of the pair that each entry answers, by name."""
    with _opened(path) as file:
        return {name: str(group.attrs.get("digest", "")) for name, group in file.items()}


def read_predictions(path: Path, names: Sequence[str]) -> list[Prediction]:
    """Read the predictions of these pairs, in their order."""
    with _opened(path) as file:
        return [_read(file[name]) for name in names]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file to read; whatever is wrong with it becomes one line."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except Exception as error:  # what h5py raises on a damaged file is no closed list
        raise ValueError(f"{path}: not a cache of matches ({one_line(error)}); delete it and run again") from error


def _write(group: h5py.Group, prediction: Prediction) -> None:
    group["keypoints0"] = prediction.matches.points0.astype(np.float32)
    group["keypoints1"] = prediction.matches.points1.astype(np.float32)
    group["confidence"] = prediction.matches.confidence.astype(np.float32)
    if prediction.matches.std is not None:
        group["std"] = prediction.matches.std.astype(np.float32)
    if prediction.tie_points is not None:
        group["tie_points"] = prediction.tie_points
    group.attrs["truth"] = prediction.truth
    group.attrs["shape0"] = prediction.shape0
    group.attrs["border"] = prediction.border
    group.attrs["seconds"] = prediction.seconds
    group.attrs["digest"] = prediction.digest
    if prediction.matches.accepted is not None:
        group.attrs["accepted"] = prediction.matches.accepted


def _read(group: h5py.Group) -> Prediction:
    height, width = (int(side) for side in group.attrs["shape0"])
    for dataset in group.values():
        check_promised(dataset)
    return Prediction(
        matches=Matches(
            points0=group["keypoints0"][()],
            points1=group["keypoints1"][()],
            confidence=group["confidence"][()],
            std=group["std"][()] if "std" in group else None,
            accepted=bool(group.attrs["accepted"]) if "accepted" in group.attrs else None,
        ),
        truth=np.asarray(group.attrs["truth"], dtype=np.float64),
        shape0=(height, width),
        border=str(group.attrs["border"]),
        seconds=float(group.attrs["seconds"]),
        digest=str(group.attrs.get("digest", "")),
        tie_points=group["tie_points"][()] if "tie_points" in group else None,
    )
