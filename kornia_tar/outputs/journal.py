"""A journal of tiles in the folder of the results, for runs of many minutes; it is gone when those are written."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kornia_tar.files import remove_own, replacing

NAME = ".unfinished-tiles.tmp"
FIRST, EVERY = 10.0, 30.0  # seconds into a look until its progress is told, and from then on


class FolderJournal:
    """Keep what tiles said in a folder, a file each, and tell how far the run is.

    Args:
        folder: of the results; the journal makes one of its own in it.
        tell: is handed lines for the user; None for silence.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] | None = None) -> None:
        self._folder, self._tell = folder / NAME, tell
        self._started = self._told = time.monotonic()
        self._known = 0  # tiles of this look that an earlier run has done

    def load(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Return what was saved under a name; None where nothing was, or nothing that can be read."""
        path = self._folder / f"{name}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                found = dict(file.items())
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        self._known += 1
        return found

    def save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under a name; where they cannot be written the run goes on without."""
        with suppress(OSError, ValueError):
            self._folder.mkdir(exist_ok=True)
            with replacing(self._folder / f"{name}.npz") as temporary, temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)

    def progress(self, done: int, total: int) -> None:
        """Tell how far a look at many tiles is, if it takes long."""
        now = time.monotonic()
        if done == 0:
            self._started, self._told, self._known = now, now + FIRST - EVERY, 0
        elif self._tell is not None and done < total and now - self._told >= EVERY:
            self._told = now
            left = (now - self._started) * (total - done) / max(1, done - self._known)
            kept = f", {self._known} of an earlier run" if self._known else ""
            self._tell(f"full size: {done} of {total} tiles{kept}, about {max(1, round(left / 60))} min left")

    def remove(self) -> None:
        """Remove all that was kept."""
        remove_own(self._folder, r"\.?\w+\.npz(\.\w+\.tmp)?")
