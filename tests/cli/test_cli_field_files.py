"""Files as they come from the field are registered: flipped grids, GCPs, other projections, one clipping polygon."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import needs_weights
from PIL import Image

from kornia_tar import Registration, register_files
from kornia_tar.cli.main import main
from kornia_tar.geometry import transform_points
from kornia_tar.raster import read_image
from kornia_tar.raster.georeference import Georeference
from kornia_tar.raster.synthetic import draw_scene

rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")
from rasterio import Affine  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402
from rasterio.warp import reproject  # noqa: E402
from rasterio.warp import transform as reproject_points  # noqa: E402

pytestmark = [needs_weights, pytest.mark.filterwarnings("ignore")]
UTM, SIDE = "EPSG:32632", 288
GDAL_NODATA = 42113  # GDAL's own TIFF tag, text
GRID = from_origin(500_000, 4_600_000, 10, 10)
SCENE = draw_scene(7, SIDE)
FLIPS = {"as it is": np.asarray, "columns": np.fliplr, "rows": np.flipud}


def write(path: Path, pixels: np.ndarray, crs: str | None = UTM, transform: Affine | None = GRID, **more) -> Path:
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])
    options = {"width": pixels.shape[2], "height": pixels.shape[1], "count": len(pixels), "dtype": pixels.dtype, **more}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **options) as file:
        file.write(pixels)
    return path


def optical(folder: Path, crs: str = UTM, transform: Affine = GRID) -> Path:
    return write(folder / "optical.tif", SCENE.optical, crs, transform)


def off(outcome: Registration, image0: Path, image1: Path) -> float:
    """Mean distance in px between where the outcome leads and where the files say; at four places of image0."""
    first, second = (Georeference.of(read_image(path)) for path in (image0, image1))
    points = np.array([[x, y] for x in (40, SIDE - 41) for y in (40, SIDE - 41)], float)
    (x, y) = first.to_map(points).T
    there = second.from_map(np.stack(reproject_points(first.crs, second.crs, x, y), 1))
    return float(np.linalg.norm(transform_points(outcome.matrix, points) - there, axis=1).mean())


@pytest.mark.parametrize("flip", FLIPS)
def test_radar_geometry_with_gcps_whichever_way_the_rows_and_columns_run(tmp_path, flip):
    """A GRD product: 16-bit amplitude, no geotransform, GCPs in degrees; by the pass columns or rows are reversed."""
    gcps = []
    for row in range(0, SIDE + 1, 48):
        for column in range(0, SIDE + 1, 48):
            place = GRID * (SIDE - column if flip == "columns" else column, SIDE - row if flip == "rows" else row)
            (east,), (north,) = reproject_points(UTM, "EPSG:4326", [place[0]], [place[1]])
            gcps.append(GroundControlPoint(row=row, col=column, x=east, y=north, z=0))
    amplitude = np.rint(20 * 10 ** (SCENE.sar / 255 * 1.2)).astype(np.uint16)
    sar = write(tmp_path / "sar.tif", FLIPS[flip](amplitude), "EPSG:4326", None, gcps=gcps)
    outcome = register_files(optical(tmp_path), sar)
    assert outcome.registered and outcome.search.kind == "georeference", outcome.reasons
    assert off(outcome, tmp_path / "optical.tif", sar) < 2


def test_a_south_up_grid(tmp_path):
    south = Affine(10, 0, 500_000, 0, 10, 4_600_000 - 10 * SIDE)
    sar = write(tmp_path / "sar.tif", np.flipud(SCENE.sar), UTM, south)
    outcome = register_files(optical(tmp_path), sar)
    assert outcome.registered and off(outcome, tmp_path / "optical.tif", sar) < 2, outcome.reasons


@pytest.mark.parametrize("latitude", [36.4, 66.0])
def test_web_mercator_against_square_degrees(tmp_path, latitude):
    """In degrees that are square the ground is not: at 66° north it is 2.5 times as long as wide."""
    (x,), (y,) = reproject_points("EPSG:4326", "EPSG:3857", [10.0], [latitude])
    metres, degrees = 10 / np.cos(np.radians(latitude)), 10 / 111_320
    mercator, geographic = from_origin(x, y, metres, metres), from_origin(10.0, latitude, degrees, degrees)
    (east,), (south,) = reproject_points("EPSG:3857", "EPSG:4326", [x + metres * SIDE], [y - metres * SIDE])
    pixels = np.zeros((int((latitude - south) / degrees), int((east - 10) / degrees)), np.uint8)
    reproject(
        SCENE.sar, pixels, src_transform=mercator, src_crs="EPSG:3857", dst_transform=geographic,
        dst_crs="EPSG:4326", resampling=rasterio.enums.Resampling.bilinear,
    )  # fmt: skip
    sar = write(tmp_path / "sar.tif", pixels, "EPSG:4326", geographic)
    outcome = register_files(optical(tmp_path, "EPSG:3857", mercator), sar)
    assert outcome.registered and off(outcome, tmp_path / "optical.tif", sar) < 3, outcome.reasons


@pytest.mark.parametrize("tag", [{}, {"nodata": 0}], ids=["untagged", "tagged"])
def test_two_images_clipped_to_one_polygon_are_registered_by_the_ground(tmp_path, tag):
    """The common silhouette says (0, 0); inside, the SAR image is shifted by (9, -6) px."""
    scene = draw_scene(1, SIDE + 32)
    corners = np.array([[30, 50], [110, 10], [190, 35], [265, 85], [248, 190], [276, 255], [160, 282], [70, 250]])
    inside = cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), [corners.astype(np.int32)], 1) > 0
    kept = slice(16, 16 + SIDE)
    shown = np.where(inside[..., None], np.maximum(scene.optical[kept, kept], 1), 0).astype(np.uint8)
    shifted = np.where(inside, np.maximum(scene.sar[22 : 22 + SIDE, 7 : 7 + SIDE], 1), 0).astype(np.uint8)
    first, second = write(tmp_path / "o.tif", shown, **tag), write(tmp_path / "s.tif", shifted, **tag)
    outcome = register_files(first, second)
    assert outcome.registered, outcome.reasons
    middle = transform_points(outcome.matrix, [[SIDE / 2, SIDE / 2]])[0] - SIDE / 2
    np.testing.assert_allclose(middle, [9, -6], atol=1.5)


def test_the_result_lies_on_the_reference_s_grid_whatever_its_form(tmp_path):
    """Turned by 30°, and told by a world file alone; the folders' names have blanks and other letters."""
    folder = tmp_path / "scène 1"
    folder.mkdir()
    turned = GRID * Affine.rotation(30)
    write(folder / "rotated.tif", SCENE.optical, UTM, turned)
    write(folder / "SAR läuft.tif", SCENE.sar, UTM, turned)
    write(folder / "world.tif", SCENE.optical, None, None)
    (folder / "world.tfw").write_text("10\n0\n0\n-10\n500005\n4599995\n")
    for name, transform, crs in (("rotated", turned, UTM), ("world", GRID, None)):
        out = tmp_path / f"резултат {name}"
        assert main(["register", str(folder / f"{name}.tif"), str(folder / "SAR läuft.tif"), "-o", str(out)]) == 0
        with rasterio.open(out / "registered.tif") as file:
            assert file.transform.almost_equals(transform) and file.shape == (SIDE, SIDE)
            assert file.crs == crs


@pytest.mark.parametrize(("dtype", "value"), [("uint8", "-9999"), ("uint16", "nan"), ("uint16", "65536")])
def test_a_tag_of_nodata_that_the_type_cannot_hold_hides_nothing(tmp_path, dtype, value):
    Image.fromarray(SCENE.sar.astype(dtype)).save(tmp_path / "sar.tif", tiffinfo={GDAL_NODATA: value})
    read = read_image(tmp_path / "sar.tif")
    assert read.mask.all() and read.pixels.dtype == dtype
    np.testing.assert_array_equal(read.pixels, SCENE.sar)
