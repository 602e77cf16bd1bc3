"""``kornia-tar apply``: other files of image1's product land where the registration says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kornia_tar.cli.main import main
from kornia_tar.geometry import Transform
from kornia_tar.outputs import apply
from kornia_tar.outputs.registered import resampled
from kornia_tar.raster import GeoProfile, Raster, read_image, windows, write_image
from kornia_tar.raster.grid import Grid

pytest.importorskip("rasterio")
from affine import Affine
from rasterio.control import GroundControlPoint

UTM = "EPSG:32632"
ERROR = (70.0, -40.0)  # m east and north, of image1's product


def ground(transform: Affine, size: tuple[int, int], error: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """What a sensor sees at each pixel: a smooth function of the true map coordinates."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    east = transform.a * x + transform.b * y + transform.c - error[0]
    north = transform.d * x + transform.e * y + transform.f - error[1]
    return (30000 + 200 * np.sin(east / 150) * 100 + 80 * np.cos(north / 110) * 100).astype(np.uint16)


GRID0 = Affine(10, 0, 5e5, 0, -10, 4.6e6)
GRID1 = Affine(12, 1.5, 5e5 - 300, 1.5, -12, 4.6e6 + 200)  # rotated a little


@pytest.fixture
def told(tmp_path):
    """transform.json of a registration that found the product's geolocation error."""
    to_map = np.array([[10, 0, 5e5 + 5], [0, -10, 4.6e6 - 5], [0, 0, 1]])
    there = np.array([[12, 1.5, GRID1.c], [1.5, -12, GRID1.f], [0, 0, 1]]) @ np.array(
        [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]
    )
    shift = np.array([[1, 0, ERROR[0]], [0, 1, ERROR[1]], [0, 0, 1]])  # where the product says that the ground lies
    matrix = np.linalg.inv(there) @ shift @ to_map
    grids = {
        "image0": Grid((90, 100), GeoProfile(UTM, GRID0)).to_dict(),
        "image1": Grid((120, 140), GeoProfile(UTM, GRID1)).to_dict(),
    }
    (tmp_path / "transform.json").write_text(json.dumps({**Transform(matrix).to_dict(), "registered": True, **grids}))
    return tmp_path / "transform.json"


@pytest.mark.parametrize("metres", [20.0, 12.0, 3.0])
def test_another_resolution_of_the_product_lands_on_the_ground(told, tmp_path, metres):
    size = (int(2000 / metres), int(2400 / metres))
    grid = Affine(metres, 0, 5e5 - 500, 0, -metres, 4.6e6 + 400)
    write_image(tmp_path / "b8.tif", ground(grid, size, ERROR), GeoProfile(UTM, grid))
    assert main(["apply", str(told), str(tmp_path / "b8.tif"), "-o", str(tmp_path / "out.tif")]) == 0
    found, expected = read_image(tmp_path / "out.tif"), ground(GRID0, (90, 100)).astype(float)
    assert found.profile is not None and found.profile.transform == GRID0 and found.size == (90, 100)
    assert found.pixels.dtype == np.uint16 and found.mask.mean() > 0.9
    off = np.abs(found.pixels.astype(float) - expected)[found.mask]
    assert np.percentile(off, 99) < 0.02 * np.ptp(expected)


def test_a_large_file_is_read_by_windows_and_lands_as_a_whole_one_does(told, tmp_path, monkeypatch):
    grid = Affine(12, 0, 5e5 - 500, 0, -12, 4.6e6 + 400)
    write_image(tmp_path / "b8.tif", ground(grid, (166, 200), ERROR), GeoProfile(UTM, grid))
    command = ["apply", str(told), str(tmp_path / "b8.tif"), "-o"]
    assert main([*command, str(tmp_path / "whole.tif")]) == 0
    seen = []
    monkeypatch.setattr(windows, "LARGE", 1000)
    monkeypatch.setattr(apply, "resampled", lambda raster, *rest: seen.append(raster) or resampled(raster, *rest))
    assert main([*command, str(tmp_path / "parts.tif")]) == 0
    assert [type(raster.pixels) for raster in seen] == [windows.Windowed]
    whole, parts = read_image(tmp_path / "whole.tif"), read_image(tmp_path / "parts.tif")
    assert np.array_equal(whole.pixels, parts.pixels) and np.array_equal(whole.mask, parts.mask)


def test_a_file_without_georeference_is_a_picture_of_the_same_extent(told, tmp_path):
    seen = ground(GRID1, (120, 140), ERROR)
    small = seen.reshape(60, 2, 70, 2).mean((1, 3)).astype(np.uint16)
    write_image(tmp_path / "half.png", small)
    write_image(tmp_path / "whole.png", seen)
    out = tmp_path / "out"
    assert main(["apply", str(told), str(tmp_path / "half.png"), str(tmp_path / "whole.png"), "-o", str(out)]) == 0
    expected = ground(GRID0, (90, 100)).astype(float)
    for name in ("half", "whole"):
        found = read_image(out / f"{name}_registered.tif")
        off = np.abs(found.pixels.astype(float) - expected)[found.mask]
        assert np.percentile(off, 99) < 0.03 * np.ptp(expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_picture_is_written_where_one_is_asked_for(told, tmp_path, dtype):
    seen = (ground(GRID1, (120, 140), ERROR) // (256 if dtype == "uint8" else 1)).astype(dtype)
    write_image(tmp_path / "vh.tif", seen, GeoProfile(UTM, GRID1))
    for name in ("out.png", "out.tif"):
        assert main(["apply", str(told), str(tmp_path / "vh.tif"), "-o", str(tmp_path / name)]) == 0
    picture, found = read_image(tmp_path / "out.png"), read_image(tmp_path / "out.tif")
    assert Image.open(tmp_path / "out.png").format == "PNG" and picture.pixels.dtype == dtype
    np.testing.assert_array_equal(picture.pixels[found.mask], found.pixels[found.mask])


def test_a_folder_may_be_named_like_an_image(told, tmp_path):
    write_image(tmp_path / "vh.tif", ground(GRID1, (120, 140), ERROR), GeoProfile(UTM, GRID1))
    for name in ("out.tif", "out.jpg"):
        (tmp_path / name).mkdir()
        assert main(["apply", str(told), str(tmp_path / "vh.tif"), "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name / "vh_registered.tif").is_file()


@pytest.mark.parametrize("name", ["x.jpg", "x.JP2", "x.vrt"])
def test_another_image_s_name_makes_no_folder(told, tmp_path, capsys, name):
    write_image(tmp_path / "vh.tif", ground(GRID1, (120, 140), ERROR), GeoProfile(UTM, GRID1))
    assert main(["apply", str(told), str(tmp_path / "vh.tif"), "-o", str(tmp_path / name)]) == 1
    line = capsys.readouterr().err
    assert f"{name}: cannot write {name[1:].lower()}; give .tif or .png, or a folder" in line and line.count("\n") == 1
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("wide.png", "another shape than 140x120"), ("far.tif", "nothing of it lies on the grid"),
        ("none.tif", "no such file"), ("text.tif", "cannot be read as an image"),
        ("few.tif", "none of its valid pixels shows"), ("aside.tif", "none of its valid pixels shows"),
    ],
)  # fmt: skip
def test_no_output_is_written_where_another_image_does_not_fit(told, tmp_path, capsys, second, says):
    write_image(tmp_path / "vh.tif", ground(GRID1, (120, 140), ERROR), GeoProfile(UTM, GRID1))
    write_image(tmp_path / "wide.png", np.zeros((40, 400), np.uint8))
    write_image(tmp_path / "far.tif", np.ones((64, 64), np.uint8), GeoProfile(UTM, Affine(10, 0, 6e5, 0, -10, 4.6e6)))
    (tmp_path / "text.tif").write_text("no image")
    few, aside = np.full((2, 120, 140), np.nan, np.float32)
    few[60, 70] = 1  # one in the middle, of which bilinear makes nothing
    aside[:2] = 1  # a strip that lies north of the grid
    write_image(tmp_path / "few.tif", few, GeoProfile(UTM, GRID1))
    write_image(tmp_path / "aside.tif", aside, GeoProfile(UTM, GRID1))
    out = tmp_path / "out"
    assert main(["apply", str(told), str(tmp_path / "vh.tif"), str(tmp_path / second), "-o", str(out)]) == 1
    line = capsys.readouterr().err
    assert f"{second}: " in line and says in line and line.count("\n") == 1 and not out.exists()


def test_labels_are_not_mixed(told, tmp_path):
    labels = np.kron(np.array([[1, 200], [7, 90]]), np.ones((200, 240))).astype(np.uint8)
    grid = Affine(5, 0, 5e5 - 500, 0, -5, 4.6e6 + 400)
    write_image(tmp_path / "l.tif", labels, GeoProfile(UTM, grid))
    words = ["apply", str(told), str(tmp_path / "l.tif"), "-o", str(tmp_path / "out.tif"), "--resampling", "nearest"]
    assert main(words) == 0
    found = read_image(tmp_path / "out.tif")
    assert set(np.unique(found.pixels[found.mask])) <= {1, 7, 90, 200}


@pytest.mark.parametrize("how", ["bilinear", "cubic"])
@pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 5.0])
@pytest.mark.parametrize(
    ("dtype", "value"), [("uint32", 4294967295), ("int32", 2147483647), ("float64", 4612345.678), ("float32", 2000.0)]
)
def test_a_constant_stays_one_beside_what_is_missing(how, scale, dtype, value):
    pixels = np.full((120, 120), value, dtype)
    mask = np.ones((120, 120), bool)
    mask[30:50, 60:90] = False
    raster = Raster(np.where(mask, pixels, 0).astype(dtype), mask, None, Path("s.tif"))
    way = Transform(np.array([[scale, 0, 3.3], [0, scale, 2.6], [0, 0, 1]]))
    found, valid, _ = resampled(raster, way, (60, 60), how)
    assert valid.any() and found.dtype == dtype
    np.testing.assert_allclose(
        found[valid].astype(float), float(value), rtol=1e-6 if how == "cubic" or dtype == "float32" else 1e-9
    )


def test_a_mean_that_equals_nodata_is_data_still():
    pixels = np.tile(np.array([[-1, 1], [1, -1]], np.int16), (60, 60))
    profile = GeoProfile(UTM, GRID1, nodata=0)
    raster = Raster(pixels, np.ones(pixels.shape, bool), profile, Path("s.tif"))
    found, valid, nodata = resampled(raster, Transform(np.diag([2.0, 2.0, 1.0])), (50, 50))
    assert nodata == 0 and valid.mean() > 0.9 and (found[valid] != 0).all()


def test_a_fill_value_that_nobody_declared_is_named_but_not_of_labels(told, tmp_path, capsys):
    pixels = ground(GRID1, (120, 140), ERROR).astype(np.int32)
    pixels[:, :40] = -(2**31)
    write_image(tmp_path / "vh.tif", pixels, GeoProfile(UTM, GRID1))
    command = ["apply", str(told), str(tmp_path / "vh.tif"), "-o", str(tmp_path / "out.tif"), "--overwrite"]
    assert main(command) == 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "vh.tif: 28.6% of the pixels are exactly -2147483648" in line
    assert main([*command, line.split()[-1]]) == 0 and capsys.readouterr().err == ""
    found = read_image(tmp_path / "out.tif")
    assert found.profile.nodata == -(2**31) and 0 < found.mask.mean() < 0.8 and found.pixels[found.mask].min() > 0
    assert main([*command, "--resampling", "nearest"]) == 0 and capsys.readouterr().err == ""


def test_without_a_georeference_a_mask_says_what_is_missing(tmp_path):
    import rasterio

    grid = {"image0": Grid((90, 100), None).to_dict(), "image1": Grid((120, 140), None).to_dict()}
    (tmp_path / "t.json").write_text(json.dumps({**Transform(np.eye(3)).to_dict(), "registered": True, **grid}))
    pixels = np.full((120, 140), 5, np.int16)
    pixels[:40] = -9999
    write_image(tmp_path / "s.tif", pixels, GeoProfile(UTM, GRID1, nodata=-9999))
    assert main(["apply", str(tmp_path / "t.json"), str(tmp_path / "s.tif"), "-o", str(tmp_path / "out.tif")]) == 0
    with rasterio.open(tmp_path / "out.tif") as file:
        assert ((file.dataset_mask() > 0) == (file.read(1) == 5)).all()


def test_overviews_of_labels_hold_labels(told, tmp_path):
    import rasterio

    grid = json.loads(told.read_text())
    grid["image0"] = Grid((1100, 1100), GeoProfile(UTM, Affine(1, 0, 5e5, 0, -1, 4.6e6))).to_dict()
    told.write_text(json.dumps(grid))
    labels = np.where(np.random.default_rng(0).random((400, 480)) < 0.5, 1, 200).astype(np.uint8)
    write_image(tmp_path / "l.tif", labels, GeoProfile(UTM, Affine(5, 0, 5e5 - 500, 0, -5, 4.6e6 + 400)))
    words = ["apply", str(told), str(tmp_path / "l.tif"), "-o", str(tmp_path / "out.tif"), "--resampling", "nearest"]
    assert main(words) == 0
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as file:
        assert set(np.unique(file.read(1))) <= {0, 1, 200}


def test_a_resolution_in_metres_of_a_grid_in_degrees_is_told_before_any_work():
    grid = Grid((256, 340), GeoProfile("EPSG:4326", Affine(0.00018, 0, 9, 0, -0.00018, 45)))
    with pytest.raises(
        ValueError, match=r"10 is not smaller than the whole grid, 0\.0612 x 0\.04608: .*EPSG:4326 \(deg"
    ):
        grid.with_resolution(10)


def test_what_cannot_be_applied_is_told_in_one_line(told, tmp_path, capsys):
    write_image(tmp_path / "wide.png", np.zeros((40, 400), np.uint8))
    far = Affine(10, 0, 6e5, 0, -10, 4.6e6)
    write_image(tmp_path / "far.tif", np.ones((64, 64), np.uint8), GeoProfile(UTM, far))
    refused = tmp_path / "refused.json"
    refused.write_text(told.read_text().replace('"registered": true', '"registered": false'))
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}')
    write_image(tmp_path / "db.tif", np.ones((120, 140), np.float32), GeoProfile(UTM, GRID1))
    assert main(["apply", str(told), str(tmp_path / "db.tif"), "-o", str(tmp_path / "out.png")]) == 1
    assert "db.tif: PNG holds 8 or 16 bits, not float32, and out.png would lose its values" in capsys.readouterr().err
    cases = {
        (told, "wide.png"): "another shape than 140x120",
        (told, "far.tif"): "nothing of it lies on the grid",
        (told, "none.tif"): "no such file",
        (refused, "far.tif"): "was refused",
        (foreign, "far.tif"): "not a transform.json of ours",
        (tmp_path / "nowhere.json", "far.tif"): "no such file",
    }
    for (path, image), says in cases.items():
        assert main(["apply", str(path), str(tmp_path / image), "-o", str(tmp_path / "out.tif")]) == 1
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out.tif").exists() and not (tmp_path / "out.png").exists()


def test_what_stands_in_the_transforms_place_is_told_with_what_belongs_there(told, tmp_path, capsys):
    (tmp_path / "report.json").write_text('{"image0": "a.png", "image1": "b.png", "matrix": [[1, 0, 0]]}')
    (tmp_path / "empty").mkdir()
    image = tmp_path / "s.tif"
    write_image(image, np.ones((64, 64), np.uint8), GeoProfile(UTM, GRID1))
    (tmp_path / "picture").write_bytes(image.read_bytes())
    cases = {
        tmp_path: f"{tmp_path}: is a folder; give {told}",
        tmp_path / "empty": "empty: holds no transform.json; 'kornia-tar register' writes it",
        tmp_path / "report.json": f"not a transform.json of ours (holds no grids of two images); give {told}",
        image: "s.tif: is no transform.json; transform.json comes first, then the images",
        tmp_path / "picture": "picture: is no transform.json; transform.json comes first, then the images",
    }
    for path, says in cases.items():
        assert main(["apply", str(path), str(image), "-o", str(tmp_path / "out.tif")]) == 1
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    (tmp_path / "empty" / "report.json").write_text((tmp_path / "report.json").read_text())
    with pytest.raises(ValueError, match=r"\(holds no grids of two images\)$"):
        apply.read_transform(tmp_path / "empty" / "report.json")


def test_inputs_stay(told, tmp_path, capsys):
    write_image(tmp_path / "b.tif", np.ones((64, 64), np.uint8), GeoProfile(UTM, GRID1))
    before = (tmp_path / "b.tif").read_bytes()
    for words in ([str(tmp_path / "b.tif")], [str(tmp_path / "b.tif"), "--overwrite"]):
        assert main(["apply", str(told), *words, "-o", str(tmp_path / "b.tif")]) == 1
        assert "would replace the input" in capsys.readouterr().err
    assert (tmp_path / "b.tif").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "beside"),
    [("out.png", "out.png.aux.xml"), ("out.png", "out.pgw"), ("out.PNG", "out.WLD"), ("out.tif", "out.tif.aux.xml")],
)
def test_no_output_takes_its_place_from_a_file_that_was_left_there(told, tmp_path, capsys, name, beside):
    write_image(tmp_path / "vh.tif", ground(GRID1, (120, 140), ERROR), GeoProfile(UTM, GRID1))
    aux = "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>4e5, 1, 0, 4e6, 0, -1</GeoTransform></PAMDataset>"
    (tmp_path / beside).write_text(aux if beside.endswith("xml") else "1\n0\n0\n-1\n4e5\n4e6\n")
    command = ["apply", str(told), str(tmp_path / "vh.tif"), "-o", str(tmp_path / name)]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for more in ([], ["--overwrite"]):
        assert main([*command, *more]) == 1
        line = capsys.readouterr().err
        assert f"{beside}: would say of {name}" in line and "remove it, or give another" in line
        assert line.count("\n") == 1 and {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    if beside.endswith("xml"):  # statistics of an earlier result say nothing of the place
        (tmp_path / beside).write_text("<PAMDataset><PAMRasterBand band='1'/></PAMDataset>")
        assert main(command) == 0
        found = read_image(tmp_path / name).profile
        assert found is None if name == "out.png" else found.transform == GRID0


def test_a_grid_comes_back_from_json():
    gcps = tuple(GroundControlPoint(row=r, col=c, x=9 + c / 900, y=45 - r / 900, z=3) for r in (0, 64) for c in (0, 64))
    for profile in (None, GeoProfile(UTM, GRID1), GeoProfile("EPSG:4326", None, gcps=gcps)):
        grid = Grid((64, 64), profile)
        back = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
        points = np.array([[0.0, 0.0], [10.0, 50.0]])
        assert back.size == grid.size
        if grid.georeference is None:
            assert back.georeference is None
        else:
            assert back.georeference is not None
            np.testing.assert_allclose(back.georeference.to_map(points), grid.georeference.to_map(points))
    with pytest.raises(ValueError, match="not the grid of an image"):
        Grid.from_dict({"size": None})


@pytest.mark.parametrize("metres", [4.0, 10.0, 25.0])
def test_the_grid_may_have_pixels_of_another_size(told, tmp_path, metres):
    write_image(tmp_path / "b8.tif", ground(GRID1, (120, 140), ERROR), GeoProfile(UTM, GRID1))
    words = ["apply", str(told), str(tmp_path / "b8.tif"), "-o", str(tmp_path / "out.tif"), "--resolution", f"{metres}"]
    assert main(words) == 0
    found, grid = read_image(tmp_path / "out.tif"), Affine(metres, 0, GRID0.c, 0, -metres, GRID0.f)
    assert found.profile is not None and found.profile.transform.almost_equals(grid)
    assert found.size == (900 / metres, 1000 / metres)
    expected = ground(grid, found.size).astype(float)
    off = np.abs(found.pixels.astype(float) - expected)[found.mask]
    assert found.mask.mean() > 0.9 and np.percentile(off, 99) < 0.02 * np.ptp(expected)


@pytest.mark.parametrize("more", [[], ["--resolution", "8"]])
def test_a_file_keeps_its_own_grid_and_its_content_moves(told, tmp_path, more):
    write_image(tmp_path / "b8.tif", ground(GRID1, (120, 140), ERROR), GeoProfile(UTM, GRID1))
    words = ["apply", str(told), str(tmp_path / "b8.tif"), "-o", str(tmp_path / "out.tif"), "--grid", "source", *more]
    assert main(words) == 0
    found = read_image(tmp_path / "out.tif")
    assert found.profile is not None and found.profile.transform.c == GRID1.c
    side = np.hypot(found.profile.transform.a, found.profile.transform.d)
    assert np.isclose(side, 8 if more else np.hypot(GRID1.a, GRID1.d))
    if not more:
        assert found.profile.transform == GRID1 and found.size == (120, 140)
    expected = ground(found.profile.transform, found.size).astype(float)
    off = np.abs(found.pixels.astype(float) - expected)[found.mask]
    assert found.mask.mean() > 0.85 and np.percentile(off, 99) < 0.02 * np.ptp(expected)


@pytest.mark.parametrize(
    ("words", "told_of"),
    [
        (["--grid", "source"], "needs a georeference in both"), (["--resolution", "0"], "positive number"),
        (["--resolution", "nan"], "positive number"), (["--resolution", "1e-309"], "would make infxinf pixels"),
        (["--resolution", "1e-7"], "1e+10x9e+09 pixels of the grid, more than 16777216 along a side: give a"),
        (["--resolution", "0.01"], "100000x90000 pixels, more than the limit of 268435456: give a larger resolution"),
        (["--resolution", "900"], "a resolution of 900 is not smaller than the whole grid, 1000 x 900: it counts in "
                                  "units of EPSG:32632 (metre)"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_is_refused_in_one_line(told, tmp_path, capsys, words, told_of):
    write_image(tmp_path / "half.png", np.zeros((60, 70), np.uint16))
    assert main(["apply", str(told), str(tmp_path / "half.png"), "-o", str(tmp_path / "out.tif"), *words]) == 1
    line = capsys.readouterr().err
    assert told_of in line and line.count("\n") == 1 and not (tmp_path / "out.tif").exists()
