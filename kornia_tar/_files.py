"""Matches and reports on disk, written whole or not at all; :mod:`kornia_tar.raster` offers the public names."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CONVENTION = "keypoints are (x, y) pixels, pixel centres at integers, origin top-left; matrices map image0 to image1"


def write_matches(path: str | os.PathLike[str], matches: Mapping[str, Any]) -> None:
    """Write arrays (and words about them) to HDF5 or npz, with the pixel convention beside them.

    Args:
        path: ends in .h5, .hdf5 or .npz.
        matches: name -> array (``keypoints0``, ``confidence``, ``matrix`` ...) or str (an attribute).

    Raises:
        ValueError: on another suffix or a place that cannot be written.
    """
    path = Path(path)
    words = {"convention": CONVENTION, **{k: v for k, v in matches.items() if isinstance(v, str)}}
    arrays = {k: np.asarray(v) for k, v in matches.items() if not isinstance(v, str)}
    _check_matches_suffix(path)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as stream:  # given a name, numpy would append its own suffix
                np.savez_compressed(stream, allow_pickle=False, **arrays, **{k: np.array(v) for k, v in words.items()})
        else:
            with h5py.File(temporary, "w") as file:
                file.attrs.update(words)
                for name, array in arrays.items():
                    file.create_dataset(name, data=array)


def read_matches(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_matches` wrote: arrays, and str under the names of the attributes."""
    path = Path(path)
    _check_matches_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {k: str(v) if v.dtype.kind == "U" else v for k, v in file.items()}
        with h5py.File(path, "r") as file:
            return {k: np.asarray(v) for k, v in file.items()} | {k: str(v) for k, v in file.attrs.items()}
    except Exception as error:  # zipfile, numpy and h5py each have their own way to say it
        raise ValueError(f"{path}: is not a file of matches ({one_line(error)})") from error


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write strict JSON: NumPy values become numbers and lists, paths strings, NaN and infinity null."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder where there is none, and make sure by trying that it can be written.

    Raises:
        ValueError: when it cannot, in one line.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = (
            path / f".{secrets.token_hex(8)}.tmp"
        )  # permission bits do not bind root, and say nothing of a full disk
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = "it is a file" if path.is_file() else error.strerror or str(error)
        raise ValueError(f"{path}: cannot write into this folder ({reason}); choose another") from error
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well, and vanishes when not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or one_line(error)})") from error
    finally:
        with suppress(OSError):  # gone by success, or never there
            temporary.unlink()


def _check_matches_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".h5", ".hdf5", ".npz"):
        raise ValueError(f"{path}: matches are kept in .h5 or .npz, not {path.suffix or 'a file without a suffix'}")


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 500 characters."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value
