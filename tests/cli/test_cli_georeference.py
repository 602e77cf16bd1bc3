"""Georeferenced files on the command line: options, what is said in metres, what is written in map coordinates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import georeferenced_pair, needs_weights, untrained_weights

from kornia_tar.cli.main import main
from kornia_tar.outputs.matches import read_matches
from kornia_tar.raster import GeoProfile, read_image, write_image

rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")

UTM, SIDE = "EPSG:32632", 224


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Optical and SAR 12 and 8 px apart; the SAR file's georeference is 30 m too far east. No nodata is declared."""
    return georeferenced_pair(tmp_path_factory.mktemp("geo"), SIDE, 40)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = untrained_weights(tmp_path_factory.mktemp("weights"))
    # Their probability is not calibrated: only one that cannot be is out of their reach.
    return ["--weights", str(path), "--rotations", "1", "--min-probability", "1"]


@needs_weights
def test_shift_and_error_in_metres_and_tie_points_on_the_map(files, tmp_path, capsys):
    words = ["--nodata1=-9999", "--search-radius", "300", "--grid", "source", "--resolution", "20"]
    assert main(["register", *map(str, files), "-o", str(tmp_path), *words]) == 0
    told = capsys.readouterr()
    assert "m)" in told.out and "m east" in told.out and "within 300 m" in told.out and not told.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["shift_metres"]["east"] == pytest.approx(30, abs=12)
    assert report["shift_metres"]["north"] == pytest.approx(0, abs=12)
    assert report["search"]["kind"] == "georeference" and report["search"]["radius"] == 300
    np.testing.assert_allclose(report["gsd0_metres"] + report["gsd1_metres"], 10, rtol=1e-3)
    assert report["error_estimate_metres"] == pytest.approx(10 * report["error_estimate_px"], rel=1e-3)
    blocks = [pair for row in report["held_out"]["blocks_px"] for pair in row]
    metres = [pair for row in report["held_out_metres"]["blocks"] for pair in row]
    assert [one is None for one in blocks] == [one is None for one in metres] and any(blocks)
    np.testing.assert_allclose(
        [pair for pair in metres if pair], np.array([pair for pair in blocks if pair]) * (10, -10), atol=0.3
    )
    with (tmp_path / "tie_points.csv").open(newline="") as file:
        held = [row for row in csv.DictReader(file) if row["held_out"] == "1"]
    told = {(float(row["held_out_dx_px"]), float(row["held_out_dy_px"])) for row in held}
    assert len(told) > 3 and all(np.abs(np.array(list(filter(None, blocks))) - one).max(1).min() < 2e-3 for one in told)
    matches = read_matches(tmp_path / "matches.h5")
    assert matches["map_crs"] == UTM
    np.testing.assert_allclose(matches["map0"], (matches["keypoints0"] + 0.5) * [10, -10] + [5e5, 4.6e6], atol=1e-4)
    apart = np.median((matches["map1"] - matches["map0"])[matches["inliers"]], axis=0)
    np.testing.assert_allclose(apart, [30, 0], atol=12)
    with rasterio.open(tmp_path / "registered.tif") as file:
        assert file.nodata == -9999 and (file.read(1) == -9999).any()
        with rasterio.open(files[1]) as source:
            assert file.transform.almost_equals(source.transform * source.transform.scale(2))
            assert file.shape == (source.height / 2, source.width / 2)


def test_a_grid_that_cannot_be_is_refused_before_the_work(files, untrained, tmp_path, capsys):
    write_image(
        tmp_path / "world.tif",
        np.ones((90, 180), np.uint8),
        GeoProfile("EPSG:4326", rasterio.Affine(2, 0, -180, 0, -2, 90)),
    )
    pair = [str(files[0]), str(tmp_path / "world.tif")]
    assert main(["register", *pair, "-o", str(tmp_path / "out"), "--grid", "source", *untrained]) == 1
    assert "the grid to write on" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_undeclared_fill_value_is_named_and_the_option_silences_it(files, untrained, tmp_path, capsys):
    arguments = ["match", *map(str, files), "-o", str(tmp_path / "m.h5"), *untrained[:2], "--overwrite"]
    assert main(arguments) == 0
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "s.tif: 3.2% of the pixels are exactly -9999" in warning
    assert "--nodata1=-9999" in warning
    assert main([*arguments, "--nodata1=-9999"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*arguments, "--nodata0=-9999"]) == 1
    assert "o.tif: holds uint8, which never is -9999" in capsys.readouterr().err


@pytest.mark.slow  # full searches; test_prior.py holds what they find
def test_the_report_says_which_search_it_was(files, untrained, tmp_path, capsys):
    common = ["register", *map(str, files), "-o", str(tmp_path), "--nodata1=-9999", *untrained, "--overwrite"]
    assert main([*common, "--no-georeference"]) == 2
    assert json.loads((tmp_path / "report.json").read_text())["search"]["kind"] == "full"
    error = capsys.readouterr().err
    assert "georeferences were left aside" in error and "--search-radius" not in error
    assert main(common) == 2
    error = capsys.readouterr().err
    assert "refused within 500 m of where the georeferences say, and without them" in error and error.count("\n") == 1
    assert main([*common, "--search-radius", "-3"]) == 1
    assert "search radius is -3.0 m" in capsys.readouterr().err


def test_the_result_lies_on_a_reference_with_gcps(files, tmp_path):
    from rasterio.control import GroundControlPoint

    from kornia_tar.geometry import Transform
    from kornia_tar.outputs.registered import write_registered
    from kornia_tar.raster.grid import Grid

    first, second = (read_image(path) for path in files)
    gcps = [GroundControlPoint(row=r, col=c, x=9 + c / 9000, y=45 - r / 9000, z=0) for r in (0, 224) for c in (0, 224)]
    write_image(tmp_path / "o.tif", first.pixels, GeoProfile("EPSG:4326", None, gcps=tuple(gcps)))
    reference = read_image(tmp_path / "o.tif")
    write_registered(tmp_path, Transform(np.eye(3)), Grid.of(reference), second, second.pixels)
    with rasterio.open(tmp_path / "registered.tif") as file:
        found, crs = file.gcps
        assert crs == "EPSG:4326" and [(g.row, g.col, g.x, g.y) for g in found] == [
            (g.row, g.col, g.x, g.y) for g in gcps
        ]
