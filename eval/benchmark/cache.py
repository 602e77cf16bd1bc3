"""Matches on disk: one HDF5 file per set, level and matcher, one group per pair, so that scoring needs no matching.

The file is only ever replaced as a whole by a longer copy of itself. A killed run leaves the last copy, in which every
pair is complete; at most the last seconds of work are done again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from eval.peers import Matches
from kornia_tar.files import replacing

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
        with replacing(self.path) as temporary:
            if not self._fresh:
                shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "w" if self._fresh else "r+") as file:
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
    try:
        with h5py.File(path, "r") as file:
            return dict(json.loads(file.attrs["about"]))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a cache of matches ({error}); delete it and run again") from error


def read_names(path: Path) -> list[str]:
    """Read the names of the pairs that a file holds."""
    with h5py.File(path, "r") as file:
        return sorted(file)


def read_digests(path: Path) -> dict[str, str]:
    """Read the digest of the pair that each entry answers, by name."""
    with h5py.File(path, "r") as file:
        return {name: str(group.attrs.get("digest", "")) for name, group in file.items()}


def read_predictions(path: Path, names: Sequence[str]) -> list[Prediction]:
    """Read the predictions of these pairs, in their order."""
    with h5py.File(path, "r") as file:
        return [_read(file[name]) for name in names]


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
