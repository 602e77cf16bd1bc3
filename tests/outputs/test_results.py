"""A folder holds the results of one run: what an earlier one left is removed, and nothing else is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from kornia_tar.geometry import PointMatches, Transform
from kornia_tar.outputs.registered import resampled
from kornia_tar.outputs.results import remove_results, write_results
from kornia_tar.raster import Bands, GeoProfile, Raster, read_image, write_image
from kornia_tar.registration.acceptance import Witnesses
from kornia_tar.registration.result import Registration

OURS = '{"registered": true, "kornia_tar": "0.1.0"}'


def refuse(out: Path) -> None:
    """Write the results of a pair that was refused."""
    grey = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    raster = Raster(grey, np.ones(grey.shape, bool), None, out / "picture.png")
    outcome = Registration(
        False, ("no",), np.eye(3), "affine", PointMatches.empty(), np.zeros(0, bool), 0, 1.0, 0.5, 0.5, 0.5, 0.1,
        Witnesses.none(),
    )  # fmt: skip
    write_results(out, outcome, {**outcome.report(), "kornia_tar": "0.1.0"}, raster, raster, grey)


def register(out: Path, second: Raster) -> dict[str, str | None]:
    """Write image1, which lies on a picture without a georeference as it is; return what the report says of it."""
    grey = np.random.default_rng(0).integers(0, 255, second.size, dtype=np.uint8)
    first = Raster(grey, np.ones(grey.shape, bool), None, out / "picture.png")
    outcome = Registration(
        True, (), np.eye(3), "affine", PointMatches.empty(), np.zeros(0, bool), 0, 1.0, 0.5, 0.5, 0.5, 0.99,
        Witnesses.none(),
    )  # fmt: skip
    out.mkdir()
    told = write_results(out, outcome, {**outcome.report(), "kornia_tar": "0.1.0"}, first, second, grey)
    assert told is not None and json.loads((out / "report.json").read_text())["registered_image"] == told
    assert f"<code>{told['file']}</code>" in (out / "report.html").read_text("utf-8")
    assert {path.name for path in out.glob("registered.*")} == {told["file"]}
    return told


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, report: str | None = OURS, *more: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("registered.tif", "image1_gcps.vrt", "notes.txt", "registered.tif.aux.xml", *more):
        (folder / name).write_text("old")
    if report is not None:
        (folder / "report.json").write_text(report)


def test_a_refusal_leaves_nothing_of_an_earlier_run(tmp_path):
    fill(tmp_path)
    refuse(tmp_path)
    assert names(tmp_path) == {
        "matches.h5", "tie_points.csv", "quicklook.png", "transform.json", "report.json", "report.html",
        "notes.txt", "registered.tif.aux.xml",
    }  # fmt: skip
    assert '"registered": false' in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize("report", [None, "mine", '["kornia_tar", "registered"]', '{"registered": true}'])
def test_without_a_report_of_ours_nothing_is_removed(tmp_path, report):
    fill(tmp_path, report)
    before = names(tmp_path)
    remove_results(tmp_path)
    assert names(tmp_path) == before
    refuse(tmp_path)
    assert before <= names(tmp_path) and (tmp_path / "registered.tif").read_text() == "old"


def test_removing_results_leaves_what_is_not_ours(tmp_path):
    fill(tmp_path)
    remove_results(tmp_path)
    assert names(tmp_path) == {"notes.txt", "registered.tif.aux.xml"}


def test_what_a_killed_run_left_is_removed(tmp_path):
    """It was killed while it moved its results in, the report last; another one while it made them."""
    fill(tmp_path, None)
    fill(tmp_path / ".results-theirs")
    (tmp_path / ".results-moving").mkdir()
    (tmp_path / ".results-moving" / "report.json").write_text(OURS)
    (tmp_path / ".results-making").mkdir()
    (tmp_path / ".results-making" / ".registered.tif.1a2b3c4d.tmp").write_text("half of it")
    foreign = {f".results-theirs/{name}" for name in names(tmp_path / ".results-theirs")}
    refuse(tmp_path)
    assert names(tmp_path) - foreign == {
        "matches.h5", "tie_points.csv", "quicklook.png", "transform.json", "report.json", "report.html",
        "notes.txt", "registered.tif.aux.xml",
    }  # fmt: skip
    assert foreign <= names(tmp_path)


def test_what_cannot_be_made_removes_nothing(tmp_path):
    fill(tmp_path)
    before = names(tmp_path)
    grey = np.zeros((64, 64), np.uint8)
    raster = Raster(grey, np.ones(grey.shape, bool), None, tmp_path / "picture.png")
    with pytest.raises(AttributeError):
        write_results(tmp_path, None, {}, raster, raster, grey)
    assert names(tmp_path) == before and not list(tmp_path.glob(".results-*"))


@pytest.mark.parametrize(
    ("dtype", "bands", "nodata"),
    [("float32", 1, None), ("int16", 1, -9999), ("uint8", 1, 0), ("uint16", 2, None), ("uint8", 4, None)],
)
def test_values_are_kept_without_a_georeference(tmp_path, dtype, bands, nodata):
    """DB stays dB, SAR stays amplitude, and what is missing stays so."""
    pytest.importorskip("rasterio", reason="GeoTIFF needs rasterio")
    pixels = np.random.default_rng(0).integers(1, 200, (64, 72, bands)[: 2 + (bands > 1)]).astype(dtype)
    if nodata is not None:
        pixels[:20, :30] = nodata
    elif dtype == "float32":
        pixels = pixels / 8 - 33
        pixels[:20, :30] = np.nan
    told = Bands((None,) * 4, ("gray", *["undefined"] * 3), (1.0,) * 4, (0.0,) * 4, (None,) * 4) if bands == 4 else None
    write_image(tmp_path / "s.tif", pixels, None if nodata is None else GeoProfile(None, None, nodata), bands=told)
    second = read_image(tmp_path / "s.tif")
    assert register(tmp_path / "out", second) == {"file": "registered.tif", "stretched": None}
    back = read_image(tmp_path / "out" / "registered.tif")
    assert back.pixels.dtype == dtype and back.profile is None
    np.testing.assert_array_equal(back.mask, second.mask)
    np.testing.assert_array_equal(back.pixels, pixels)


@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 1), ("uint16", 3)])
def test_a_picture_holds_the_values_that_it_can(tmp_path, dtype, bands):
    pixels = np.random.default_rng(0).integers(1, 250, (64, 72, bands)[: 2 + (bands > 1)]).astype(dtype)
    write_image(tmp_path / "s.png", pixels)
    assert register(tmp_path / "out", read_image(tmp_path / "s.png")) == {"file": "registered.png", "stretched": None}
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "registered.png").pixels, pixels)


def test_what_was_stretched_for_want_of_rasterio_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    second = Raster(np.linspace(-33, 0, 64 * 72, dtype=np.float32).reshape(64, 72), np.ones((64, 72), bool), None,
                    tmp_path / "s.tif")  # fmt: skip
    told = register(tmp_path / "out", second)
    assert told["file"] == "registered.png" and read_image(tmp_path / "out/registered.png").pixels.dtype == np.uint8
    assert "not float32" in told["stretched"] and 'pip install "kornia-tar[geo]"' in told["stretched"]


@pytest.mark.parametrize(("how", "least", "most"), [("bilinear", 9, 28), ("cubic", 9, 20), ("nearest", 0.8, 1.3)])
def test_finer_speckle_is_averaged_over_the_coarser_pixel(how, least, most):
    """Intensity of one look, three of its pixels to one of the reference: the area's nine looks at least are left.

    A triangle of the coarser pixel's width, as gdalwarp's bilinear takes it, leaves twenty.
    """
    speckle = np.random.default_rng(0).exponential(100, (300, 300)).astype(np.float32)
    raster = Raster(speckle, np.ones(speckle.shape, bool), None, Path("memory"))
    pixels, valid, _ = resampled(raster, Transform(np.array([[3.0, 0, 1], [0, 3, 1], [0, 0, 1]])), (96, 96), how)
    inside = np.asarray(pixels[:, :])[4:-4, 4:-4]
    assert valid[4:-4, 4:-4].all()
    looks = inside.mean() ** 2 / inside.var()
    assert least < looks < most and inside.mean() == pytest.approx(100, rel=0.1)
