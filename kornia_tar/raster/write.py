"""Write images whole or not at all: PNG, or GeoTIFF on a given grid."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kornia_tar.files import one_line, replacing
from kornia_tar.raster.image import NEEDS_GEO, TIFF_SUFFIXES, GeoProfile


def write_image(path: str | os.PathLike[str], pixels: NDArray[Any], profile: GeoProfile | None = None) -> None:
    """Write an image whole or not at all: PNG (8 or 16 bit), or GeoTIFF on the grid of ``profile``.

    Args:
        path: ends in .png, .tif or .tiff.
        pixels: (H, W) or (H, W, C); the dtype is kept.
        profile: georeference and nodata value; GeoTIFF only.

    Raises:
        ValueError: on another suffix, a dtype the format does not hold, or a place that cannot be written.
        ImportError: when a GeoTIFF is asked for and rasterio is absent.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        _write_geotiff(path, pixels, profile)
    elif suffix != ".png":
        raise ValueError(f"{path}: cannot write {suffix or 'a file without a suffix'}; use .png or .tif")
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: PNG holds 8 or 16 bits, not {pixels.dtype}; write .tif instead")
    elif pixels.ndim == 3 and pixels.shape[-1] not in (3, 4):
        raise ValueError(f"{path}: PNG holds 1, 3 or 4 bands, not {pixels.shape[-1]}; write .tif instead")
    elif pixels.dtype == np.uint16 and pixels.ndim == 3:  # Pillow has no colour image of 16 bits
        order = cv2.COLOR_RGB2BGR if pixels.shape[-1] == 3 else cv2.COLOR_RGBA2BGRA
        _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, order))
        with replacing(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    else:
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")


def _write_geotiff(path: Path, pixels: NDArray[Any], profile: GeoProfile | None) -> None:
    if importlib.util.find_spec("rasterio") is None:
        raise ImportError(f"{path}: writing GeoTIFF {NEEDS_GEO}")
    import rasterio

    bands = pixels[..., None] if pixels.ndim == 2 else pixels
    georeference = {} if profile is None else {k: v for k, v in vars(profile).items() if v is not None and v != ()}
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(
                temporary,
                "w",
                driver="GTiff",
                height=bands.shape[0],
                width=bands.shape[1],
                count=bands.shape[2],
                dtype=bands.dtype,
                compress="deflate",
                tiled=True,
                bigtiff="if_safer",
                **georeference,
            ) as file:
                file.write(np.moveaxis(bands, -1, 0))
        except (rasterio.errors.RasterioError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: cannot be written as GeoTIFF ({one_line(error)})") from error
