"""Files that rasterio opens: quietly, nothing in them run or fetched; what they say, and which files belong to them."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kornia_tar.files import one_line, walk_hdf5
from kornia_tar.raster.image import Bands, GeoProfile

HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_SOURCES = 100_000  # files behind one VRT
MAX_READS = 1_000_000  # of a VRT's sources, each as often as it is named: ten VRTs of ten sources each are quickly many
MAX_VRT = 2**27  # bytes of one
MAX_AUX = 2**20  # bytes of an .aux.xml that are searched: GDAL puts the place first, then bands with their histograms
_AUX_MARKS = {
    "place": rb"<SRS|<GeoTransform|<GCP|<GeodataXform|domain\s*=\s*[\"']RPC",  # GeodataXform is ArcGIS's
    "nodata value": rb"<NoDataValue",
}
# GDAL fetches what a file names on the network; through no proxy at all it fetches nothing.
_LOCAL = {
    "GDAL_HTTP_PROXY": "127.0.0.1:9", "GDAL_HTTPS_PROXY": "127.0.0.1:9", "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_HTTP_TIMEOUT": "30", "GDAL_HTTP_CONNECTTIMEOUT": "10",
}  # fmt: skip
_PART = r"[a-zA-Z][\w+.-]+:"  # begins a name such as NETCDF:a.nc:band or https://host/x.tif: of one file or its part
_HDF5_PART = re.compile(r'(?:HDF5|NETCDF):(?:"([^"]+)"|([^:]+))')
# Nothing of a file is run, and nobody is asked at the terminal.
_GDAL = {"GDAL_VRT_ENABLE_PYTHON": "NO", "CPL_ALLOW_VSISTDIN": "NO"}


class ImageRefusedError(ValueError):
    """An image is not taken, for a reason of ours; the words name it."""


def has_geo() -> bool:
    """Tell whether rasterio is installed, which GeoTIFFs need."""
    return importlib.util.find_spec("rasterio") is not None


def absent(path: Path) -> str:
    """Say that a file is not there, and what to do where GDAL may know it by that name."""
    name = re.sub(r"(^|/)([a-z][a-z0-9+.-]+):/(?=[^/])", r"\1\2://", path.as_posix())  # a path makes one slash of two
    if not re.search(rf"^/vsi|(^|/){_PART}", name):
        return f"{path}: no such file"
    away = re.search("://|^/vsi(s3|gs|az|adls|oss|swift|webhdfs)", name)
    fetched = " and set KORNIA_TAR_REMOTE=1" if away else ""
    return (
        f"{name}: is not a file on disk; make a VRT of it (gdal_translate -of VRT … x.vrt){fetched}, or give "
        "register_files an open rasterio data set"
    )


class SharedContext:
    """A context of the whole process that threads share: the first of them enters it, the last one leaves it.

    Args:
        make: makes a new one.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock, self._users, self._stack = make, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._stack.enter_context(self._make())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stack.close()


@contextmanager
def _silence() -> Iterator[None]:
    # GDAL's words about a damaged file may be no UTF-8: rasterio's log then fails, and prints a traceback by these two.
    hooks = sys.excepthook, sys.unraisablehook
    sys.excepthook = lambda kind, *rest: None if kind is UnicodeDecodeError else hooks[0](kind, *rest)
    sys.unraisablehook = lambda told: None if told.exc_type is UnicodeDecodeError else hooks[1](told)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks


QUIET = SharedContext(_silence)  # no warning of rasterio's or Pillow's; filters and hooks are the process's


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a file by rasterio, silently, and so that GDAL runs nothing of it and fetches nothing from the network.

    KORNIA_TAR_REMOTE=1 in the environment lets it fetch what a VRT names.
    """
    import rasterio

    _check_hdf5(path)
    with QUIET, rasterio.Env(**_GDAL, **({} if remote() else _LOCAL)), rasterio.open(path) as file:
        yield file


def _check_hdf5(path: str | Path) -> None:
    """Refuse a damaged HDF5 or netCDF file: GDAL's own HDF5 prints pages about it, and may come to no end."""
    if part := _HDF5_PART.match(os.fspath(path)):
        path = part[1] or part[2]
    try:
        with Path(path).open("rb") as file:
            hdf5 = file.read(len(HDF5)) == HDF5
        told = Path(path).stat()
    except (OSError, ValueError):  # no file, but a name of GDAL's; or told by who reads it
        return
    if hdf5 and (wrong := _damage(Path(path), told.st_size, told.st_mtime_ns)):
        raise ImageRefusedError(f"{path}: {wrong}")


@lru_cache(maxsize=4096)
def _damage(path: Path, size: int, written: int) -> str:
    """What is wrong with an HDF5 file that had this size when it was written; nothing where it is whole."""
    try:
        return "" if walk_hdf5(path) else "is a damaged HDF5 file; copy it again"
    except ValueError as error:
        return str(error)


def remote() -> bool:
    """Tell whether an image may name others on the network."""
    return os.environ.get("KORNIA_TAR_REMOTE") == "1"


def first_cause(error: BaseException) -> str:
    """What was wrong at first: GDAL's words, where rasterio has but "see previous exception"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def file_graph(path: Path) -> dict[Path, list[Path]]:
    """Find what files an image is read from, each with those that it names itself."""
    found, waiting = dict[Path, list[Path]](), [os.fspath(path)]
    while waiting and len(found) < MAX_SOURCES:
        name = waiting.pop()
        if (one := Path(name)) in found:
            continue
        found[one] = []
        with suppress(Exception), open_raster(name) as file:  # told by who reads it
            found[one] = [Path(other) for other in file.files]  # of a VRT in a VRT the next level alone
            waiting += file.files
    return found


def sidecars(path: Path) -> list[Path]:
    """List the files beside a picture that may tell GDAL where it lies: of a.png a.pgw, a.wld, a.png.aux.xml."""
    end = path.suffix[1:].lower()
    worlds = (f".{end[:1]}{end[-1:]}w", f".{end}w", ".wld")
    beside = [path.with_suffix(cased) for world in worlds for cased in (world, world.upper())]
    return [one for one in (*beside, path.with_name(f"{path.name}.aux.xml")) if one.is_file()]


def sidecar_says(path: Path) -> list[str]:
    """List what a file beside a picture says of it that we would take: its "place", its "nodata value".

    A world file names the place alone; an ``.aux.xml`` often holds nothing but statistics.
    """
    if path.suffix.lower() != ".xml":
        return ["place"]
    with path.open("rb") as file:
        head = file.read(MAX_AUX)
    return [what for what, marks in _AUX_MARKS.items() if re.search(marks, head)]


def check_reads(path: Path) -> None:
    """Refuse a VRT of VRTs that are named so often that reading them would not end."""
    graph, known = file_graph(path), dict[Path, int]()
    for one in graph:  # a VRT's sources are opened by GDAL itself
        _check_hdf5(one)

    def reads(one: Path) -> int:
        if one not in known:
            known[one] = 1  # a circle is found by GDAL
            named = [reads(other) for other in graph.get(one, ()) if other != one]
            if named and not one.is_file() and re.match(_PART, str(one)):
                known[one] = max(named)
            elif named:
                if one.stat().st_size > MAX_VRT:
                    raise ImageRefusedError(f"{path}: has more than {MAX_VRT} bytes in {one.name}")
                known[one] = one.read_bytes().count(b"<Source") * max(named)
        return known[one]

    if (count := reads(path)) > MAX_READS:
        raise ImageRefusedError(
            f"{path}: its sources would be read up to {count} times, more than {MAX_READS}; name no VRT in a VRT"
        )


def profile_of(file: Any, nodata: float | None) -> GeoProfile | None:
    """Take what an open file says of where it lies, and its nodata value; None where it has neither."""
    gcps, gcps_crs = file.gcps
    gcps = gcps if gcps_crs else []  # of no use, and nothing that could be written
    profile = GeoProfile(file.crs, file.transform, nodata, rpcs=file.rpcs)
    if profile.kind != "transform" and (gcps or file.rpcs is not None):
        crs = gcps_crs if gcps else file.crs
        profile = replace(profile, crs=crs, transform=None, gcps=tuple(gcps))
    return None if profile.kind is None and profile.crs is None and nodata is None else profile


def bands_of(file: Any, bands: list[int]) -> Bands:
    """Take what an open file says of some of its bands."""
    of = lambda values: tuple(values[band - 1] for band in bands)  # noqa: E731
    colours = tuple(kind.name for kind in of(file.colorinterp))
    return Bands(of(file.descriptions), colours, of(file.scales), of(file.offsets), of(file.units))
