"""Image1, or another file of its product, where it belongs: resampled onto image0's grid, or another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import FloatArray, Transform, blocks, source_window, warp_block, warp_image
from kornia_tar.geometry.transform import PointMap
from kornia_tar.geometry.warp import saturated
from kornia_tar.raster import Raster, write_image
from kornia_tar.raster.gdal import has_geo
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.image import NEEDS_GEO
from kornia_tar.raster.read import pixel_limit
from kornia_tar.raster.resample import (
    BLOCK,
    MARGIN,
    averaged_window,
    block_side,
    is_finer,
    low_passed,
    smooth_transform,
)
from kornia_tar.raster.windows import Windowed
from kornia_tar.raster.write import beyond_png

Resampling = Literal["nearest", "bilinear", "cubic"]
GridChoice = Literal["reference", "source"]
FLAGS: dict[Resampling, int] = {
    "nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC,
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Where and how image1, or another file of its product, is written.

    Attributes:
        resampling: "nearest" mixes nothing, else what is finer than the grid is averaged over areas first.
        grid: "reference" for image0's; "source" for the file's own, on which its content is moved to where image0's
            georeference says that it lies.
        resolution: sides of the pixels, in units of the grid's reference system; None for those that the grid has.
    """

    resampling: Resampling = "bilinear"
    grid: GridChoice = "reference"
    resolution: float | None = None

    def __post_init__(self) -> None:
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise ValueError(f"a resolution must be a positive number, got {self.resolution}")

    def chosen(self, reference: Grid, source: Grid) -> Grid:
        """Return the grid.

        Args:
            reference: image0's.
            source: the file's.

        Raises:
            ValueError: a choice that needs a georeference which is not there, or a grid of too many pixels or too few.
        """
        if self.grid == "source" and (reference.georeference is None or source.georeference is None):
            raise ValueError("--grid source needs a georeference in both images; leave it out for image0's grid")
        grid = reference if self.grid == "reference" else source
        if self.resolution is not None:
            grid = grid.with_resolution(self.resolution)
        if grid.size[0] * grid.size[1] > (limit := pixel_limit()):
            size = f"{grid.size[1]}x{grid.size[0]} pixels, more than the limit of {limit}"
            raise ValueError(f"the result would have {size}: give a larger resolution, or raise KORNIA_TAR_MAX_PIXELS")
        return grid

    def reached(
        self, transform: Transform, reference: Grid, source: Grid, onward: PointMap | None = None
    ) -> tuple[Grid, Transform]:
        """Return the grid, and the map from its pixels to the file's.

        Args:
            transform: image0 → image1.
            reference: image0's grid.
            source: the file's.
            onward: image1's pixels → the file's; None where the file is image1.

        Raises:
            ValueError: as :meth:`chosen`; or one of the maps is not finite all over the grid.
        """
        grid = self.chosen(reference, source)
        if onward is None and grid is reference:
            return grid, transform
        first = None if grid is reference else grid.to(reference)
        spacing = math.inf if transform.field is None else min(transform.field.spacing)

        def way(points: FloatArray) -> FloatArray:
            there = transform(points if first is None else first(points))
            return there if onward is None else onward(there)

        try:
            return grid, smooth_transform(way, grid.size, spacing)
        except ValueError as error:
            raise ValueError(f"the grid to write on reaches where nothing says what lies there ({error})") from error


def resampled(
    raster: Raster, transform: Transform, size: tuple[int, int], how: Resampling = "bilinear"
) -> tuple[Windowed, NDArray[np.bool_], float | None]:
    """Resample a raster into a frame; where it is finer than that it is averaged over areas first, but for "nearest".

    Args:
        raster: as read.
        transform: the frame's pixels → the raster's.
        size: (H, W) of the frame.
        how: "nearest" for labels, whose values must not be mixed.

    Returns:
        pixels (H, W) or (H, W, C) of the raster's dtype, which are made where they are asked for; (H, W) bool, where
        they rest on valid pixels alone; and the value that the others have, None where that is 0 and says nothing.
    """
    told = None if raster.profile is None else raster.profile.nodata
    # 0 is dark water in an 8-bit image: it fills, but is not declared to be nodata where the source did not say so.
    nodata = told if told is not None else np.nan if raster.pixels.dtype.kind == "f" else None
    fill, block, valid = 0 if nodata is None else nodata, _block(transform, size, how), np.zeros(size, bool)
    for rows, columns, part in valid_blocks(raster, transform, size, how):
        valid[rows, columns] = part

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *raster.pixels.shape[2:]), dtype)
        for down, across in blocks(out.shape[:2], block_side(transform, size)):
            part = (
                slice(down.start + rows.start, down.stop + rows.start),
                slice(across.start + columns.start, across.stop + columns.start),
            )
            out[down, across] = block(raster, transform, size, *part, how)[0]
        if nodata is not None and how != "nearest" and dtype.kind in "iu":
            # What lies between a value and its opposite may become the very number that says "nothing".
            out[out == nodata] = int(nodata) + (1 if nodata < np.iinfo(dtype).max else -1)
        out[~valid[rows, columns]] = fill
        return out

    dtype = raster.pixels.dtype
    return Windowed((*size, *raster.pixels.shape[2:]), dtype, read, BLOCK), valid, nodata


def valid_blocks(
    raster: Raster, transform: Transform, size: tuple[int, int], how: Resampling
) -> Iterator[tuple[slice, slice, NDArray[np.bool_]]]:
    """Find block by block where :func:`resampled` rests on valid pixels alone: rows, columns, and (h, w) of them."""
    block = _block(transform, size, how)
    for rows, columns in blocks(size, block_side(transform, size)):
        yield rows, columns, block(raster, transform, size, rows, columns, how, pixels=False)[1]


def _block(transform: Transform, size: tuple[int, int], how: Resampling) -> Callable[..., Any]:
    """What makes a block of a frame."""
    return _averaged if how != "nearest" and is_finer(transform, size) else _sampled


def _sampled(
    raster: Raster, transform: Transform, size: tuple[int, int], rows: slice, columns: slice, how: Resampling,
    pixels: bool = True,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:  # fmt: skip
    """A block of a frame, and where it is valid; without ``pixels`` of no meaning but that."""
    window = source_window(transform, rows, columns, raster.size, MARGIN)
    if window is None:
        return _nothing(raster, rows, columns)
    mask = raster.mask[window]
    source = raster.pixels[window] if pixels else mask.astype(np.uint8)
    source = np.where(mask if source.ndim == 2 else mask[..., None], source, 0).astype(source.dtype)
    corner = window[1].start, window[0].start
    valid = _footprint(raster.mask, window, how)
    # What lies outside is 0 for now: a NaN there would take the last row and column with it, by a weight of nought.
    return warp_block(source, valid, transform, rows, columns, corner, interpolation=FLAGS[how])


def _averaged(
    raster: Raster, transform: Transform, size: tuple[int, int], rows: slice, columns: slice, how: Resampling,
    pixels: bool = True,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:  # fmt: skip
    """The same of a finer raster, averaged over areas."""
    window = averaged_window(transform, size, rows, columns, raster.size)
    if window is None:
        return _nothing(raster, rows, columns)
    mask, corner, dtype = raster.mask[window], (window[1].start, window[0].start), raster.pixels.dtype
    exact = (dtype.kind in "iu" and dtype.itemsize >= 4) or dtype == np.float64
    work = np.float64 if exact else np.float32
    source = raster.pixels[window] if pixels else np.zeros(mask.shape, dtype)
    out = []
    for band in (source if source.ndim == 3 else source[..., None]).transpose(2, 0, 1):
        mean, kept, way = low_passed(np.where(mask, band, 0).astype(work), mask, transform, size, corner)
        whole = slice(0, kept.shape[0]), slice(0, kept.shape[1])
        warped, valid = warp_block(mean, _footprint(kept, whole, how), way, rows, columns, interpolation=FLAGS[how])
        out.append(saturated(warped, dtype))
    return (np.stack(out, -1) if source.ndim == 3 else out[0]), valid  # of every band the same


def _nothing(raster: Raster, rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    shape = rows.stop - rows.start, columns.stop - columns.start
    return np.zeros((*shape, *raster.pixels.shape[2:]), raster.pixels.dtype), np.zeros(shape, bool)


def _footprint(mask: NDArray[np.bool_], window: tuple[slice, slice], how: Resampling) -> NDArray[np.bool_]:
    """Where a pixel of a window and all that resampling reads around it, beyond its nearest four, are valid."""
    if how != "cubic":
        return mask[window]
    kernel = np.ones((3, 3), np.uint8)
    outer = [slice(max(part.start - 1, 0), part.stop + 1) for part in window]
    eroded = cv2.erode(mask[tuple(outer)].astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    down, across = (part.start - wide.start for part, wide in zip(window, outer, strict=True))
    return eroded[down:, across:][: window[0].stop - window[0].start, : window[1].stop - window[1].start]


def write_registered(
    folder: Path, transform: Transform, reference: Grid, second: Raster, grey1: NDArray[np.uint8],
    target: Target = Target(),
) -> dict[str, str | None]:  # fmt: skip
    """Write image1 on image0's grid, or another, with its own values.

    That is ``registered.tif`` where the grid has a georeference, or PNG cannot hold the values or say which are nodata;
    else ``registered.png``.

    Args:
        folder: where to.
        transform: image0 → image1.
        reference: image0's grid.
        second: image1, as read.
        grey1: (H1, W1), image1 as the matcher saw it: shown where PNG cannot hold the values and rasterio is absent.
        target: which grid, and how.

    Returns:
        for the report: ``file``, the name; ``stretched``, why it shows ``grey1``, None where it holds image1's values.

    Raises:
        ValueError: a grid that cannot be.
    """
    grid, way = target.reached(transform, reference, Grid.of(second))
    made, valid, nodata = resampled(second, way, grid.size, target.resampling)
    name, lacking = "registered.png", beyond_png(made)
    if grid.profile is not None or ((lacking or nodata is not None) and has_geo()):
        name = "registered.tif"
    elif lacking:
        write_image(folder / name, np.where(valid, warp_image(grey1, way, grid.size), 0).astype(np.uint8))
        why = f"{lacking}, so the values were stretched to 8 bits for display; keeping them {NEEDS_GEO}"
        return {"file": name, "stretched": why}
    write_on_grid(folder / name, made, valid, nodata, grid, second, target.resampling)
    return {"file": name, "stretched": None}


def write_on_grid(
    path: Path, pixels: Windowed, valid: NDArray[np.bool_], nodata: float | None, grid: Grid, source: Raster,
    how: Resampling = "bilinear",
) -> None:  # fmt: skip
    """Write what :func:`resampled` gave: as PNG the pixels alone, else as GeoTIFF on the grid.

    There is a mask inside the GeoTIFF where no value says what shows nothing.
    """
    if path.suffix.lower() == ".png":
        write_image(path, np.asarray(pixels))
        return
    profile = None if grid.profile is None else replace(grid.profile, nodata=nodata)
    said = profile is not None and nodata is not None
    write_image(
        path, cast(NDArray[Any], pixels), profile, bands=source.bands,
        mask=None if said or valid.all() else valid, mix=how != "nearest",
    )  # fmt: skip
