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

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from kornia_tar.files import check_promised, one_line, reading_hdf5, writing_hdf5
from kornia_tar.geometry import PointMatches
from kornia_tar.raster import source_files

Pair = tuple[str, str]
Floats = NDArray[np.float32]


def names_to_pair(name0: str, name1: str) -> str:
    """The group of a pair: "a/b.png", "c.png" → "a-b.png/c.png"."""
    return "/".join(name.replace("/", "-") for name in (name0, name1))


def dense_paths(output: str, pairs: Path, folder: Path) -> tuple[Path, Path]:
    """Name the files of features and of matches as hloc's dense matching does.

    Args:
        output: of the conf.
        pairs: text file of pairs.
        folder: that both files lie in.
    """
    return folder / f"feats_{output}.h5", folder / f"{output}_{pairs.stem}.h5"


def read_pairs(path: Path, image_dir: Path | None = None) -> list[Pair]:
    """Read "name0 name1" lines; a pair that came before, in either order, is left out.

    Args:
        path: text file of pairs.
        image_dir: folder that the names count from, to make sure that the images are there; None: that is not asked.

    Raises:
        FileNotFoundError: no such file, or no such image.
        ValueError: a line that is not two names, or none at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of pairs")
    pairs: dict[frozenset[str], Pair] = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        names = line.split()
        if not names or line.startswith("#"):
            continue
        if len(names) > 2:
            raise ValueError(
                f"{path}, line {number}: need two image names, got {line!r}; hloc and COLMAP part names at blanks, so "
                "that no name may have one: rename the images, or let tar-hloc prepare write them under names without"
            )
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"{path}, line {number}: need two different image names, got {line!r}")
        pairs.setdefault(frozenset(names), (names[0], names[1]))
    if not pairs:
        raise ValueError(f"{path}: names no pair; write one 'name0 name1' a line")
    for name in dict.fromkeys(name for pair in pairs.values() for name in pair) if image_dir else ():
        if not (image_dir / name).is_file():  # type: ignore[operator]
            raise FileNotFoundError(f"{image_dir / name}: no such image, but {path} names it")  # type: ignore[operator]
    return list(pairs.values())


def image_files(image_dir: Path, pairs: Sequence[Pair]) -> list[Path]:
    """List the files of all images of pairs, with those that they are read from themselves."""
    names = dict.fromkeys(name for pair in pairs for name in pair)
    return [path for name in names for path in source_files(image_dir / name)]


def write_features(path: Path, keypoints: Mapping[str, tuple[Floats, Floats]]) -> None:
    """Write image name → (keypoints (K, 2), score (K,))."""
    with writing_hdf5(path) as file:
        for name, (points, score) in keypoints.items():
            group = file.create_group(name)
            group["keypoints"] = np.asarray(points, np.float32).reshape(-1, 2)
            group["score"] = np.asarray(score, np.float32)


def write_matches(path: Path, matches: Mapping[Pair, tuple[PointMatches, NDArray[np.integer], Floats]]) -> None:
    """Write pair → (dense matches, (K, 2) indices of keypoints, (K,) their scores)."""
    with writing_hdf5(path) as file:
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
        ValueError: it is no HDF5 file, or an image is not in it, or its keypoints are none.
    """
    with _opened(path, "features") as file:
        found = {}
        for name in names:
            if name not in file or "keypoints" not in file[name]:
                raise Unfit(f"has no keypoints of {name}; was it written for other images?")
            found[name] = points = _array(file[name]["keypoints"], "iuf", 2).astype(np.float32)
            if points.shape[1] < 2 or not np.isfinite(points).all():
                raise Unfit(f"the keypoints of {name} are no finite (x, y)")
            found[name] = points[:, :2]
        return found


def read_matches(path: Path, pairs: Iterable[Pair]) -> dict[Pair, NDArray[np.int64]]:
    """Pair → (M, 2) indices of keypoints; a pair that is stored the other way round is turned.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no HDF5 file, or a pair is not in it, or its matches are none.
    """
    with _opened(path, "matches") as file:
        found = {}
        for name0, name1 in pairs:
            turned = names_to_pair(name0, name1) not in file
            key = names_to_pair(name1, name0) if turned else names_to_pair(name0, name1)
            if key not in file or "matches0" not in file[key]:
                raise Unfit(f"has no matches of {name0} and {name1}; was it written for other pairs?")
            matches0 = _array(file[key]["matches0"], "iu", 1)
            first = np.flatnonzero(matches0 >= 0)
            found[name0, name1] = np.stack([first, matches0[first]][:: -1 if turned else 1], axis=-1).astype(np.int64)
        return found


def check_others(output: str, pairs: Sequence[Pair], matches: Path, *, whole: bool) -> None:
    """Refuse to replace keypoints that the matches of further pairs in the same folder count.

    Args:
        output: of the conf: its files of matches share one file of features.
        pairs: whose images get new keypoints.
        matches: file that these pairs' matches go into.
        whole: whether that file is replaced as a whole, rather than pair by pair.

    Raises:
        ValueError: which file holds such matches, and what to do.
    """
    anew = {names_to_pair(*pair) for name0, name1 in pairs for pair in ((name0, name1), (name1, name0))}
    images = {name for pair in anew for name in pair.split("/")}
    for path in sorted(matches.parent.glob(f"{glob.escape(output)}_*.h5")):
        if path == matches and whole:
            continue
        with _opened(path, "matches") as file:
            stored = {f"{name0}/{name1}" for name0 in file for name1 in file[name0]}
        for pair in sorted(stored - (anew if path == matches else set())):
            if images & set(pair.split("/")):
                name0, name1 = pair.split("/")
                raise ValueError(
                    f"{path}: its matches of {name0} and {name1} count keypoints that would be replaced; name all "
                    "pairs in one file (and remove other files of matches), or choose another folder"
                )


def check_kept(pairs: Sequence[Pair], features: Path, matches: Path) -> None:
    """Refuse pairs whose images have keypoints already: hloc keeps these, and loses most matches without a word.

    Args:
        pairs: that hloc is to match; those that it has matched before are none of this.
        features: hloc's file, which may be missing.
        matches: hloc's file, which may be missing.

    Raises:
        ValueError: which image or pair it is, and what to do.
    """
    again = "give --overwrite (overwrite=True)"
    known: set[str] = set()
    if features.is_file():
        with _opened(features, "features") as file:
            known = {name for pair in pairs for name in pair if name in file and "keypoints" in file[name]}
    done: dict[Pair, bool] = {}
    if matches.is_file():
        with _opened(matches, "matches") as file:
            for pair in pairs:
                for key in (names_to_pair(*pair), names_to_pair(*pair[::-1])):
                    if key in file:
                        done[pair] = "matches0" in file[key] and known >= set(pair)
    for pair in pairs:
        name0, name1 = pair
        if not done.get(pair, True):
            raise ValueError(f"{matches}: an interrupted run left {name0} and {name1} half matched: {again}")
        if pair not in done and (kept := known & set(pair)):
            raise ValueError(
                f"{features}: holds keypoints of {sorted(kept)[0]}, which hloc would keep: most matches of {name0} and "
                f"{name1} would be lost; name all pairs in one file and {again}, or choose another folder"
            )


class Unfit(ValueError):
    """Words about a file that is read, which its name goes before."""


@contextmanager
def _opened(path: Path, what: str) -> Iterator[h5py.File]:
    """A file of hloc's; whatever is wrong with it, also where h5py says so in its own kinds, is told in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of {what}")
    try:
        with reading_hdf5(path) as file:
            yield file
    except Unfit as error:
        raise ValueError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path}: is not a file of {what} ({one_line(error)})") from error


def _array(dataset: Any, kinds: str, dimensions: int) -> NDArray[Any]:
    """Read an array of one of some kinds of numbers, of so many dimensions."""
    check_promised(dataset)
    array = np.asarray(dataset)
    if not array.size:  # as hloc writes what an image without matches has, whatever the dimensions
        return np.zeros((0, 2)[:dimensions], array.dtype)
    if array.dtype.kind not in kinds or array.ndim != dimensions:
        raise Unfit(f"{dataset.name} is {array.dtype} of shape {array.shape}, where {dimensions} dimensions are needed")
    return array
