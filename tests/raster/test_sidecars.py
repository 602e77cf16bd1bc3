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
STATISTICS = """<PAMDataset><PAMRasterBand band="1"><Histograms><HistItem><HistMin>0</HistMin></HistItem></Histograms>
<Metadata><MDI key="STATISTICS_MEAN">7</MDI></Metadata></PAMRasterBand></PAMDataset>"""  # as QGIS writes it
NODATA = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>{}</NoDataValue></PAMRasterBand></PAMDataset>'


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


def declare(path: Path, nodata: float) -> Path:
    """Declare a nodata value beside a picture as GDAL does; in what it writes with one, a PNG holds it itself."""
    aux = path.with_name(f"{path.name}.aux.xml")
    told = aux.read_text() if aux.exists() else "<PAMDataset></PAMDataset>"
    aux.write_text(told.replace("</PAMDataset>", NODATA.format(nodata).removeprefix("<PAMDataset>")))
    return path


def test_nodata_in_what_gdal_writes_beside_a_jpeg(tmp_path):
    pixels = np.full((40, 48), 120, np.uint8)
    pixels[:, :16] = 0
    raster = read_image(write(tmp_path / "a.jpg", pixels, nodata=0))
    assert "<NoDataValue" in (tmp_path / "a.jpg.aux.xml").read_text()
    assert raster.profile.nodata == 0 and raster.mask.mean() == pytest.approx(2 / 3)


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


@pytest.mark.parametrize("number", [0, 1, 9, 255])
def test_an_exif_number_that_turns_nothing_leaves_the_georeference(tmp_path, number):
    path = write(tmp_path / "a.jpg", world=".jgw", crs=UTM, transform=GRID)
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(PIXELS).save(path, exif=exif)
    raster = read_image(path)
    assert raster.note is None and raster.profile.transform == GRID and raster.size == (40, 48)


@pytest.mark.parametrize(
    ("name", "shape"), [("a.jpg", (40, 48)), ("a.jpg", (40, 48, 3)), ("a.png", (40, 48)), ("a.png", (40, 48, 4))]
)
@pytest.mark.parametrize("place", [{}, {"crs": UTM, "transform": GRID}])
def test_nodata_beside_a_picture_is_masked_and_declared(tmp_path, name, shape, place):
    pixels = np.full(shape, 120, np.uint8)
    pixels.reshape(40, 48, -1)[:, 24:40, :3] = 0  # whole blocks of JPEG, which keeps them
    raster = read_image(declare(write(tmp_path / name, pixels, **place), 0))
    black = np.zeros((40, 48), bool)
    black[:, 24:40] = True
    assert raster.profile.nodata == 0 and remarks(raster, "--nodata0") == []
    np.testing.assert_array_equal(raster.mask, ~black)
    assert (raster.profile.crs, raster.profile.kind) == ((UTM, "transform") if place else (None, None))
    more = read_image(tmp_path / name, nodata=7)
    assert more.profile.nodata == 7 and not more.mask[black].any()


def test_nodata_counts_where_exif_turns_the_picture(tmp_path):
    pixels = PIXELS.copy()
    pixels[:16, :16] = 0
    path = declare(write(tmp_path / "a.png", pixels, crs=UTM, transform=GRID), 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    raster = read_image(path)
    assert "EXIF turns" in raster.note and raster.profile.nodata == 0 and raster.profile.kind is None
    np.testing.assert_array_equal(raster.mask, np.rot90(pixels, -1) != 0)


def test_nodata_of_a_picture_with_a_colour_table_is_an_index(tmp_path):
    image = Image.fromarray((PIXELS % 3).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9])  # 1 and 2 look alike
    image.save(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(NODATA.format(2))
    raster = read_image(tmp_path / "a.png")
    assert raster.pixels.shape == (40, 48, 3) and raster.profile is None
    np.testing.assert_array_equal(raster.mask, PIXELS % 3 != 2)


def test_nodata_that_the_pixels_cannot_have_or_that_leaves_none(tmp_path):
    path = write(tmp_path / "a.png", np.full((40, 48), 5, np.uint8))
    (tmp_path / "a.png.aux.xml").write_text(NODATA.format(-9999))
    assert read_image(path).profile is None
    (tmp_path / "a.png.aux.xml").write_text(NODATA.format(5))
    with pytest.raises(ValueError, match="has no valid pixel"):
        read_image(path)


@pytest.mark.parametrize(
    ("aux", "says"),
    [
        (STATISTICS, None),
        (NODATA.format(0), "nodata value"),
        ("<PAMDataset><SRS>EPSG:32632</SRS></PAMDataset>", "place"),
        ("<PAMDataset><Metadata domain='RPC'><MDI key='LAT_OFF'>1</MDI></Metadata></PAMDataset>", "place"),
        ("<PAMDataset><GeoTransform>5e5, 10, 0, 4.6e6, 0, -10</GeoTransform></PAMDataset>", "place"),
        (f"<PAMDataset><GCPList><GCP Id='1'/></GCPList>{NODATA.format(0)}</PAMDataset>", "place and nodata value"),
    ],
)
def test_without_rasterio_only_what_would_have_been_taken_is_told(tmp_path, monkeypatch, aux, says):
    path = write(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(aux)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    note = read_image(path).note
    told = f"{path}: what a.png.aux.xml says of its {says} is left aside: reading it needs rasterio"
    assert note is None if says is None else note.startswith(told)


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
