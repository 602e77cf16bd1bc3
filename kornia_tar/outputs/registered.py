"""Image1, or another file of its product, resampled into image0's frame, on image0's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import Transform, valid_mask, warp_image
from kornia_tar.geometry.warp import saturated
from kornia_tar.raster import Raster, write_image
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.resample import is_finer, low_passed

Resampling = Literal["nearest", "bilinear", "cubic"]
FLAGS: dict[Resampling, int] = {
    "nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC,
}  # fmt: skip


def resampled(
    raster: Raster, transform: Transform, size: tuple[int, int], how: Resampling = "bilinear"
) -> tuple[NDArray[Any], NDArray[np.bool_], float | None]:
    """Resample a raster into a frame; where it is finer than that it is averaged over areas first, but for "nearest".

    Args:
        raster: as read.
        transform: the frame's pixels → the raster's.
        size: (H, W) of the frame.
        how: "nearest" for labels, whose values must not be mixed.

    Returns:
        pixels (H, W) or (H, W, C) of the raster's dtype; (H, W) bool, where they rest on valid pixels alone; and the
        value that the others have, None where that is 0 and says nothing.
    """
    told = None if raster.profile is None else raster.profile.nodata
    # 0 is dark water in an 8-bit image: it fills, but is not declared to be nodata where the source did not say so.
    nodata = told if told is not None else np.nan if raster.pixels.dtype.kind == "f" else None
    fill, pixels = 0 if nodata is None else nodata, raster.pixels
    if how != "nearest" and is_finer(transform, size):
        out, valid = _averaged(raster, transform, size, how)
    else:
        mask = raster.mask if pixels.ndim == 2 else raster.mask[..., None]
        shown = np.where(mask, pixels, 0).astype(pixels.dtype)
        out = warp_image(shown, transform, size, fill=fill, interpolation=FLAGS[how])
        valid = valid_mask(_footprint(raster.mask, how), transform, size)
    if nodata is not None and how != "nearest" and pixels.dtype.kind in "iu":
        # What lies between a value and its opposite may become the very number that says "nothing".
        out[out == nodata] = int(nodata) + (1 if nodata < np.iinfo(pixels.dtype).max else -1)
    out[~valid] = fill
    return out, valid, nodata


def _footprint(mask: NDArray[np.bool_], how: Resampling) -> NDArray[np.bool_]:
    """Where a pixel and all that resampling reads around it, beyond its nearest four, are valid."""
    if how != "cubic":
        return mask
    kernel = np.ones((3, 3), np.uint8)
    return cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _averaged(
    raster: Raster, transform: Transform, size: tuple[int, int], how: Resampling
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    pixels = raster.pixels
    exact = (pixels.dtype.kind in "iu" and pixels.dtype.itemsize >= 4) or pixels.dtype == np.float64
    work = np.float64 if exact else np.float32
    out = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    bands = [(out, pixels)] if pixels.ndim == 2 else [(out[..., k], pixels[..., k]) for k in range(pixels.shape[2])]
    for target, band in bands:
        mean, mask, way = low_passed(np.where(raster.mask, band, 0).astype(work), raster.mask, transform, size)
        warped = warp_image(mean, way, size, interpolation=FLAGS[how])
        target[...] = saturated(warped, pixels.dtype)
    return out, valid_mask(_footprint(mask, how), way, size)  # of every band the same


def write_registered(
    folder: Path, transform: Transform, grid: Grid, second: Raster, grey1: NDArray[np.uint8],
    how: Resampling = "bilinear",
) -> None:  # fmt: skip
    """Write image1 on image0's grid: ``registered.tif`` where image0 has a georeference, else ``registered.png``.

    Args:
        folder: where to.
        transform: image0 → image1.
        grid: image0's.
        second: image1, as read.
        grey1: (H1, W1), image1 as the matcher saw it: shown where PNG cannot hold the values themselves.
        how: it is resampled.
    """
    registered, valid, nodata = resampled(second, transform, grid.size, how)
    if grid.profile is not None:
        write_on_grid(folder / "registered.tif", registered, valid, nodata, grid, second, how)
        return
    bands = 1 if registered.ndim == 2 else registered.shape[2]
    if registered.dtype not in (np.uint8, np.uint16) or bands not in (1, 3, 4):  # what PNG cannot hold is shown
        registered = np.where(valid, warp_image(grey1, transform, grid.size), 0).astype(np.uint8)
    write_image(folder / "registered.png", registered)


def write_on_grid(
    path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], nodata: float | None, grid: Grid, source: Raster,
    how: Resampling = "bilinear",
) -> None:  # fmt: skip
    """Write what :func:`resampled` gave as GeoTIFF, with a mask inside where no value says what shows nothing."""
    profile = None if grid.profile is None else replace(grid.profile, nodata=nodata)
    said = profile is not None and nodata is not None
    write_image(
        path, pixels, profile, bands=source.bands, mask=None if said or valid.all() else valid, mix=how != "nearest"
    )
