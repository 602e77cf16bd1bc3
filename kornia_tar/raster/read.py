"""Read images: PNG, JPEG and other pictures by Pillow, whatever else rasterio opens by rasterio; content decides.

rasterio (``pip install "kornia-tar[geo]"``) is imported only when such a file is met, or a picture with a world file.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.files import one_line
from kornia_tar.raster.gdal import (
    QUIET,
    ImageRefusedError,
    absent,
    bands_of,
    check_reads,
    file_graph,
    first_cause,
    has_geo,
    open_raster,
    profile_of,
    sidecar_says,
    sidecars,
)
from kornia_tar.raster.image import MAX_PIXELS, NEEDS_GEO, Bands, GeoProfile, Raster
from kornia_tar.raster.nodata import as_text, declared_nodata, holds, is_fill, undeclared_fill
from kornia_tar.raster.windows import Windowed, read_bands, read_valid, small_cache, strips

LEAST_BLOCK = 2**22  # pixels of a block that is read however low the limit is
BYTES_PER_PIXEL = 16  # times the limit of pixels: so much memory may all bands take

# What pictures begin with: PNG, JPEG, GIF, BMP, WebP (its first four bytes are any RIFF's), and TIFF, also a big one.
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


_GEO_TAGS = (33550, 33922, 34264)  # GeoTIFF pixel scale, tie points, transformation
# What Pillow may read: pixels alone. Others run programs (EPS: Ghostscript) or hold no image of one's own.
_FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "JPEG2000", "AVIF", "PPM", "PCX", "TGA", "SGI", "SUN", "ICO",
    "DDS", "PSD", "IM", "MSP", "XBM", "QOI",
)  # fmt: skip


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
    colour table is looked up. Where a picture lies, files beside it say (``.pgw``, ``.jgw``, ``.wld``, ``.aux.xml``).

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
            cannot hold ``nodata``; when a VRT names what lies on the network, unless KORNIA_TAR_REMOTE is 1.
        ImportError: when it is a georeferenced file and rasterio is absent.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise FileNotFoundError(f"{path}: is {what}, not an image" if path.exists() else absent(path))
    limit = max_pixels if max_pixels is not None else pixel_limit()
    return _placed(as_raster(path, *_read(path, limit, upright, windowed), nodata, colours), nodata, upright)


def remarks(raster: Raster, option: str | None) -> list[str]:
    """Say in a line each what an image's user should know: what was left aside, what looks like a fill value.

    Args:
        raster: as read.
        option: that declares a nodata value; None where an undeclared one does no harm.
    """
    fill = None if option is None else undeclared_fill(raster, option)
    return [told for told in (raster.note, fill) if told]


def read_dataset(dataset: Any, *, nodata: float | None = None) -> Raster:
    """Read an open rasterio data set as :func:`read_image` reads its file; it stays open.

    Raises:
        ValueError: as of a file; or it is closed.
    """
    path = Path(dataset.name)
    if dataset.closed:
        raise ValueError(f"{path}: this data set is closed; open it again, or give its path")
    try:
        return as_raster(path, *_read_rasterio(path, pixel_limit(), opened=dataset), nodata)
    except NotARaster as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


def as_raster(
    path: Path, pixels: NDArray[Any], mask: NDArray[np.bool_], profile: GeoProfile | None, bands: Bands | None,
    nodata: float | None, colours: bool = True,
) -> Raster:  # fmt: skip
    """Make what was read a raster: magnitudes, a mask of all that is missing, colours looked up; see `read_image`."""
    if pixels.dtype.kind == "c":
        pixels = _each(pixels, np.abs)
    if nodata is not None and not holds(pixels.dtype, nodata):
        never = f"{path}: holds {pixels.dtype}, which never is {as_text(nodata)}"
        raise ValueError(f"{never}: give the nodata value that it has")
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
    return _shown(Raster(pixels, mask, profile, path, bands))


def source_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return all files that an image is read from: a VRT's sources, world files and other companions with it."""
    path = Path(path)
    with suppress(OSError):  # told by who reads it
        if _begins(path, _PICTURES):
            return [path, *sidecars(path)]
    return list(file_graph(path)) if path.is_file() and has_geo() else [path]


_Read = tuple[NDArray[Any], NDArray[np.bool_], GeoProfile | None, Bands | None]


def _each(pixels: NDArray[Any], change: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Change each pixel; of a windowed image when it is read."""
    if isinstance(pixels, Windowed):
        return cast(NDArray[Any], pixels.changed(change))
    return change(pixels)


def _read(path: Path, limit: int, upright: bool, windowed: bool) -> _Read:
    """Read a file by what its content calls for."""
    if _begins(path, _PICTURES) or not has_geo():
        return *_read_pillow(path, limit, upright), None
    try:
        return _read_rasterio(path, limit, windowed)
    except NotARaster as error:
        if not _begins(path, _TIFFS):
            with suppress(ValueError):  # a picture of a kind that GDAL was built without
                return *_read_pillow(path, limit, upright), None
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


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


def check_size(path: Path, width: int, height: int, limit: int) -> None:
    """Refuse an image that is too small or, with more than ``limit`` pixels, too large."""
    if min(width, height) < MIN_SIDE:
        raise ImageRefusedError(f"{path}: is {width}x{height} pixels; each side must have at least {MIN_SIDE}")
    if width * height > limit:
        raise ImageRefusedError(
            f"{path}: is {width}x{height} pixels, more than the limit of {limit}; "
            "crop or reduce it, or raise KORNIA_TAR_MAX_PIXELS"
        )


def _check_memory(path: Path, file: Any, limit: int) -> None:
    """Refuse a raster whose bands, or one of whose blocks, take too much memory, whatever few bytes promise them."""
    # rasterio's own name for pairs of integers, as of a Sentinel-1 SLC, is none of NumPy's
    width = max(np.dtype("complex64" if name == "complex_int16" else name).itemsize for name in file.dtypes)
    size, most = file.width * file.height * file.count * width, BYTES_PER_PIXEL * limit
    if size > most:
        raise ImageRefusedError(
            f"{path}: its {file.count} bands of {file.width}x{file.height} pixels take {size >> 20} MiB, more than "
            f"{most >> 20}; extract the bands that are needed, or raise KORNIA_TAR_MAX_PIXELS"
        )
    block = max(math.prod(shape) for shape in file.block_shapes)
    if block > max(limit, LEAST_BLOCK):
        raise ImageRefusedError(f"{path}: is stored in blocks of {block} pixels, more than the limit of {limit}")


def _read_pillow(path: Path, limit: int, upright: bool) -> tuple[NDArray[Any], NDArray[np.bool_], GeoProfile | None]:
    is_picture = _begins(path, _PICTURES)
    try:
        with _pillow_limit(limit), Image.open(path, formats=_FORMATS) as image:
            if not is_picture and any(tag in image.getexif() for tag in _GEO_TAGS):
                raise ImportError(f"{path}: is a GeoTIFF, which {NEEDS_GEO}")
            check_size(path, image.width, image.height, limit)
            deep_colour = image.format == "PNG" and ";16B" in str(image.tile) and not image.mode.startswith("I")
            image.load()  # raises on a file cut short, where OpenCV would hand over half an image
            turned = ImageOps.exif_transpose(image) if upright else image
            pixels = _read_deep_png(path) if deep_colour else _array(turned)
    except (ImageRefusedError, ImportError):
        raise
    except Exception as error:  # what Pillow raises on damaged files is no closed list
        absent = not is_picture and not has_geo()
        hint = f"; reading more than plain pictures {NEEDS_GEO}" if absent else ""
        raise ValueError(f"{path}: cannot be read as an image ({one_line(error)}){hint}") from error
    mask = np.ones(pixels.shape[:2], dtype=bool)
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        mask, pixels = pixels[..., -1] > 0, pixels[..., :-1]
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels, mask, None


@contextmanager
def _pillow_limit(limit: int) -> Iterator[None]:
    """Put our limit in the place of Pillow's, which is a global of its module: one thread at a time."""
    with _PILLOW, QUIET:  # it warns of half the limit, of damaged EXIF
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max(limit, 1)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


_PILLOW = threading.RLock()


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


def _read_rasterio(path: Path, limit: int, windowed: bool = False, opened: Any = None) -> _Read:
    """Read a file, or a data set of it that is open and stays so."""
    import rasterio
    from rasterio.enums import ColorInterp

    try:
        with (
            rasterio.Env(**small_cache(windowed)),
            open_raster(path) if opened is None else nullcontext(opened) as file,
        ):
            if not file.count:
                many = len(file.subdatasets)
                raise ImageRefusedError(f"{path}: holds no image itself, but {many}: extract one of them")
            check_size(path, file.width, file.height, limit)
            _check_memory(path, file, limit)
            if file.driver == "VRT" and opened is None:
                check_reads(path)
            kinds = zip(file.indexes, file.colorinterp, strict=True)
            bands = [i for i, kind in kinds if kind != ColorInterp.alpha] or [1]
            pixels = read_bands(file, bands, open_raster, windowed)
            mask = read_valid(file, bands, next(strips(pixels)).stop)
            if _is_opacity(pixels, file.colorinterp):
                for rows in strips(pixels):
                    mask[rows] &= pixels[rows][..., -1] > 0
                bands, pixels = bands[:-1], _each(pixels, lambda part: part[..., :-1])
            told = bands_of(file, bands)
            if file.colorinterp[0] == ColorInterp.palette and len(bands) == 1 and pixels.dtype.kind == "u":
                with suppress(ValueError):  # it says so, and has none
                    told = replace(told, table=file.colormap(1))
            profile = profile_of(file, declared_nodata(file, pixels.dtype))
    except ImageRefusedError:
        raise
    except Exception as error:  # GDAL's own kinds, words that are no UTF-8, a transform without an inverse
        raise NotARaster(first_cause(error)) from error
    pixels = _each(pixels, lambda part: part[..., 0]) if pixels.shape[-1] == 1 else pixels
    return pixels, mask, profile, told


def _placed(raster: Raster, nodata: float | None, upright: bool) -> Raster:
    """Give a picture the georeference and the nodata value of files beside it; where they cannot be taken, a note."""
    path, beside, said = raster.path, sidecars(raster.path), ["place"]
    if raster.profile is not None or raster.bands is not None or not beside:
        return raster
    try:
        if not has_geo():
            beside = [one for one in beside if sidecar_says(one)]
            said = list(dict.fromkeys(what for one in beside for what in sidecar_says(one)))
            if not said:
                return raster
            raise ImportError(f"reading it {NEEDS_GEO}")
        with _pillow_limit(raster.mask.size), Image.open(path, formats=_FORMATS) as image:
            turned = upright and image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)  # others turn nothing
        with open_raster(path) as file:
            size, declared = (file.height, file.width), declared_nodata(file, raster.pixels.dtype)
            stored, profile = not turned and size == raster.size, profile_of(file, declared)
            if profile is None:  # .aux.xml often holds statistics alone
                return raster
            raster, lies = _without(raster, file, declared, stored), profile.kind is not None or profile.crs is not None
            if file.colorinterp[0].name == "palette":
                declared = None  # it was an index, and these are colours
            if declared is not None or (stored and lies):
                profile = profile if stored else GeoProfile(None, file.transform.identity())
                raster = replace(raster, profile=replace(profile, nodata=declared if nodata is None else nodata))
            if stored or not lies:
                return raster
        seen = "EXIF turns the picture" if turned else f"GDAL sees {size[1]}x{size[0]} pixels"
        why = f"{seen}; save it as GeoTIFF"
    except ImageRefusedError:
        raise
    except Exception as error:  # of a TIFF an error, but here the pixels are read already
        why = first_cause(error)
    names = ", ".join(one.name for one in beside)
    return replace(raster, note=f"{path}: what {names} says of its {' and '.join(said)} is left aside: {why}")


def _without(raster: Raster, file: Any, nodata: float | None, stored: bool) -> Raster:
    """Mask what the open file of a picture declares to be missing; ``stored``, where both have the same pixels."""
    mask = raster.mask
    if nodata is not None and file.colorinterp[0].name != "palette":
        mask = mask & ~is_fill(raster.pixels.reshape(*mask.shape, -1), nodata).any(axis=-1)
    elif nodata is not None and stored:  # which index a colour had, GDAL alone knows
        mask = mask & read_valid(file, [1], next(strips(raster.pixels)).stop)
    return _shown(replace(raster, mask=mask))


def _shown(raster: Raster) -> Raster:
    """Refuse an image of which nothing is valid."""
    if not raster.mask.any():
        raise ImageRefusedError(
            f"{raster.path}: has no valid pixel (all nodata, transparent or NaN); give an image that shows something"
        )
    return raster


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
