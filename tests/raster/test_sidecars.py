"""World files and .aux.xml beside a picture georeference it, as they do a TIFF."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import needs_weights
from PIL import Image

from kornia_tar.cli.main import main
from kornia_tar.geometry import Transform
from kornia_tar.raster import Georeference, read_image, remarks, source_files
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.synthetic import draw_scene

rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

UTM, GRID = "EPSG:32632", from_origin(5e5, 4.6e6, 10, 10)
PIXELS = np.random.default_rng(0).integers(1, 255, (40, 48), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray = PIXELS, world: str = "", **options) -> Path:
    """Write a picture by GDAL, which puts its georeference beside it; ``world`` ends the name of its world file."""
    bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    told = {"WORLDFILE": "YES"} if world else {}
    with rasterio.open(
        path, "w", driver="PNG" if path.suffix == ".png" else "JPEG", dtype="uint8", count=len(bands),
        height=bands.shape[1], width=bands.shape[2], **told, **options,
    ) as file:  # fmt: skip
        file.write(bands)
    if world:
        path.with_suffix(".wld").rename(path.with_suffix(world))
    return path


@pytest.mark.parametrize(
    ("name", "world"), [("a.png", ".pgw"), ("a.png", ""), ("a.jpg", ".jgw"), ("a.jpg", ".JGW"), ("a.jpeg", ".wld")]
)
def test_a_picture_lies_where_the_files_beside_it_say(tmp_path, name, world):
    path = write(tmp_path / name, world=world, crs=UTM, transform=GRID)
    raster = read_image(path, nodata=7)
    assert raster.profile.crs == UTM and raster.profile.transform == GRID and raster.profile.nodata == 7
    assert raster.note is None and raster.size == (40, 48)
    beside = {tmp_path / f"{name}.aux.xml", *([path.with_suffix(world)] if world else [])}
    assert set(source_files(path)) == {path, *beside}


def test_control_points_beside_a_picture(tmp_path):
    gcps = [GroundControlPoint(row=r, col=c, x=9 + c / 900, y=45 - r / 900) for r in (0, 40) for c in (0, 48)]
    profile = read_image(write(tmp_path / "a.png", gcps=gcps, crs="EPSG:4326")).profile
    assert profile.kind == "GCPs" and profile.crs == "EPSG:4326"
    assert [(gcp.row, gcp.col) for gcp in profile.gcps] == [(gcp.row, gcp.col) for gcp in gcps]


def test_a_world_file_alone_names_no_reference_system(tmp_path):
    path = write(tmp_path / "a.png", world=".pgw", crs=UTM, transform=GRID)
    (tmp_path / "a.png.aux.xml").unlink()
    raster = read_image(path)
    assert raster.profile.transform == GRID and raster.profile.crs is None
    with pytest.raises(ValueError, match="names no coordinate reference system"):
        Georeference.of(raster)


def test_what_says_nothing_of_the_place_is_no_georeference(tmp_path):
    path = write(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text("<PAMDataset><Metadata><MDI key='a'>1</MDI></Metadata></PAMDataset>")
    (tmp_path / "a.pgw").write_text("nonsense")
    assert read_image(path).profile is None and read_image(path).note is None


def test_a_picture_that_is_turned_says_that_its_georeference_is_left_aside(tmp_path):
    path = write(tmp_path / "a.jpg", world=".jgw", crs=UTM, transform=GRID)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    raster = read_image(path)
    assert raster.size == (48, 40) and raster.profile is None
    (told,) = remarks(raster, None)
    assert "a.jpg: what a.jgw, a.jpg.aux.xml says of its place is left aside: EXIF turns" in told and "\n" not in told
    stored = read_image(path, upright=False)
    assert stored.profile.transform == GRID and stored.note is None


def test_without_rasterio_it_is_said_what_is_needed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", world=".pgw", crs=UTM, transform=GRID)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    raster = read_image(path)
    assert raster.profile is None and "kornia-tar[geo]" in raster.note and "a.pgw" in raster.note


def test_apply_lays_a_picture_by_the_files_beside_it(tmp_path):
    grid = Grid.of(read_image(write(tmp_path / "a.png", world=".pgw", crs=UTM, transform=GRID))).to_dict()
    told = {**Transform(np.eye(3)).to_dict(), "registered": True, "image0": grid, "image1": grid}
    (tmp_path / "t.json").write_text(json.dumps(told))
    write(tmp_path / "b.png", PIXELS[8:], crs=UTM, transform=from_origin(5e5, 4.6e6 - 80, 10, 10))
    assert main(["apply", str(tmp_path / "t.json"), str(tmp_path / "b.png"), "-o", str(tmp_path / "b.tif")]) == 0
    found = read_image(tmp_path / "b.tif")
    assert found.profile.crs == UTM and found.profile.transform == GRID and found.mask.mean() == 0.8
    np.testing.assert_array_equal(found.pixels[8:], PIXELS[8:])


@needs_weights
@pytest.mark.slow  # half a minute of the shipped weights
def test_a_pair_of_pictures_is_registered_by_its_georeferences(tmp_path, capsys):
    scene = draw_scene(3, 256)
    write(tmp_path / "o.png", scene.optical[:192, :192], world=".pgw", crs=UTM, transform=GRID)
    claimed = from_origin(5e5 + 120 + 30, 4.6e6 - 80, 10, 10)  # 30 m too far east
    write(tmp_path / "s.jpg", scene.sar[8:200, 12:204], world=".jgw", crs=UTM, transform=claimed, quality=95)
    words = ["-o", str(tmp_path / "out"), "--search-radius", "300"]
    assert main(["register", str(tmp_path / "o.png"), str(tmp_path / "s.jpg"), *words]) == 0
    assert capsys.readouterr().err == ""
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["search"]["kind"] == "georeference"
    assert report["shift_metres"]["east"] == pytest.approx(30, abs=12)
    with rasterio.open(tmp_path / "out/registered.tif") as file:
        assert file.crs == UTM and file.transform == GRID
    assert (tmp_path / "out/image1_gcps.vrt").is_file()
