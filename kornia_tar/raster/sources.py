"""An image from where Python has it: a path, an open rasterio data set, or an xarray array with its georeference."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kornia_tar.files import one_line
from kornia_tar.raster.image import GeoProfile, Raster
from kornia_tar.raster.nodata import holds
from kornia_tar.raster.read import as_raster, check_size, pixel_limit, read_dataset, read_image

ImageSource: TypeAlias = str | os.PathLike[str] | Any  # Any: an open rasterio data set, an xarray DataArray


def read_source(source: ImageSource, name: str, *, nodata: float | None = None) -> Raster:
    """Read an image from a path, an open rasterio data set, or an xarray array, all by the same rules.

    Args:
        source: one of these. An array has two spatial dimensions that rioxarray knows (x and y, longitude and latitude)
            and at most one more with more than one entry: its bands.
        name: what to call it in errors where it has no name of its own.
        nodata: as in :func:`read_image`.

    Raises:
        TypeError: it is none of these.
        FileNotFoundError, ValueError: as :func:`read_image`; an array that is no image.
        ImportError: an array, and rioxarray is absent.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(source, nodata=nodata, windowed=True)
    if (rasterio := sys.modules.get("rasterio")) is not None:  # whoever has a data set has imported it
        from rasterio.vrt import WarpedVRT

        if isinstance(source, rasterio.io.DatasetReader | rasterio.io.DatasetWriter | WarpedVRT):
            return read_dataset(source, nodata=nodata)
    if (xarray := sys.modules.get("xarray")) is not None and isinstance(source, xarray.DataArray):
        return _read_array(source, name, nodata)
    raise TypeError(
        f"{name} is of type {type(source).__name__}; it must be a path, an open rasterio data set or an xarray "
        "DataArray (Registrar takes NumPy arrays)"
    )


def _read_array(array: Any, name: str, nodata: float | None) -> Raster:
    try:
        import rioxarray  # gives arrays their georeference
    except ImportError:
        raise ImportError(f'{name}: an xarray array needs rioxarray: pip install "kornia-tar[xarray]"') from None
    path = Path(str(array.name or name))
    try:
        rows, columns = array.rio.y_dim, array.rio.x_dim
        profile = _profile(array)
    except rioxarray.exceptions.RioXarrayError as error:
        raise ValueError(f"{path}: is no image with x and y ({one_line(error)})") from error
    others = [dim for dim in array.dims if dim not in (rows, columns)]
    if sum(array.sizes[dim] > 1 for dim in others) > 1:
        told = ", ".join(f"{dim}: {array.sizes[dim]}" for dim in array.dims)
        raise ValueError(f"{path}: has the dimensions {told}; beside {rows} and {columns} only one may be long: bands")
    check_size(path, array.sizes[columns], array.sizes[rows], pixel_limit())
    stacked = array.transpose(rows, columns, *others).values
    if stacked.dtype.kind not in "biufc":
        raise ValueError(f"{path}: holds {stacked.dtype}, which is no type of pixels")
    pixels = stacked.reshape(*stacked.shape[:2], -1)
    if not pixels.shape[2]:
        raise ValueError(f"{path}: has no band")
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    plain = profile.kind is None and profile.crs is None and profile.nodata is None
    return as_raster(path, pixels, np.ones(pixels.shape[:2], bool), None if plain else profile, None, nodata)


def _profile(array: Any) -> GeoProfile:
    """The georeference that rioxarray knows of an array, of its coordinates where it was cut."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a rotated transform is taken as it stands
        transform = array.rio.transform(recalc=True)
    nodata = None
    with suppress(OverflowError):  # a value that its type cannot hold, as after astype: of no use, as in a file
        nodata = array.rio.nodata
    nodata = None if nodata is None or not holds(array.dtype, nodata) else float(nodata)
    gcps = array.rio.get_gcps() if transform.is_identity else None
    return GeoProfile(array.rio.crs, None if gcps else transform, nodata, tuple(gcps or ()))
