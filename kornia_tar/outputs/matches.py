"""Write and read matches as HDF5 or npz, with the pixel convention beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kornia_tar.conventions import PIXELS
from kornia_tar.files import check_promised, one_line, reading_hdf5, replacing, writing_hdf5


def write_matches(path: str | os.PathLike[str], matches: Mapping[str, Any]) -> None:
    """Write arrays (and words about them) to HDF5 or npz, with the pixel convention beside them.

    Args:
        path: ends in .h5, .hdf5 or .npz.
        matches: name -> array (``keypoints0``, ``confidence``, ``matrix`` ...) or str (an attribute).

    Raises:
        ValueError: on another suffix or a place that cannot be written.
    """
    path = Path(path)
    words = {"convention": PIXELS, **{k: v for k, v in matches.items() if isinstance(v, str)}}
    arrays = {k: np.asarray(v) for k, v in matches.items() if not isinstance(v, str)}
    _check_matches_suffix(path)
    if path.suffix.lower() == ".npz":
        # Given a name, numpy would append its own suffix.
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays, **{k: np.array(v) for k, v in words.items()})
        return
    with writing_hdf5(path) as file:
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
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {k: str(v) if v.dtype.kind == "U" else v for k, v in file.items()}
        with reading_hdf5(path) as file:
            for dataset in file.values():
                check_promised(dataset)
            return {k: np.asarray(v) for k, v in file.items()} | {k: str(v) for k, v in file.attrs.items()}
    except Exception as error:  # zipfile, numpy and h5py each have their own way to say it
        raise ValueError(f"{path}: is not a file of matches ({one_line(error)})") from error


def _check_matches_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".h5", ".hdf5", ".npz"):
        raise ValueError(f"{path}: matches are kept in .h5 or .npz, not {path.suffix or 'a file without a suffix'}")
