"""The page of a registration: what a person looks at instead of a log. One file, nothing to fetch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from kornia_tar.files import to_plain
from kornia_tar.outputs.drawing import Picture, data_uri, fit, overlay, to_rgb
from kornia_tar.outputs.ground import georeference_of, metres_per_pixel
from kornia_tar.outputs.page.vectors import residual_vectors
from kornia_tar.outputs.windows import Window
from kornia_tar.raster import Raster
from kornia_tar.raster.stretch import to_grey
from kornia_tar.registration.result import Registration

BUDGET = 6_000_000  # bytes of the page; pictures are coded more coarsely until it fits
_QUALITIES: tuple[tuple[int, int | None], ...] = ((80, None), (65, 92), (45, 80), (25, 60))  # overviews, windows
_SIDE, _MAP_SIDE = 1200, 800  # px, longer side of the overviews, and of the picture under the vectors
_FOLDER = Path(__file__).parent


def build_page(
    report: Mapping[str, Any],
    outcome: Registration,
    first: Raster,
    second: Raster,
    image0: Picture,
    registered: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    before: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    by_georeferences: bool,
    windows: Sequence[Window],
    exact: tuple[Picture, NDArray[np.uint8], NDArray[np.bool_]] | None = None,
    headline: str | None = None,
) -> str:
    """Build the page.

    Args:
        report: what goes into ``report.json``; the page tells its numbers.
        outcome: what the registrar says.
        first: image0, as read.
        second: image1.
        image0: (h, w, 3), to look at; at full size or reduced, as the next two are.
        registered: (h, w), image1 in image0's frame by the transform, and (h, w), where it holds data.
        before: the same before anything was registered.
        by_georeferences: whether ``before`` is what the georeferences say, and not pixel on pixel.
        windows: parts of image0's frame to show at full resolution, the best first.
        exact: image0, registered and where it holds data at full size, to cut the windows from, where the others are
            reduced.
        headline: told beside the names of the files.

    Returns:
        HTML, at most about ``BUDGET`` bytes of it.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    template = environment.get_template("page.html.j2")
    css, js = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    plain = to_plain(dict(report))
    unit = metres_per_pixel(outcome, first, second)
    told = {
        "report": plain,
        "found": outcome.matrix is not None,
        "headline": headline,
        "names": (first.path.name, second.path.name),
        "by_georeferences": by_georeferences,
        "ratio": first.size[1] / first.size[0],
        "size": first.size,
        "files": [_file(first), _file(second)],
        "vectors": residual_vectors(outcome, first.size),
        "pixel_metres": unit,
        "css": css,
        "js": js,
        "js_hash": base64.b64encode(hashlib.sha256(js.encode()).digest()).decode(),
    }
    overviews, windowed = (
        _overviews(image0, registered, before),
        _windows(windows, first, exact or (image0, *registered), unit),
    )
    under = _reduced(to_rgb(to_grey(image0)), _MAP_SIDE)
    page = ""
    for quality, exact_quality in _QUALITIES:
        page = template.render(
            told,
            overviews={name: _coded(picture, quality) for name, picture in overviews.items()},
            map=_coded(under, min(quality, 60)),
            windows=[w | {"images": [_coded(image, exact_quality) for image in w["images"]]} for w in windowed],
        )
        if len(page.encode()) <= BUDGET:
            break
    return page


def _overviews(
    image0: Picture,
    registered: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    before: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> dict[str, Picture]:
    """Small images to lay on each other: image0, image1 see-through where it shows nothing, and both overlays."""
    small0 = _reduced(image0, _SIDE)
    (after, shown), (naive, covered) = (
        (_reduced(to_rgb(image), _SIDE), _shrunk(mask, small0.shape[:2])) for image, mask in (registered, before)
    )
    return {
        "image0": small0,
        "image1": np.dstack([after, np.where(shown, 255, 0).astype(np.uint8)]),
        "before": overlay(small0, naive, covered),
        "after": overlay(small0, after, shown),
    }


def _reduced(image: Picture, side: int) -> Picture:
    """An image (H, W, 3) that is at most ``side`` px long; never enlarged, which is the browser's part."""
    return fit(image, min(side, image.shape[1]), min(side, image.shape[0]))


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask at another size, True where all of a pixel is."""
    return cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA) > 0.99


def _windows(
    windows: Sequence[Window], first: Raster, exact: tuple[Picture, NDArray[np.uint8], NDArray[np.bool_]],
    unit: float | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """What is said and shown of each window."""
    georeference = georeference_of(first)
    return [
        {
            "window": window,
            "letter": "ABC"[number],
            "metres": None if unit is None else window.error * unit,
            "lonlat": None if georeference is None else georeference.to_lonlat([window.middle])[0].tolist(),
            "height": (window.rows.stop - window.rows.start) * window.magnify,
            "width": (window.columns.stop - window.columns.start) * window.magnify,
            "images": window.cut(*exact),
        }
        for number, window in enumerate(windows)
    ]


def _coded(picture: Picture, quality: int | None) -> dict[str, Any]:
    height, width = picture.shape[:2]
    return {"src": data_uri(picture, quality), "width": width, "height": height}


def _file(raster: Raster) -> dict[str, Any]:
    """Where an image comes from, and what it holds."""
    georeference, pixels = georeference_of(raster), raster.pixels
    crs = None if georeference is None else georeference.crs
    return {
        "path": str(raster.path),
        "bytes": raster.path.stat().st_size if raster.path.is_file() else None,
        "size": raster.size,
        "bands": 1 if pixels.ndim == 2 else pixels.shape[2],
        "dtype": str(pixels.dtype),
        "valid": float(raster.mask.mean()),
        "nodata": None if raster.profile is None else raster.profile.nodata,
        "georeference": None if georeference is None else georeference.kind,
        "crs": None if crs is None else crs.to_string() if crs.to_epsg() else "without an EPSG code",
    }
