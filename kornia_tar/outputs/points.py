"""Tie points as tables, on the map, for QGIS's georeferencer, and as ground control points of image1.

Convention:
    ``x``, ``y`` are pixels, centres at integers. QGIS and GDAL count from a pixel's corner: half a pixel is added.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from kornia_tar.files import one_line, replacing, write_json
from kornia_tar.geometry import FloatArray
from kornia_tar.outputs.ground import georeference_of
from kornia_tar.raster import Georeference, Raster, read_image
from kornia_tar.raster.gdal import QUIET, open_raster
from kornia_tar.registration.result import Registration

HALF = 0.5  # px, from a pixel's corner to its centre
ON_MAP, AS_GCPS = 32, 12  # blocks on a side, whose best points are drawn and are control points
NAMES = ("tie_points.csv", "tie_points.geojson", "tie_points.points", "image1_gcps.vrt")


def write_points(folder: Path, outcome: Registration, first: Raster, second: Raster) -> None:
    """Write the tie points as a table, and where image0 has a georeference on the map.

    ``tie_points.csv`` always, ``tie_points.geojson`` with a georeference, and if the pair is registered, too,
    ``tie_points.points`` and ``image1_gcps.vrt``.

    Args:
        folder: where to.
        outcome: what the registrar says.
        first: image0.
        second: image1. No VRT of a file that GDAL does not open, or whose pixels are stored in another order.

    Raises:
        ValueError: something cannot be written.
    """
    georeference, matches = georeference_of(first), outcome.matches
    residuals = np.full(len(matches), np.nan)
    if outcome.transform is not None:
        residuals = np.linalg.norm(outcome.transform(matches.points0) - matches.points1, axis=1)
    held = np.full((len(matches), 2), np.nan) if outcome.held_out is None else outcome.held_out.at(matches.points0)
    columns: dict[str, NDArray[Any]] = {
        "x0": matches.points0[:, 0], "y0": matches.points0[:, 1],
        "x1": matches.points1[:, 0], "y1": matches.points1[:, 1],
        "residual_px": residuals, "confidence": matches.confidence, "std_px": matches.stated_std,
        "inlier": outcome.inliers.astype(int), "held_out": np.isfinite(held).all(axis=1).astype(int),
        "held_out_dx_px": held[:, 0], "held_out_dy_px": held[:, 1],
    }  # fmt: skip
    if georeference is not None:
        columns["map_x"], columns["map_y"] = georeference.to_map(matches.points0).T
    _write_csv(folder / "tie_points.csv", columns)
    if georeference is None:
        return
    shown = best_of_blocks(matches.points0, matches.confidence, first.size, ON_MAP)
    lonlat = georeference.to_lonlat(matches.points0[shown])
    write_json(folder / "tie_points.geojson", _features(lonlat, {k: v[shown] for k, v in columns.items()}))
    inliers = np.flatnonzero(outcome.inliers)
    if not outcome.registered or not len(inliers):
        return
    few = inliers[best_of_blocks(matches.points0[inliers], matches.confidence[inliers], first.size, AS_GCPS)]
    on_map, in_image1 = georeference.to_map(matches.points0[few]), matches.points1[few]
    _write_qgis(folder / "tie_points.points", on_map, in_image1, georeference, second)
    _write_gcps(folder / "image1_gcps.vrt", on_map, in_image1, georeference, second)


def best_of_blocks(
    points: FloatArray, confidence: NDArray[np.float64], size: tuple[int, int], count: int
) -> NDArray[np.int64]:
    """Choose the most confident point of each of ``count`` × ``count`` blocks of an image of ``size`` (H, W)."""
    column, row = (np.floor((points + HALF) / size[::-1] * count).clip(0, count - 1).astype(np.int64)).T
    order = np.argsort(-confidence, kind="stable")
    _, first = np.unique((row * count + column)[order], return_index=True)
    return np.sort(order[first])


def _write_csv(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        cells = ([_short(value, _decimals(name)) for value in values.tolist()] for name, values in columns.items())
        writer.writerows(zip(*cells, strict=True))


def _decimals(name: str) -> int:
    return 9 if name.startswith("map_") else 4  # of degrees nine are a tenth of a millimetre


def _short(value: float, decimals: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if value != value else f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def _features(lonlat: FloatArray, columns: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A GeoJSON collection (RFC 7946: longitude and latitude, WGS 84)."""
    known = np.isfinite(lonlat).all(axis=1)
    lonlat = np.stack([(lonlat[:, 0] + 180) % 360 - 180, lonlat[:, 1]], 1)
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [round(float(v), 8) for v in lonlat[k]]},
                "properties": {n: round(float(values[k]), _decimals(n)) for n, values in columns.items()},
            }
            for k in np.flatnonzero(known)
        ],
    }


def _write_qgis(path: Path, on_map: FloatArray, points1: FloatArray, reference: Georeference, second: Raster) -> None:
    """Write what QGIS's georeferencer loads: image1's own map coordinates where it has an affine georeference."""
    own = georeference_of(second)
    source = (points1 + HALF) * (1, -1) if own is None or own.kind != "transform" else own.to_map(points1)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(f"#CRS: {reference.crs.to_wkt()}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("mapX", "mapY", "sourceX", "sourceY", "enable", "dX", "dY", "residual"))
        writer.writerows((*map(repr, row), 1, 0, 0, 0) for row in np.hstack([on_map, source]).tolist())


def _write_gcps(path: Path, on_map: FloatArray, points1: FloatArray, reference: Georeference, second: Raster) -> None:
    """Write image1 as a VRT that holds control points and no pixel; nothing where GDAL does not open image1."""
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.control import GroundControlPoint
    from rasterio.shutil import copy

    if not _as_stored(second):
        return
    gcps = [
        GroundControlPoint(row=float(y) + HALF, col=float(x) + HALF, x=float(east), y=float(north), z=0.0)
        for (x, y), (east, north) in zip(points1, on_map, strict=True)
    ]
    with replacing(path) as temporary, QUIET:  # rasterio warns of image1's own georeference, which is missing
        try:
            copy(str(second.path.resolve()), str(temporary), driver="VRT")
            with rasterio.open(temporary, "r+") as file:
                file.gcps = gcps, reference.crs
            tree = ElementTree.parse(temporary)  # noqa: S314 GDAL wrote it just now
        except (rasterio.errors.RasterioError, CPLE_BaseError, ElementTree.ParseError) as error:
            raise ValueError(f"{path}: cannot be written ({one_line(error)})") from error
        root = tree.getroot()
        for old in root.findall("GeoTransform") + root.findall("SRS"):
            root.remove(old)  # or the control points would not count
        for name in root.iter("SourceFilename"):  # of a VRT its own sources, for their windows and bands are kept, too
            if name.get("relativeToVRT") == "1":
                name.text = str((temporary.parent / (name.text or "")).resolve())
            name.set("relativeToVRT", "0")
        tree.write(temporary, encoding="utf-8")


def _as_stored(raster: Raster) -> bool:
    """Whether GDAL opens an image's file, and sees its pixels where we do: it does not turn what EXIF turns."""
    try:
        with open_raster(raster.path) as file:
            same = (file.height, file.width) == raster.size
    except Exception:  # what GDAL and rasterio say of a file that is none of theirs is no closed list
        return False
    if raster.profile is not None or raster.bands is not None:  # GDAL has read it, or where it lies
        return same
    return same and read_image(raster.path, upright=False).pixels.tobytes() == raster.pixels.tobytes()
