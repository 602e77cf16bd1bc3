"""Write images whole or not at all: PNG, or GeoTIFF on a given grid."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kornia_tar.files import one_line, replacing
from kornia_tar.geometry import blocks
from kornia_tar.raster.gdal import QUIET, has_geo, sidecar_says, sidecars
from kornia_tar.raster.image import NEEDS_GEO, TIFF_SUFFIXES, Bands, GeoProfile
from kornia_tar.raster.windows import Windowed, small_cache

RGB = ("red", "green", "blue")
BLOCK = 1024  # px, of what is written at once: whole tiles of the file


def write_image(
    path: str | os.PathLike[str], pixels: NDArray[Any], profile: GeoProfile | None = None, *,
    bands: Bands | None = None, mask: NDArray[np.bool_] | None = None, mix: bool = True,
) -> None:  # fmt: skip
    """Write an image whole or not at all: PNG (8 or 16 bit), or a cloud-optimized GeoTIFF on the grid of ``profile``.

    Args:
        path: ends in .png, .tif or .tiff.
        pixels: (H, W) or (H, W, C); the dtype is kept. Made window by window, as
            :class:`kornia_tar.raster.windows.Windowed` does, for a GeoTIFF.
        profile: georeference and nodata value; GeoTIFF only.
        bands: what to say of the bands; GeoTIFF only.
        mix: whether overviews may be averages; False for labels; GeoTIFF only.
        mask: (H, W), True where valid, kept inside the file for who finds no nodata value; GeoTIFF only.

    Raises:
        ValueError: on another suffix, a dtype the format does not hold, or a place that cannot be written.
        ImportError: when a GeoTIFF is asked for and rasterio is absent.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        _write_geotiff(path, pixels, profile, bands, mask, mix)
    elif suffix != ".png":
        raise ValueError(f"{path}: cannot write {suffix or 'a file without a suffix'}; use .png or .tif")
    elif lacking := beyond_png(pixels, opacity=True):
        raise ValueError(f"{path}: {lacking}; write .tif instead")
    elif pixels.dtype == np.uint16 and pixels.ndim == 3:  # Pillow has no colour image of 16 bits
        order = cv2.COLOR_RGB2BGR if pixels.shape[-1] == 3 else cv2.COLOR_RGBA2BGRA
        _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, order))
        with replacing(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    else:
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")


def beyond_png(pixels: NDArray[Any] | Windowed, opacity: bool = False) -> str:
    """Say what of pixels (H, W) or (H, W, C) is beyond a PNG, whose fourth band is opacity; "" where nothing is."""
    if pixels.dtype not in (np.uint8, np.uint16):
        return f"PNG holds 8 or 16 bits, not {pixels.dtype}"
    bands = 1 if pixels.ndim == 2 else pixels.shape[2]
    return "" if bands in (1, 3) or (bands == 4 and opacity) else f"PNG holds 1 or 3 bands, not {bands}"


def check_sidecars(outputs: Iterable[Path]) -> None:
    """Refuse images to be written beside files that would say of them where they lie; to be asked before any work.

    Also those of GeoTIFFs: GDAL takes the place from an ``.aux.xml`` before the file's own. Who wrote such a file does
    not show, so it is left where it is, and one of statistics alone, as viewers write it, does no harm.

    Raises:
        ValueError: there is such a file.
    """
    for output in outputs:
        for one in sidecars(output) if output.suffix.lower() in (".png", *TIFF_SUFFIXES) else ():
            if told := sidecar_says(one):
                raise ValueError(
                    f"{one}: would say of {output.name}, which is to be written beside it, its {' and '.join(told)}; "
                    "remove it, or give another name or place for the results"
                )


def _write_geotiff(
    path: Path, pixels: NDArray[Any], profile: GeoProfile | None, told: Bands | None, mask: NDArray[np.bool_] | None,
    mix: bool,
) -> None:  # fmt: skip
    if not has_geo():
        raise ImportError(f"{path}: writing GeoTIFF {NEEDS_GEO}")
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.shutil import copy
    from rasterio.windows import Window

    height, width, count = (*pixels.shape, 1)[:3]
    georeference = {} if profile is None else {k: v for k, v in vars(profile).items() if v is not None and v != ()}
    # Without being told GDAL takes three or four bands of 8 bits for red, green, blue and alpha.
    kinds = {} if told is None else {"photometric": _photometric(told), "alpha": "no"}
    options = {**small_cache(isinstance(pixels, Windowed)), "GDAL_TIFF_INTERNAL_MASK": True}
    with replacing(path) as temporary, QUIET, rasterio.Env(**options):
        plain = temporary.with_suffix(".plain.tmp")
        try:
            with rasterio.open(
                plain,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=count,
                dtype=pixels.dtype,
                compress="deflate",
                tiled=True,
                bigtiff="if_safer",
                **georeference,
                **kinds,
            ) as file:
                if told is not None:
                    _tell(file, told)
                for rows, columns in blocks((height, width), BLOCK):
                    part = pixels[rows, columns].reshape(rows.stop - rows.start, -1, count)
                    file.write(np.moveaxis(part, -1, 0), window=Window.from_slices(rows, columns))
                if mask is not None:
                    file.write_mask(mask)
            overviews = "average" if mix and (told is None or told.table is None) else "nearest"
            copy(
                str(plain), str(temporary), driver="COG", compress="DEFLATE", bigtiff="IF_SAFER",
                overview_resampling=overviews,
            )  # fmt: skip
        except (rasterio.errors.RasterioError, CPLE_BaseError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: cannot be written as GeoTIFF ({one_line(error)})") from error
        finally:
            plain.unlink(missing_ok=True)


def _photometric(told: Bands) -> str:
    return "palette" if told.table is not None else "rgb" if told.colours[:3] == RGB else "minisblack"


def _tell(file: Any, told: Bands) -> None:
    """Say of an open file's bands what was said of them where they come from."""
    from rasterio.enums import ColorInterp

    if told.table is not None:
        file.write_colormap(1, dict(told.table))
    file.colorinterp = [ColorInterp[name] for name in told.colours]
    for index, (name, unit) in enumerate(zip(told.names, told.units, strict=True), 1):
        if name:
            file.set_band_description(index, name)
        if unit:
            file.set_band_unit(index, unit)
    if any(scale != 1 for scale in told.scales) or any(told.offsets):
        file.scales, file.offsets = told.scales, told.offsets
