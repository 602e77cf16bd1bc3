"""Values that mark missing pixels: those that are declared, and those that look like one and are not."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from kornia_tar.raster.image import Raster

LARGEST = 1e30  # no measurement is larger: float32's extreme values, written with more or fewer digits
USUAL = (-9999.0, -32768.0, -99999.0, -999.0)  # fill values, wherever they stand
SEEN = 1_000_000  # pixels that a suspicion rests on, at most
LEAST_USUAL, LEAST_BORDER, LEAST_8_BIT = 0.001, 0.01, 0.05  # shares of the pixels, from which a value is suspected


def holds(dtype: DTypeLike, value: float) -> bool:
    """Tell whether pixels of a type can have a value."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return True
    if kind.kind not in "iu" or not math.isfinite(value):
        return False
    limits = np.iinfo(kind)
    return limits.min <= value <= limits.max and value == int(value)


def declared_nodata(file: Any, dtype: np.dtype[Any]) -> float | None:
    """Return the nodata value that rasterio's open file declares, where pixels of a type can have it."""
    if file.nodata is None or not holds(dtype, file.nodata):
        return None
    if dtype.kind == "f" and math.isfinite(file.nodata):  # a tag may be beyond it
        return float(np.clip(file.nodata, *(getattr(np.finfo(dtype), end) for end in ("min", "max"))))
    return float(file.nodata)


def is_fill(pixels: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Find the pixels that have the value, as far as their type tells it from its neighbours; the shape of ``pixels``.

    A value beyond 1e30 stands for all of its sign: tags name float32's smallest number with few digits.
    """
    if pixels.dtype.kind != "f":
        return np.asarray(pixels == value)
    if math.isnan(value):
        return np.isnan(pixels)
    if abs(value) >= LARGEST:
        return np.asarray(pixels >= LARGEST if value > 0 else pixels <= -LARGEST)
    with np.errstate(over="ignore", invalid="ignore"):  # of pixels that are infinite
        return np.asarray(np.abs(pixels - value) <= 1e-6 * abs(value))


def as_text(value: Any) -> str:
    """Write a number, Python's or NumPy's, in the fewest digits that give it back in its own type."""
    return str(value).removesuffix(".0")


def suspected_fill(raster: Raster) -> tuple[Any, float] | None:
    """Find a value that looks like an undeclared fill value.

    Many pixels must share it exactly, in all bands, and it must be the image's smallest or largest. Beyond that it is a
    number that measurements do not reach, one of the usual fill values, or fills an area that touches the border.

    Args:
        raster: the image; what its mask leaves out is declared already.

    Returns:
        the value, in the pixels' own type, and its share of all pixels, or None.
    """
    step = max(1, math.ceil(math.sqrt(raster.mask.size / SEEN)))
    pixels, mask = raster.pixels[::step, ::step], raster.mask[::step, ::step]
    bands = pixels if pixels.ndim == 3 else pixels[..., None]
    if not mask.any() or bands.dtype.kind not in "iuf":
        return None
    valid = bands[mask]
    for value in (valid.min(), valid.max()):
        here = (bands == value).all(axis=-1) & mask
        share = float(here.mean())
        if (valid == value).all():
            continue
        if abs(float(value)) >= LARGEST or value in USUAL:
            least = LEAST_USUAL
        else:
            least = LEAST_8_BIT if bands.dtype.itemsize == 1 else LEAST_BORDER
            here = _touching(here)
        if here.mean() >= least:
            return value, share
    return None


def undeclared_fill(raster: Raster, option: str) -> str | None:
    """Say in one line which value looks like an undeclared nodata value, and which option declares it."""
    if (found := suspected_fill(raster)) is None:
        return None
    value = as_text(found[0])
    return (
        f"{raster.path}: {found[1]:.1%} of the pixels are exactly {value}, which the file does not declare as nodata; "
        f"if they are missing, give {option}={value}"
    )


def _touching(here: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected areas that reach the border."""
    _, labels = cv2.connectedComponents(here.astype(np.uint8), connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return here & np.isin(labels, edge[edge > 0])
