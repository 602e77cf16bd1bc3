"""Read images: PNG, JPEG and other pictures by Pillow, whatever else rasterio opens by rasterio; content decides.

rasterio (``pip install "kornia-tar[geo]"``) is imported only when such a file is met.
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.files import one_line
from kornia_tar.raster.image import MAX_PIXELS, NEEDS_GEO, Bands, GeoProfile, Raster
from kornia_tar.raster.nodata import holds, is_fill
from kornia_tar.raster.windows import Windowed, read_bands, read_valid, small_cache, strips

MAX_SOURCES = 100_000  # files behind one VRT


# What pictures begin with: PNG, JPEG, GIF, BMP, WebP (its first four bytes are any RIFF's), and TIFF, also a big one.
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


_GEO_TAGS = (33550, 33922, 34264)  # GeoTIFF pixel scale, tie points, transformation


def read_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int | None = None,
    nodata: float | None = None,
    upright: bool = True,
    colours: bool = True,
    windowed: bool = False,
) -> Raster:
    """Read PNG, JPEG, GIF, BMP and WebP by Pillow, and what else rasterio opens (GeoTIFF, VRT, ENVI …) by rasterio.

    The content decides, not the name. Without rasterio a TIFF that carries no georeference is read by Pillow. A
    colour table is looked up.

    Args:
        path: the file.
        max_pixels: refuse larger images; default the environment's KORNIA_TAR_MAX_PIXELS, else :data:`MAX_PIXELS`.
        colours: look up a colour table; False leaves the indices, as of labels, and ``bands.table`` beside them.
        upright: turn a picture as its EXIF says; False leaves its pixels as they are stored.
        nodata: a value that marks missing pixels, beside or in place of the one that the file declares.
        windowed: leave the pixels of a large image that rasterio reads in the file, until a part of them is asked for:
            ``pixels`` is a :class:`kornia_tar.raster.windows.Windowed` then.

    Returns:
        Pixels, mask, georeference, and what the file says of its bands.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no image, is cut short, has a side below 32 pixels or no valid pixel, is too large, or
            cannot hold ``nodata``.
        ImportError: when it is a georeferenced file and rasterio is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file" if not path.exists() else f"{path}: is a folder, not an image")
    limit = max_pixels if max_pixels is not None else pixel_limit()
    pixels, mask, profile, bands = _read(path, limit, upright, windowed)
    if pixels.dtype.kind == "c":
        pixels = _each(pixels, np.abs)
    if nodata is not None and not holds(pixels.dtype, nodata):
        raise ValueError(f"{path}: holds {pixels.dtype}, which never is {nodata:g}: give the nodata value that it has")
    declared = None if profile is None else profile.nodata
    fills = [value for value in (nodata, declared) if value is not None]
    if profile is not None and nodata is not None:
        profile = replace(profile, nodata=nodata)
    for rows in strips(pixels) if fills or pixels.dtype.kind == "f" else ():
        part = pixels[rows].reshape(rows.stop - rows.start, mask.shape[1], -1)
        for value in fills:
            mask[rows] &= ~is_fill(part, value).any(axis=-1)
        if part.dtype.kind == "f":
            mask[rows] &= np.isfinite(part).all(axis=-1)
    if colours and bands is not None and bands.table is not None:
        pixels, shown = _looked_up(pixels, bands.table)  # nodata was an index
        mask, bands, profile = mask & shown, None, profile and replace(profile, nodata=None)
    if not mask.any():
        raise ValueError(
            f"{path}: has no valid pixel (all nodata, transparent or NaN); give an image that shows something"
        )
    return Raster(pixels, mask, profile, path, bands)


def source_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return all files that an image is read from: a VRT's sources, world files and other companions with it."""
    path = Path(path)
    with suppress(OSError):  # told by who reads it
        if _begins(path, _PICTURES):
            return [path]
    if path.is_file() and importlib.util.find_spec("rasterio") is not None:
        import rasterio

        found, waiting = dict[Path, None](), [path]
        while waiting and len(found) < MAX_SOURCES:
            one = waiting.pop()
            if one in found:
                continue
            found[one] = None
            with suppress(rasterio.errors.RasterioError), warnings.catch_warnings():  # told by who reads it
                warnings.simplefilter("ignore")
                with rasterio.open(one) as file:
                    waiting += [Path(name) for name in file.files]  # of a VRT in a VRT the next level alone
        return list(found)
    return [path]


_Read = tuple[NDArray[Any], NDArray[np.bool_], GeoProfile | None, Bands | None]


def _each(pixels: NDArray[Any], change: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Change each pixel; of a windowed image when it is read."""
    if isinstance(pixels, Windowed):
        return cast(NDArray[Any], pixels.changed(change))
    return change(pixels)


def _read(path: Path, limit: int, upright: bool, windowed: bool) -> _Read:
    """Read a file by what its content calls for."""
    if _begins(path, _PICTURES) or importlib.util.find_spec("rasterio") is None:
        return *_read_pillow(path, limit, upright), None
    try:
        return _read_rasterio(path, limit, windowed)
    except NotARaster as error:
        if not _begins(path, _TIFFS):
            with suppress(ValueError):  # a picture of a kind that GDAL was built without
                return *_read_pillow(path, limit, upright), None
        raise ValueError(f"{path}: cannot be read as an image ({one_line(error)})") from error


class NotARaster(Exception):
    """rasterio cannot open or read a file."""


def _begins(path: Path, marks: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(marks) and not (head.startswith(b"RIFF") and head[8:] != b"WEBP")


def pixel_limit() -> int:
    """Return how many pixels an image may have: KORNIA_TAR_MAX_PIXELS, else :data:`MAX_PIXELS`."""
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


def _read_pillow(path: Path, limit: int, upright: bool) -> tuple[NDArray[Any], NDArray[np.bool_], GeoProfile | None]:
    is_picture = _begins(path, _PICTURES)
    try:
        with _pillow_limit(limit), Image.open(path) as image:
            if not is_picture and any(tag in image.getexif() for tag in _GEO_TAGS):
                raise ImportError(f"{path}: is a GeoTIFF, which {NEEDS_GEO}")
            _check_size(path, image.width, image.height, limit)
            deep_colour = image.format == "PNG" and ";16B" in str(image.tile) and not image.mode.startswith("I")
            image.load()  # raises on a file cut short, where OpenCV would hand over half an image
            turned = ImageOps.exif_transpose(image) if upright else image
            pixels = _read_deep_png(path) if deep_colour else _array(turned)
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        absent = not is_picture and importlib.util.find_spec("rasterio") is None
        hint = f"; reading more than plain pictures {NEEDS_GEO}" if absent else ""
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


def _read_rasterio(path: Path, limit: int, windowed: bool) -> _Read:
    import rasterio
    from rasterio.enums import ColorInterp

    try:
        with rasterio.Env(**small_cache(windowed)), _opened(path) as file:
            if not file.count:
                raise ValueError(f"{path}: holds no image itself, but {len(file.subdatasets)}: extract one of them")
            _check_size(path, file.width, file.height, limit)
            kinds = zip(file.indexes, file.colorinterp, strict=True)
            bands = [i for i, kind in kinds if kind != ColorInterp.alpha] or [1]
            pixels = read_bands(file, bands, _opened, windowed)
            mask = read_valid(file, bands, next(strips(pixels)).stop)
            if _is_opacity(pixels, file.colorinterp):
                for rows in strips(pixels):
                    mask[rows] &= pixels[rows][..., -1] > 0
                bands, pixels = bands[:-1], _each(pixels, lambda part: part[..., :-1])
            told = _told(file, bands)
            if file.colorinterp[0] == ColorInterp.palette and len(bands) == 1 and pixels.dtype.kind == "u":
                with suppress(ValueError):  # it says so, and has none
                    told = replace(told, table=file.colormap(1))
            nodata = file.nodata if file.nodata is not None and holds(file.dtypes[0], file.nodata) else None
            if nodata is not None and pixels.dtype.kind == "f" and math.isfinite(nodata):  # a tag may be beyond it
                nodata = float(np.clip(nodata, *(getattr(np.finfo(pixels.dtype), end) for end in ("min", "max"))))
            gcps, gcps_crs = file.gcps
            gcps = gcps if gcps_crs else []  # of no use, and nothing that could be written
            profile = GeoProfile(file.crs, file.transform, nodata, rpcs=file.rpcs)
            if profile.kind != "transform" and (gcps or file.rpcs is not None):
                crs = gcps_crs if gcps else file.crs
                profile = replace(profile, crs=crs, transform=None, gcps=tuple(gcps))
    except rasterio.errors.RasterioError as error:
        raise NotARaster(one_line(error)) from error
    plain = profile.kind is None and profile.crs is None and profile.nodata is None
    pixels = _each(pixels, lambda part: part[..., 0]) if pixels.shape[-1] == 1 else pixels
    return pixels, mask, None if plain else profile, told


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file by rasterio, which is silent where it has no georeference."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            yield file


def _is_opacity(pixels: NDArray[Any], colours: Sequence[Any]) -> bool:
    """Whether the last of two or four bands is an alpha that nobody called so: all or nothing, over one colour."""
    if len(colours) not in (2, 4) or colours[-1].name != "undefined" or pixels.dtype != np.uint8:
        return False
    colour, seen = None, False
    for rows in strips(pixels):
        part = pixels[rows]
        clear = part[..., -1] == 0
        if not (part[..., -1][~clear] == 255).all():
            return False
        seen = seen or not clear.all()
        if clear.any():
            colour = part[clear][0] if colour is None else colour
            if not (part[clear] == colour).all():
                return False
    return seen and colour is not None


def _told(file: Any, bands: list[int]) -> Bands:
    """What an open file says of some of its bands."""
    of = lambda values: tuple(values[band - 1] for band in bands)  # noqa: E731
    colours = tuple(kind.name for kind in of(file.colorinterp))
    return Bands(of(file.descriptions), colours, of(file.scales), of(file.offsets), of(file.units))


def _looked_up(
    indices: NDArray[Any], table: Mapping[int, tuple[int, int, int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The colours (H, W, 3) that indices stand for, and where they are not transparent; black without an entry."""
    most = max(int(indices[rows].max()) for rows in strips(indices))
    colours = np.zeros((max(most, *table) + 1, 4), np.uint8)
    for index, colour in table.items():
        colours[index] = colour
    shown = np.concatenate([colours[indices[rows], 3] > 0 for rows in strips(indices)])
    return _each(indices, lambda part: colours[part, :3]), shown
