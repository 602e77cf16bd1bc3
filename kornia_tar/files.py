"""Write files whole or not at all: a temporary name first, then a rename; strict JSON; output folders."""

from __future__ import annotations

import io
import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import h5py
import numpy as np

ASIDE = ".results-"  # begins the name of a folder in which results are made before they are moved in
HDF5_SECONDS, HDF5_SPEED = 5.0, 1e7  # without a sign of life, and bytes in each further second of them
HDF5_START = 60.0  # seconds until the process that reads has h5py; on a slow disk that takes as long as it takes
DAMAGED = 3  # its exit code
WALK_HDF5 = """
import os, sys

os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
import h5py

broken = []

def told(error):  # what this library was built without is no damage
    without = ("required filter", "plugin", "can't open directory", "external", "for conversion", "unable to lock")
    if not any(word in str(error).lower() for word in without):
        broken.append(error)

def see(name, item):
    for read in (lambda: dict(item.attrs), lambda: item.nbytes <= 2**28 and item[()]):
        try:
            read()
        except (OSError, RuntimeError) as error:
            told(error)
        except Exception:
            pass
        sys.stdout.buffer.raw.write(b".")

sys.stdout.buffer.raw.write(b".")
try:
    with h5py.File(sys.argv[1], "r") as file:
        see("/", file)
        file.visititems(see)
except Exception as error:
    told(error)
sys.exit(3 if broken else 0)
"""


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write strict JSON: NumPy values become numbers and lists, paths strings, NaN and infinity null."""
    with replacing(Path(path)) as temporary:
        text = json.dumps(to_plain(content), indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", "utf-8")


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text whole or not at all, and make its folder where there is none; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder where there is none, and make sure by trying that it can be written.

    Raises:
        ValueError: when it cannot, in one line.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permission bits do not bind root, and say nothing of a full disk
            pass
    except OSError as error:
        reason = "it is a file" if path.is_file() else error.strerror or str(error)
        raise ValueError(f"{path}: cannot write into this folder ({reason}); choose another") from error
    return path


def check_outputs(
    outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str]], *, overwrite: bool = False
) -> None:
    """Refuse to write over what must stay; to be asked before any work.

    Args:
        outputs: files that may be written or removed.
        inputs: files that are read. They are never replaced, also where an output is a link to one, or spells its name
            in another way.
        overwrite: whether other files that are there may be replaced.

    Raises:
        ValueError: an output is an input, or is there already.
    """
    read = [path for path in map(Path, inputs) if path.exists()]
    for path in map(Path, outputs):
        if not os.path.lexists(path):
            continue
        for source in read:
            if path.exists() and path.samefile(source):
                raise ValueError(f"{path}: would replace the input {source}; choose another place for the results")
        if not overwrite:
            raise ValueError(f"{path}: is there already; give --overwrite to replace it, or choose another place")


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


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Places aside for several files of one folder, which take theirs when the block ends well, and vanish when not.

    What an earlier run that was killed left aside of the same files is removed.
    """
    folder, names = paths[0].parent, tuple(path.name for path in paths)
    for old in folder.glob(f"{ASIDE}*"):
        held = [entry.name for entry in old.iterdir()] if old.is_dir() and not old.is_symlink() else []
        if held and all(name.lstrip(".").startswith(names) for name in held):
            shutil.rmtree(old, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))
    try:
        yield [aside / name for name in names]
        for path in paths:
            (aside / path.name).replace(path)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written into ({error.strerror or one_line(error)})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def writing_hdf5(path: Path, start: bytes | None = None) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which takes the place of ``path`` whole when the block ends well.

    It is made in memory: on a full disk HDF5 itself tells nobody that a file is cut short, and ends the process later.

    Args:
        path: the file.
        start: content to go on from; None for an empty file.
    """
    stream = io.BytesIO(start or b"")
    with h5py.File(stream, "w" if start is None else "r+") as file:
        yield file
    with replacing(path) as temporary:
        temporary.write_bytes(stream.getbuffer())


@contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read, which another process has read to its end before.

    The HDF5 library works for ever, or crashes, on some damaged files, and nothing in its own process can stop it.

    Raises:
        ValueError: it does so on this one.
    """
    walk_hdf5(path)  # any error but a hang or a crash is met again, and told in the reader's own words
    with h5py.File(path, "r") as file:
        yield file


def walk_hdf5(path: Path) -> bool:
    """Read an HDF5 file to its end in another process; returns whether that met no damage.

    Raises:
        ValueError: that came to no end, or crashed.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return True
    patience = HDF5_SECONDS + path.stat().st_size / HDF5_SPEED
    walk, none = [sys.executable, "-I", "-c", WALK_HDF5, str(path)], subprocess.DEVNULL
    with subprocess.Popen(walk, stdin=none, stdout=subprocess.PIPE, stderr=none) as process:  # noqa: S603  a list, no shell
        signs = Queue[bytes]()
        threading.Thread(target=_listen, args=(process.stdout, signs), daemon=True).start()
        try:
            seen, wait = False, HDF5_START
            while signs.get(timeout=wait):
                seen, wait = True, patience
            code = process.wait(patience)
        except (Empty, subprocess.TimeoutExpired):
            raise ValueError("is damaged: reading it comes to no end") from None
        finally:
            process.kill()  # also after Ctrl-C, of which it would not hear
    if code < 0:
        raise ValueError(f"is damaged: reading it is ended by signal {-code}")
    # Where nothing was seen h5py is not there, as where this process has it by its path alone.
    return not seen or code != DAMAGED


def _listen(stream: Any, signs: Queue[bytes]) -> None:
    """Hand on what comes out of a process as it comes; nothing, once, at its end."""
    with suppress(ValueError):  # it was closed meanwhile, and nobody waits
        while sign := stream.read1(4096):
            signs.put(sign)
    signs.put(b"")


def remove_own(folder: Path, pattern: str) -> None:
    """Remove the files of a folder whose names match a regular expression, and the folder if nothing else is in it."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if re.fullmatch(pattern, path.name) and not path.is_dir():
                path.unlink()
        folder.rmdir()


def check_promised(dataset: Any, most: int = 2**28) -> None:
    """Refuse an HDF5 dataset of more than ``most`` bytes: in a few of a file its header may promise terabytes.

    Raises:
        ValueError: it promises more, or is a group.
    """
    shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
    if shape is None or dtype is None:
        raise ValueError(f"{dataset.name} is no array")
    if (size := math.prod(shape) * dtype.itemsize) > most:
        raise ValueError(f"{dataset.name} has {size} bytes, more than {most}")


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 500 characters."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def to_plain(value: Any) -> Any:
    """Turn what :func:`write_json` takes into what it writes."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value
