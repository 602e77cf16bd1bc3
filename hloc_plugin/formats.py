"""hloc's files, read and written without hloc: pairs, features and matches.

Convention:
    Keypoints are (x, y) pixels of the image as it lies in its file, pixel centres at integers, as hloc has them.
    COLMAP counts from the corner of the first pixel: +0.5, added in :mod:`hloc_plugin.database` alone.

Layout (hloc 1.5):
    features: a group for each image with ``keypoints`` (K, 2) float32 and ``score`` (K,) float32.
    matches: a group for each pair (:func:`names_to_pair`) with ``matches0`` (K0,) int32, the keypoint of image1 or -1,
    and ``matching_scores0`` (K0,) float16; dense matchers add ``keypoints0``, ``keypoints1`` (M, 2) and ``scores``
    (M,), all float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from kornia_tar.files import one_line, replacing
from kornia_tar.geometry import PointMatches

Pair = tuple[str, str]
Floats = NDArray[np.float32]


def names_to_pair(name0: str, name1: str) -> str:
    """The group of a pair: "a/b.png", "c.png" → "a-b.png/c.png"."""
    return "/".join(name.replace("/", "-") for name in (name0, name1))


def read_pairs(path: Path) -> list[Pair]:
    """Read "name0 name1" lines; a pair that came before, in either order, is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not two names, or none at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of pairs")
    pairs: dict[frozenset[str], Pair] = {}
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        names = line.split()
        if not names or line.startswith("#"):
            continue
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"{path}, line {number}: need two different image names without blanks, got {line!r}")
        pairs.setdefault(frozenset(names), (names[0], names[1]))
    if not pairs:
        raise ValueError(f"{path}: names no pair; write one 'name0 name1' a line")
    return list(pairs.values())


def write_features(path: Path, keypoints: Mapping[str, tuple[Floats, Floats]]) -> None:
    """Write image name → (keypoints (K, 2), score (K,))."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for name, (points, score) in keypoints.items():
            group = file.create_group(name)
            group["keypoints"] = np.asarray(points, np.float32).reshape(-1, 2)
            group["score"] = np.asarray(score, np.float32)


def write_matches(path: Path, matches: Mapping[Pair, tuple[PointMatches, NDArray[np.integer], Floats]]) -> None:
    """Write pair → (dense matches, (K, 2) indices of keypoints, (K,) their scores)."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for pair, (dense, indices, scores) in matches.items():
            group = file.create_group(names_to_pair(*pair))
            arrays = {"keypoints0": dense.points0, "keypoints1": dense.points1, "scores": dense.confidence}
            for name, array in arrays.items():
                group[name] = np.asarray(array, np.float32)
            count = int(indices[:, 0].max()) + 1 if len(indices) else 0
            matches0 = np.full(count, -1, np.int32)
            scores0 = np.zeros(count, np.float16)
            matches0[indices[:, 0]], scores0[indices[:, 0]] = indices[:, 1], scores
            group["matches0"], group["matching_scores0"] = matches0, scores0


def read_keypoints(path: Path, names: Iterable[str]) -> dict[str, Floats]:
    """Image name → (K, 2) float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no HDF5 file, or an image is not in it.
    """
    with _opened(path, "features") as file:
        found = {}
        for name in names:
            if name not in file or "keypoints" not in file[name]:
                raise ValueError(f"{path}: has no keypoints of {name}; was it written for other images?")
            found[name] = np.asarray(file[name]["keypoints"], np.float32).reshape(-1, 2)
        return found


def read_matches(path: Path, pairs: Iterable[Pair]) -> dict[Pair, NDArray[np.int64]]:
    """Pair → (M, 2) indices of keypoints; a pair that is stored the other way round is turned.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no HDF5 file, or a pair is not in it.
    """
    with _opened(path, "matches") as file:
        found = {}
        for name0, name1 in pairs:
            turned = names_to_pair(name0, name1) not in file
            key = names_to_pair(name1, name0) if turned else names_to_pair(name0, name1)
            if key not in file or "matches0" not in file[key]:
                raise ValueError(f"{path}: has no matches of {name0} and {name1}; was it written for other pairs?")
            matches0 = np.asarray(file[key]["matches0"])
            first = np.flatnonzero(matches0 >= 0)
            found[name0, name1] = np.stack([first, matches0[first]][:: -1 if turned else 1], axis=-1).astype(np.int64)
        return found


def _opened(path: Path, what: str) -> h5py.File:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of {what}")
    try:
        return h5py.File(path, "r", libver="latest")
    except OSError as error:
        raise ValueError(f"{path}: is not a file of {what} ({one_line(error)})") from error
