"""Large images window by window: pixels that stay in their file until a part of them is looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

LARGE = 2**24  # pixels of an image, beyond which they are left in the file
PART = 2**22  # pixels that are read at once
CACHE = 2**26  # bytes of decoded blocks that GDAL keeps; by itself it takes a twentieth of all memory

Open = Callable[[Path], AbstractContextManager[Any]]  # a file, to rasterio's DatasetReader


@dataclass(frozen=True, eq=False)
class Windowed:
    """Pixels (H, W) or (H, W, C) that are made where they are asked for.

    Indexed by rows and columns, as slices, it makes no more than those; by anything else, or as a NumPy array, it makes
    all of them.

    Attributes:
        shape: as an array's.
        dtype: likewise.
        read: makes the pixels of rows and columns, slices with both ends and no step.
        strip: rows that are best made at once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice, slice], NDArray[Any]]
    strip: int

    @property
    def ndim(self) -> int:
        """As an array's."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        parts = key if isinstance(key, tuple) else (key, slice(None))
        wanted = [part.indices(length) for part, length in zip(parts, self.shape, strict=False) if type(part) is slice]
        if len(wanted) < 2 or min(step for _, _, step in wanted[:2]) < 1:
            return cast(NDArray[Any], np.asarray(self)[key])
        (top, bottom, down), (left, right, across) = wanted[:2]
        count = max(0, -(-(bottom - top) // down)), max(0, -(-(right - left) // across))
        out = np.empty((*count, *self.shape[2:]), self.dtype)
        step = max(1, self.strip // down) * down
        for start in range(top, bottom, step) if out.size else ():
            part = self.read(slice(start, min(start + step, bottom)), slice(left, right))[::down, ::across]
            out[(start - top) // down :][: len(part)] = part
        return cast(NDArray[Any], out[(slice(None), slice(None), *parts[2:])])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype)

    def changed(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Windowed:
        """Return what a function of each pixel makes of it."""
        like = change(self[:1, :1])
        return Windowed(
            (*self.shape[:2], *like.shape[2:]), like.dtype, lambda rows, columns: change(self.read(rows, columns)),
            self.strip,
        )  # fmt: skip

    def bands(self, chosen: slice) -> Windowed:
        """Return some of the bands; one alone stays a band."""
        return self.changed(lambda pixels: pixels[..., chosen])


def strips(pixels: NDArray[Any] | Windowed) -> Iterator[slice]:
    """Cut an image into strips of rows that are small enough to be floats."""
    height, width = pixels.shape[:2]
    step = pixels.strip if isinstance(pixels, Windowed) else max(1, PART // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def read_bands(file: Any, bands: Sequence[int], again: Open, windowed: bool) -> NDArray[Any]:
    """Read bands of an open file to (H, W, C); of a large one only where they are asked for.

    Args:
        file: rasterio's.
        bands: their numbers.
        again: opens a file by its path, when a window of it is asked for.
        windowed: whether a large image may come back as :class:`Windowed`.
    """
    if not windowed or file.width * file.height <= LARGE:
        return np.moveaxis(file.read(bands), 0, -1)
    from rasterio.windows import Window

    path, chosen = Path(file.name), list(bands)

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        window = Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        with again(path) as opened:
            return np.moveaxis(opened.read(chosen, window=window), 0, -1)

    dtype = file.read(chosen, window=Window(0, 0, 1, 1)).dtype
    high = file.block_shapes[0][0]
    strip = max(1, PART // file.width // high) * high if high < file.height else max(1, PART // file.width)
    return cast(NDArray[Any], Windowed((file.height, file.width, len(chosen)), dtype, read, strip))


def read_valid(file: Any, bands: Sequence[int], strip: int) -> NDArray[np.bool_]:
    """Read where all bands of an open file are valid as it says: (H, W) bool, ``strip`` rows at once."""
    from rasterio.windows import Window

    mask = np.empty((file.height, file.width), bool)
    for top in range(0, file.height, strip):
        count = min(strip, file.height - top)
        part = file.read_masks(list(bands), window=Window(0, top, file.width, count))
        mask[top : top + count] = (part > 0).all(axis=0)
    return mask


def small_cache(wanted: bool) -> dict[str, int]:
    """GDAL's option that bounds its cache, for large images, unless the environment has its own."""
    return {"GDAL_CACHEMAX": CACHE} if wanted and "GDAL_CACHEMAX" not in os.environ else {}
