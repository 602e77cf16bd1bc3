"""Image1 resampled into image0's frame, on image0's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import Transform, warp_image
from kornia_tar.raster import Raster, write_image


def write_registered(
    folder: Path,
    transform: Transform,
    valid: NDArray[np.bool_],
    first: Raster,
    second: Raster,
    grey1: NDArray[np.uint8],
) -> None:
    """Write image1 on image0's grid: ``registered.tif`` where image0 has a georeference, else ``registered.png``.

    Args:
        folder: where to.
        transform: image0 → image1.
        valid: (H, W) bool, where image1 has data in image0's frame.
        first: image0.
        second: image1, as read.
        grey1: (H1, W1), image1 as the matcher saw it: shown where PNG cannot hold the values themselves.
    """
    told = None if second.profile is None else second.profile.nodata
    # 0 is dark water in an 8-bit image: it fills, but is not declared to be nodata where the source did not say so.
    nodata = told if told is not None else np.nan if second.pixels.dtype.kind == "f" else None
    fill = 0 if nodata is None else nodata
    mask = second.mask if second.pixels.ndim == 2 else second.mask[..., None]
    registered = warp_image(
        np.where(mask, second.pixels, 0).astype(second.pixels.dtype), transform, first.size, fill=fill
    )
    registered[~valid] = fill
    if first.profile is not None:
        masked = None if nodata is not None or valid.all() else valid
        profile = replace(first.profile, nodata=nodata)
        write_image(folder / "registered.tif", registered, profile, bands=second.bands, mask=masked)
        return
    bands = 1 if registered.ndim == 2 else registered.shape[2]
    if registered.dtype not in (np.uint8, np.uint16) or bands not in (1, 3, 4):  # what PNG cannot hold is shown
        registered = np.where(valid, warp_image(grey1, transform, first.size), 0).astype(np.uint8)
    write_image(folder / "registered.png", registered)
