"""Tie points as tables: what QGIS, GDAL and a spreadsheet read is where the registration put it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kornia_tar.geometry import PointMatches, transform_points
from kornia_tar.outputs.ground import ground_report
from kornia_tar.outputs.points import best_of_blocks, write_points
from kornia_tar.raster import GeoProfile, Georeference, Raster, read_image, write_image
from kornia_tar.registration.acceptance import Witnesses
from kornia_tar.registration.held_out import HeldOut
from kornia_tar.registration.result import Registration

MATRIX = np.array([[1.02, 0.05, 6.0], [-0.05, 1.02, -3.0], [0, 0, 1]])
SIZE = (90, 120)
rng = np.random.default_rng(0)


def outcome(registered: bool = True) -> Registration:
    points0 = rng.uniform(0, 80, (200, 2))
    matches = PointMatches(
        points0, transform_points(MATRIX, points0) + 0.3, rng.uniform(0.2, 1, 200), rng.uniform(0.5, 2, 200)
    )
    inliers = np.arange(200) % 3 > 0
    return Registration(
        registered, () if registered else ("no",), MATRIX, "affine", matches, inliers, 0, 1.0, 0.4, 0.3, 0.2, 0.99,
        Witnesses.none(),
    )  # fmt: skip


def raster(profile: GeoProfile | None = None) -> Raster:
    return Raster(np.zeros(SIZE, np.uint8), np.ones(SIZE, bool), profile, Path("o.tif"))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def test_without_a_georeference_there_is_a_table_alone(tmp_path):
    found = outcome()
    write_points(tmp_path, found, raster(), raster())
    assert [path.name for path in tmp_path.iterdir()] == ["tie_points.csv"]
    table = rows(tmp_path / "tie_points.csv")
    assert len(table) == 200
    first = table[7]
    assert float(first["x1"]) == pytest.approx(found.matches.points1[7, 0], abs=1e-4)
    assert float(first["residual_px"]) == pytest.approx(0.3 * np.sqrt(2), abs=1e-4)
    assert [int(row["inlier"]) for row in table] == found.inliers.astype(int).tolist()


def held_out(corner: tuple[float, float] = (0, 0), size: tuple[int, int] = SIZE) -> HeldOut:
    """Errors of 4×4 blocks over a part of image0, of which the second of the first row says nothing."""
    y, x = np.mgrid[:4, :4]
    places = (np.stack([x, y], -1) + 0.5) / 4 * size[::-1] - 0.5 + corner
    blocks = np.stack([x + 1.0, 2.0 * y - 3], -1)
    blocks[0, 1] = np.nan
    return HeldOut(15, 2.0, 3.0, 2.0, 3.0, blocks, places)


def test_points_bear_the_residual_of_their_held_out_block(tmp_path):
    found = outcome()
    write_points(tmp_path, replace(found, held_out=held_out()), raster(), raster())
    table = rows(tmp_path / "tie_points.csv")
    for row, (x, y) in zip(table, found.matches.points0, strict=True):
        column, line = int((x + 0.5) // 30), int((y + 0.5) // 22.5)
        told = ("0", "", "") if (line, column) == (0, 1) else ("1", str(column + 1), str(2 * line - 3))
        assert (row["held_out"], row["held_out_dx_px"], row["held_out_dy_px"]) == told
    assert {row["held_out"] for row in table} == {"0", "1"}


def test_points_beside_the_ground_that_was_held_out_bear_none(tmp_path):
    found = outcome()
    write_points(tmp_path, replace(found, held_out=held_out((20, 10), (40, 60))), raster(), raster())
    x, y = found.matches.points0.T
    inside = (x > 19.5) & (x < 79.5) & (y > 9.5) & (y < 49.5)
    silent = (x > 34.5) & (x < 49.5) & (y < 19.5)
    told = [row["held_out"] == "1" for row in rows(tmp_path / "tie_points.csv")]
    assert told == (inside & ~silent).tolist() and any(told)
    write_points(tmp_path, found, raster(), raster())  # nothing was held out
    assert {(row["held_out"], row["held_out_dx_px"]) for row in rows(tmp_path / "tie_points.csv")} == {("0", "")}


def test_held_out_residuals_in_metres_point_where_the_pixels_do(georeferenced):
    from rasterio.transform import from_origin

    found = replace(outcome(), matrix=np.diag([2.0, 2.0, 1.0]), held_out=held_out())
    own = raster(GeoProfile("EPSG:32633", from_origin(4e5, 5e6, 5, 5)))
    for second in (own, raster()):  # 5 m a pixel, told by itself or by image0 and the scale
        rows = ground_report(found, georeferenced, second)["held_out_metres"]["blocks"]
        assert rows[0][1] is None
        # North of the map is a degree off true north here.
        np.testing.assert_allclose(rows[2][3], [5 * 4, -5 * 1], atol=0.5)
        np.testing.assert_allclose(rows[3][0], [5 * 1, -5 * 3], atol=0.5)
    assert ground_report(found, raster(), raster())["held_out_metres"] is None


def test_best_of_blocks_are_the_most_confident_and_spread():
    points = np.array([[1.0, 1], [2, 2], [100, 80], [101, 81], [60, 1]])
    assert best_of_blocks(points, np.array([0.2, 0.9, 0.5, 0.4, 0.1]), SIZE, 2).tolist() == [1, 2, 4]


@pytest.fixture
def georeferenced() -> Raster:
    pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    return raster(GeoProfile("EPSG:32633", from_origin(4e5, 5e6, 10, 10)))


@pytest.mark.parametrize("name", ["s.png", "s.tif"])
def test_gdal_and_qgis_find_image1_s_pixels_on_the_map(tmp_path, georeferenced, name):
    import rasterio
    from rasterio.transform import from_origin

    own = GeoProfile("EPSG:32633", from_origin(3.9e5, 5.001e6, 10, 10)) if name == "s.tif" else None
    write_image(tmp_path / name, rng.integers(1, 255, (100, 130), dtype=np.uint8), own)
    second, found, out = read_image(tmp_path / name), outcome(), tmp_path / "out"
    out.mkdir()
    write_points(out, found, georeferenced, second)
    with rasterio.open(out / "image1_gcps.vrt") as file:
        gcps, crs = file.gcps
        assert file.transform.is_identity and crs == "EPSG:32633" and (file.read(1) == second.pixels).all()
    assert 10 < len(gcps) <= 144
    at = np.array([[gcp.col, gcp.row] for gcp in gcps]) - 0.5
    on_map = np.array([[gcp.x, gcp.y] for gcp in gcps])
    expected = Georeference.of(georeferenced).to_map(transform_points(np.linalg.inv(MATRIX), at - 0.3))
    np.testing.assert_allclose(on_map, expected, atol=1e-2)
    table = rows(out / "tie_points.points")
    source = np.array([[float(row["sourceX"]), float(row["sourceY"])] for row in table])
    in_image1 = source * (1, -1) - 0.5 if own is None else Georeference.of(second).from_map(source)
    np.testing.assert_allclose(in_image1, at, atol=1e-3)
    np.testing.assert_allclose([[float(row["mapX"]), float(row["mapY"])] for row in table], on_map, atol=1e-6)


def test_a_vrt_keeps_its_own_sources(tmp_path, georeferenced):
    """A mosaic of two tiles, named relative to it, whose windows GDAL copies with it."""
    import rasterio

    pixels = rng.integers(1, 255, (100, 130), dtype=np.uint8)
    for k, part in enumerate((pixels[:, :65], pixels[:, 65:])):
        write_image(tmp_path / f"{k}.tif", part)
    parts = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{k}.tif</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="65" ySize="100"/><DstRect xOff="{65 * k}" yOff="0" xSize="65" ySize="100"/>'
        "</SimpleSource>"
        for k in (0, 1)
    )
    (tmp_path / "m.vrt").write_text(
        f'<VRTDataset rasterXSize="130" rasterYSize="100"><VRTRasterBand dataType="Byte" band="1">{parts}'
        "</VRTRasterBand></VRTDataset>"
    )
    out = tmp_path / "out"
    out.mkdir()
    write_points(out, outcome(), georeferenced, read_image(tmp_path / "m.vrt"))
    with rasterio.open(out / "image1_gcps.vrt") as file:
        assert (file.read(1) == pixels).all() and len(file.gcps[0]) > 10


def test_degrees_keep_their_digits(tmp_path):
    pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    first = raster(GeoProfile("EPSG:4326", from_origin(188.0, 45.0, 1e-4, 1e-4)))
    found = outcome(registered=False)
    write_points(tmp_path, found, first, raster())
    table = rows(tmp_path / "tie_points.csv")
    at = np.array([[float(row["map_x"]), float(row["map_y"])] for row in table])
    np.testing.assert_allclose(at, Georeference.of(first).to_map(found.matches.points0), atol=1e-8)
    collection = json.loads((tmp_path / "tie_points.geojson").read_text())
    assert all(-180 <= f["geometry"]["coordinates"][0] < -171 for f in collection["features"])


def test_geojson_is_in_longitude_and_latitude(tmp_path, georeferenced):
    write_points(tmp_path, outcome(registered=False), georeferenced, raster())
    assert {path.name for path in tmp_path.iterdir()} == {"tie_points.csv", "tie_points.geojson"}
    collection = json.loads((tmp_path / "tie_points.geojson").read_text())
    assert collection["type"] == "FeatureCollection" and len(collection["features"]) > 100
    lon, lat = np.array([f["geometry"]["coordinates"] for f in collection["features"]]).T
    assert (abs(lon - 13.7) < 0.1).all() and (abs(lat - 45.1) < 0.1).all()
    told = collection["features"][0]["properties"]
    assert {"confidence", "residual_px", "inlier"} <= set(told)
    assert told["held_out"] == 0 and told["held_out_dx_px"] is None


def test_no_control_points_for_pixels_that_exif_turns(tmp_path, georeferenced):
    exif = Image.Exif()
    exif[274] = 3  # by half a circle: the size says nothing
    Image.fromarray(rng.integers(0, 255, (100, 130), dtype=np.uint8)).save(tmp_path / "s.jpg", exif=exif)
    out = tmp_path / "out"
    out.mkdir()
    write_points(out, outcome(), georeferenced, read_image(tmp_path / "s.jpg"))
    assert not (out / "image1_gcps.vrt").exists() and (out / "tie_points.points").is_file()
