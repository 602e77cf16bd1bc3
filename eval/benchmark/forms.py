"""One georeferenced scene in the forms that real files have: projections, grids, ground sampling distances, GCPs.

Optical and SAR of a scene lie on one grid. A form writes the two as GeoTIFFs of another kind and knows where their
pixels lie in the scene: a geolocation error that it puts into a file is known, too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kornia_tar.geometry import FloatArray
from kornia_tar.geometry.transform import PointMap

CRS, UTM, LONLAT = "EPSG:3395", "EPSG:32611", "EPSG:4326"  # of the scenes, of their zone, degrees
GRID = 10.0  # map units of a scene's pixel
SHIFT = (410.0, -185.0)  # m east and north, 450 m in all: a georeference's error
CHIP = 300  # px, side
GCP_STEP = 64  # px


@dataclass(frozen=True)
class Scene:
    """Optical (H, W, 3) and SAR (H, W), uint8, on one grid; ``transform`` is the grid's, in :data:`CRS`."""

    name: str
    optical: NDArray[np.uint8]
    sar: NDArray[np.uint8]
    transform: Any


@dataclass(frozen=True)
class Form:
    """Two files and where their pixels lie in the scene.

    Attributes:
        path0: the optical image.
        path1: the SAR image.
        from_scene0: (N, 2) px of the scene → px of image0.
        to_scene1: (N, 2) px of image1 → px of the scene; without the error of its georeference.
        area: (left, top, right, bottom) px of the scene that both show.
    """

    path0: Path
    path1: Path
    from_scene0: PointMap
    to_scene1: PointMap
    area: tuple[float, float, float, float]


def read_scenes(folder: Path, mosaics: bool = False) -> list[Scene]:
    """Read the scenes of a folder with ``georeference.json`` and ``<name>.optical.webp``, ``<name>.sar.webp``.

    Args:
        folder: theirs.
        mosaics: whether to read what was joined of several scenes, too.

    Raises:
        FileNotFoundError: there is none.
    """
    from rasterio.transform import from_origin

    path = folder / "georeference.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: holds no georeference.json; name the folder of the georeferenced scenes")
    scenes = []
    for name, told in sorted(json.loads(path.read_text("utf-8")).items()):
        if "fragments" in told and not mosaics:
            continue
        optical, sar = (np.asarray(Image.open(folder / f"{name}.{kind}.webp")) for kind in ("optical", "sar"))
        left, top = told[f"corners_{CRS}"][0]
        grey = sar if sar.ndim == 2 else sar[..., 0]
        scenes.append(Scene(name, optical[..., :3], grey, from_origin(left, top, GRID, GRID)))
    return scenes


def same_grid(scene: Scene, folder: Path) -> Form:
    """Both as they are."""
    return _form(scene, folder, scene.sar, scene.transform)


def utm_decibels(scene: Scene, folder: Path) -> Form:
    """SAR in UTM, float decibels with nodata, its georeference 450 m off."""
    from rasterio import Affine

    decibels = scene.sar.astype(np.float32) / 255 * 24 - 26
    pixels, transform = _projected(decibels, scene, UTM, 10.0, -9999)
    wrong = Affine.translation(*SHIFT) * transform
    return _form(scene, folder, pixels, transform, UTM, nodata=-9999, told=wrong)


def degrees(scene: Scene, folder: Path) -> Form:
    """SAR in degrees, square pixels."""
    pixels, transform = _projected(np.maximum(scene.sar, 1), scene, LONLAT, None, 0)
    return _form(scene, folder, pixels, transform, LONLAT, nodata=0)


def coarser(factor: int) -> Callable[[Scene, Path], Form]:
    """SAR at ``factor`` times the ground sampling distance."""

    def draw(scene: Scene, folder: Path) -> Form:
        from rasterio import Affine

        size = scene.sar.shape[1] // factor, scene.sar.shape[0] // factor
        pixels = cv2.resize(scene.sar, size, interpolation=cv2.INTER_AREA)
        return _form(scene, folder, pixels, scene.transform * Affine.scale(factor))

    return draw


def chip(scene: Scene, folder: Path) -> Form:
    """An optical chip of the whole SAR scene."""
    from rasterio import Affine

    top, left = ((side - CHIP) // 2 for side in scene.sar.shape)
    whole = same_grid(scene, folder)
    part = scene.optical[top : top + CHIP, left : left + CHIP]
    _write(whole.path0, part, crs=CRS, transform=scene.transform * Affine.translation(left, top))
    area = (left, top, left + CHIP - 1, top + CHIP - 1)
    return Form(whole.path0, whole.path1, lambda p: p - np.array([left, top]), whole.to_scene1, area)


def south_up(scene: Scene, folder: Path) -> Form:
    """SAR whose first row lies in the south."""
    from rasterio import Affine

    flipped = Affine.translation(0, scene.sar.shape[0]) * Affine.scale(1, -1)
    return _form(scene, folder, np.flipud(scene.sar), scene.transform * flipped)


def ground_range(scene: Scene, folder: Path) -> Form:
    """SAR as Sentinel-1's GRD has it: amplitude, mirrored, GCPs in degrees and no transform."""
    from rasterio import Affine
    from rasterio.control import GroundControlPoint

    height, width = scene.sar.shape
    mirrored = scene.transform * Affine.translation(width, 0) * Affine.scale(-1, 1)
    amplitude = np.rint(20 * 10 ** (np.fliplr(scene.sar) / 255 * 1.2)).astype(np.uint16)
    rows, columns = np.mgrid[: height + 1 : GCP_STEP, : width + 1 : GCP_STEP].astype(float)
    corners = np.stack([columns.ravel(), rows.ravel()], 1)
    there = _project(_apply(mirrored, corners), CRS, LONLAT)
    gcps = [
        GroundControlPoint(row=r, col=c, x=x, y=y, z=0) for (c, r), (x, y) in zip(corners, there.tolist(), strict=True)
    ]
    form = _form(scene, folder, amplitude, mirrored)
    _write(form.path1, amplitude, crs=LONLAT, gcps=gcps)
    return form


#: By name, as the tables list them.
FORMS: dict[str, Callable[[Scene, Path], Form]] = {
    "same grid": same_grid, "UTM, float dB, nodata, 450 m off": utm_decibels, "EPSG:4326": degrees,
    "GSD ×2": coarser(2), "GSD ×4": coarser(4), f"chip {CHIP}²": chip, "south-up": south_up,
    "GRD-like GCPs, mirrored": ground_range,
}  # fmt: skip


def _form(
    scene: Scene, folder: Path, pixels: NDArray[Any], transform: Any, crs: str = CRS, nodata: float | None = None,
    told: Any = None,
) -> Form:  # fmt: skip
    """The optical image as it is, the SAR image on a grid; the file says ``told`` where that is not the truth."""
    path0, path1 = folder / "optical.tif", folder / "sar.tif"
    _write(path0, scene.optical, crs=CRS, transform=scene.transform)
    _write(path1, pixels, crs=crs, transform=transform if told is None else told, nodata=nodata)

    def to_scene(points: FloatArray) -> FloatArray:
        there = _project(_apply(transform, points + 0.5), crs, CRS)
        return _apply(~scene.transform, there) - 0.5

    height, width = scene.sar.shape
    return Form(path0, path1, lambda points: points, to_scene, (0, 0, width - 1, height - 1))


def _projected(
    pixels: NDArray[Any], scene: Scene, crs: str, resolution: float | None, fill: float
) -> tuple[NDArray[Any], Any]:
    """The scene's pixels in another reference system, and their transform."""
    from rasterio.transform import array_bounds
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    height, width = pixels.shape
    bounds = array_bounds(height, width, scene.transform)
    transform, columns, rows = calculate_default_transform(CRS, crs, width, height, *bounds, resolution=resolution)
    out = np.full((rows, columns), fill, pixels.dtype)
    reproject(
        pixels, out, src_transform=scene.transform, src_crs=CRS, dst_transform=transform, dst_crs=crs,
        dst_nodata=fill, resampling=Resampling.cubic if pixels.dtype == np.float32 else Resampling.bilinear,
    )  # fmt: skip
    return out, transform


def _project(points: FloatArray, source: str, target: str) -> FloatArray:
    from rasterio.warp import transform

    return np.stack([np.asarray(v) for v in transform(source, target, *points.T)], 1)


def _apply(affine: Any, points: FloatArray) -> FloatArray:
    return np.stack(affine * points.T, 1)


def _write(path: Path, pixels: NDArray[Any], **profile: Any) -> None:
    import rasterio

    bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    count, height, width = bands.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=bands.dtype, **profile
        ) as file:
            file.write(np.ascontiguousarray(bands))
