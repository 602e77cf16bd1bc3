"""Images, GeoTIFFs, matches and reports, in from disk and out to it.

Convention:
    Pixel centres lie at integers, x before y, origin top-left. A GeoTIFF's ``transform`` counts from the corner
    of the first pixel, as GDAL does: the centre of pixel (x, y) lies at ``transform * (x + 0.5, y + 0.5)``.

Every write goes to a temporary name in the same folder first and is then renamed, so that a file is either
whole or absent. GeoTIFF needs rasterio (``pip install "kornia-tar[geo]"``), imported only when one is met.
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.files import one_line, replacing

#: Largest number of pixels read without being told otherwise (argument, or KORNIA_TAR_MAX_PIXELS).
MAX_PIXELS = 2**28

_TIFF_SUFFIXES = {".tif", ".tiff"}
_GEO_SUFFIXES = {*_TIFF_SUFFIXES, ".vrt", ".img", ".jp2"}
_GEO_TAGS = (33550, 33922, 34264)  # GeoTIFF pixel scale, tie points, transformation
_NEEDS_GEO = 'needs rasterio: pip install "kornia-tar[geo]"'


@dataclass(frozen=True)
class GeoProfile:
    """The georeference of a raster, as rasterio has it.

    Attributes:
        crs: rasterio CRS (or anything it takes for one), or None.
        transform: affine.Affine, pixel corner (column, row) -> map; see the module's convention.
        nodata: the value that marks missing pixels, or None.
    """

    crs: Any
    transform: Any
    nodata: float | None = None


@dataclass(frozen=True)
class Raster:
    """An image as it lies in its file.

    Attributes:
        pixels: (H, W) or (H, W, C), dtype of the file (complex SAR: its magnitude), alpha removed.
        mask: (H, W) bool, True where every band holds data: not nodata, not transparent, finite.
        profile: georeference; None for a plain image.
        path: where it was read.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    profile: GeoProfile | None
    path: Path

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return cast(tuple[int, int], self.mask.shape)


def read_image(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Raster:
    """Read GeoTIFF, VRT, ERDAS Imagine and JPEG 2000 by rasterio, everything else (PNG, JPEG, WebP ...) by Pillow.

    Without rasterio a TIFF that carries no georeference is read by Pillow. EXIF orientation is applied.

    Args:
        path: the file.
        max_pixels: refuse larger images; default the environment's KORNIA_TAR_MAX_PIXELS, else :data:`MAX_PIXELS`.

    Returns:
        Pixels, mask and georeference.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no image, is cut short, has a side below 32 pixels or no valid pixel, or is too large.
        ImportError: when it is a georeferenced file and rasterio is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file" if not path.exists() else f"{path}: is a folder, not an image")
    limit = max_pixels if max_pixels is not None else _pixels_from_environment()
    by_rasterio = path.suffix.lower() in _GEO_SUFFIXES and importlib.util.find_spec("rasterio") is not None
    pixels, mask, profile = (_read_rasterio if by_rasterio else _read_pillow)(path, limit)
    if np.iscomplexobj(pixels):
        pixels = np.abs(pixels)
    if pixels.dtype.kind == "f":
        finite = np.isfinite(pixels)
        mask = mask & (finite if pixels.ndim == 2 else finite.all(axis=-1))
    if not mask.any():
        raise ValueError(
            f"{path}: has no valid pixel (all nodata, transparent or NaN); give an image that shows something"
        )
    return Raster(pixels, mask, profile, path)


def to_grey8(raster: Raster, modality: Literal["optical", "sar"]) -> NDArray[np.uint8]:
    """The 8-bit grey image the matcher takes: 2-98 percentile of the valid pixels stretched to 0-255.

    Three 8-bit bands, and three or more of an optical image, become luminance (ITU-R BT.601 on the first three);
    other multi-band images give their first band. Optical values and 8-bit SAR are stretched linearly.
    SAR of more than 8 bits is stretched in decibels: where the median is negative the values are decibels
    already; otherwise they are power or amplitude and their logarithm is taken (the two differ by a factor of
    two, which the stretch removes), so that a few strong scatterers do not leave the rest black.

    Args:
        raster: the image.
        modality: "optical" or "sar".

    Returns:
        (H, W) uint8; 0 at invalid pixels, and everywhere for a constant image.
    """
    if modality not in ("optical", "sar"):
        raise ValueError(f"modality is {modality!r}; it must be optical or sar")
    pixels = raster.pixels
    if pixels.ndim == 3:
        colour = pixels.shape[-1] >= 3 and (modality == "optical" or pixels.dtype == np.uint8)
        pixels = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) if colour else pixels[..., 0]
    grey = np.where(raster.mask, pixels, np.nan).astype(np.float32)
    if modality == "sar" and raster.pixels.dtype != np.uint8 and np.median(_sample(grey)) >= 0:
        positive = _sample(np.where(grey > 0, grey, np.nan))
        if positive.size:
            grey = np.log10(np.maximum(grey, np.percentile(positive, 0.1)))
    return _stretch(grey, grey)


def to_rgb8(raster: Raster) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to look at: the first three bands under one common 2-98 percentile stretch; grey thrice."""
    pixels = raster.pixels if raster.pixels.ndim == 3 else raster.pixels[..., None]
    bands = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    values = np.where(raster.mask[..., None], bands, np.nan).astype(np.float32)
    return _stretch(values, values)


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
    if suffix in _TIFF_SUFFIXES:
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


def _pixels_from_environment() -> int:
    text = os.environ.get("KORNIA_TAR_MAX_PIXELS", str(MAX_PIXELS))
    if not text.isdecimal():
        raise ValueError(f"KORNIA_TAR_MAX_PIXELS is {text!r}; it must be a whole number of pixels")
    return int(text)


def _check_size(path: Path, width: int, height: int, limit: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{path}: is {width}x{height} pixels; each side must have at least {MIN_SIDE}")
    if width * height > limit:
        raise ValueError(
            f"{path}: is {width}x{height} pixels, more than the limit of {limit}; "
            "crop or reduce it, or raise KORNIA_TAR_MAX_PIXELS"
        )


def _read_pillow(path: Path, limit: int) -> tuple[NDArray[Any], NDArray[np.bool_], GeoProfile | None]:
    is_geo = path.suffix.lower() in _GEO_SUFFIXES
    try:
        with _pillow_limit(limit), Image.open(path) as image:
            if is_geo and any(tag in image.getexif() for tag in _GEO_TAGS):
                raise ImportError(f"{path}: is a GeoTIFF, which {_NEEDS_GEO}")
            _check_size(path, image.width, image.height, limit)
            deep_colour = image.format == "PNG" and ";16B" in str(image.tile) and not image.mode.startswith("I")
            image.load()  # raises on a file cut short, where OpenCV would hand over half an image
            pixels = _read_deep_png(path) if deep_colour else _array(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        hint = f"; reading more than plain TIFFs {_NEEDS_GEO}" if is_geo else ""
        raise ValueError(f"{path}: cannot be read as an image ({one_line(error)}){hint}") from error
    mask = np.ones(pixels.shape[:2], dtype=bool)
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        mask, pixels = pixels[..., -1] > 0, pixels[..., :-1]
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels, mask, None


@contextmanager
def _pillow_limit(limit: int) -> Iterator[None]:
    """Put our limit in the place of Pillow's, which is a global of its module."""
    theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max(limit, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = theirs


def _array(image: Image.Image) -> NDArray[Any]:
    """Grey stays grey with its depth, all else becomes RGB; transparency becomes a last band."""
    grey = image.mode in ("1", "L", "LA")
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        return array.astype(np.uint16) if image.mode.startswith("I;16") else array
    if image.has_transparency_data:
        return np.asarray(image.convert("LA" if grey else "RGBA"))
    return np.asarray(image.convert("L" if grey else "RGB"))


def _read_deep_png(path: Path) -> NDArray[Any]:
    """A colour PNG of 16 bits, which Pillow would cut to 8."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise OSError("unreadable 16-bit PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[-1] == 3 else cv2.COLOR_BGRA2RGBA)


def _read_rasterio(path: Path, limit: int) -> tuple[NDArray[Any], NDArray[np.bool_], GeoProfile | None]:
    import rasterio
    from rasterio.enums import ColorInterp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                _check_size(path, file.width, file.height, limit)
                kinds = zip(file.indexes, file.colorinterp, strict=True)
                bands = [i for i, kind in kinds if kind != ColorInterp.alpha] or [1]
                pixels = np.moveaxis(file.read(bands), 0, -1)
                mask = (file.read_masks(bands) > 0).all(axis=0)
                profile = GeoProfile(file.crs, file.transform, file.nodata)
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{path}: cannot be read as an image ({one_line(error)})") from error
    plain = profile.crs is None and profile.transform.is_identity and profile.nodata is None
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels, mask, None if plain else profile


def _write_geotiff(path: Path, pixels: NDArray[Any], profile: GeoProfile | None) -> None:
    if importlib.util.find_spec("rasterio") is None:
        raise ImportError(f"{path}: writing GeoTIFF {_NEEDS_GEO}")
    import rasterio

    bands = pixels[..., None] if pixels.ndim == 2 else pixels
    georeference = {} if profile is None else {k: v for k, v in vars(profile).items() if v is not None}
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


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The finite values, thinned to a few million: percentiles need no more."""
    step = max(1, math.isqrt(values.shape[0] * values.shape[1] // 4_000_000))
    thinned = values[::step, ::step]
    finite = thinned[np.isfinite(thinned)]
    return finite if finite.size else values[np.isfinite(values)]


def _stretch(values: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.uint8]:
    """2-98 percentile of the finite reference values to 0-255; not finite to 0."""
    low, high = np.percentile(_sample(reference), (2, 98))
    if not high > low:  # almost all pixels are equal: let the few others be seen
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scaled = (values - low) / (high - low if high > low else 1.0)
    return cast(NDArray[np.uint8], np.rint(np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8))
