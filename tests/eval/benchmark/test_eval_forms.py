"""Forms of a scene: every one knows where its pixels lie, and its files say so, but for the error put into one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from eval.benchmark.forms import CHIP, FORMS, SHIFT, read_scenes
from eval.report import forms
from kornia_tar.raster import Georeference, pixel_map, read_image
from kornia_tar.raster.synthetic import draw_scene

pytest.importorskip("rasterio", reason="forms are GeoTIFFs")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder, drawn, side = tmp_path_factory.mktemp("scenes"), draw_scene(0, 384), 384
    Image.fromarray(drawn.optical).save(folder / "a.optical.webp")
    Image.fromarray(drawn.sar).save(folder / "a.sar.webp")
    left, top = -13_150_000.0, 4_000_000.0
    corners = [[left, top], [left + 10 * side, top], [left + 10 * side, top - 10 * side], [left, top - 10 * side]]
    told = {"a": {"corners_EPSG:3395": corners}, "mosaic": {"fragments": ["a.png"]}}
    (folder / "georeference.json").write_text(json.dumps(told))
    (found,) = read_scenes(folder)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_a_form_s_files_say_where_its_pixels_lie(scene, tmp_path, name):
    form = FORMS[name](scene, tmp_path)
    first, second = (Georeference.of(read_image(path)) for path in (form.path0, form.path1))
    left, top, right, bottom = form.area
    points = np.random.default_rng(0).uniform([left, top], [right, bottom], (50, 2))
    there = form.to_scene1(pixel_map(first, second)(form.from_scene0(points)))
    if "450 m" in name:
        off = (there - points) * 10  # map units of the scene, 1.2 of a metre here
        np.testing.assert_allclose(np.linalg.norm(off, axis=1).mean() / 1.2, np.hypot(*SHIFT), rtol=0.02)
    else:
        assert np.abs(there - points).max() < 0.02
    assert (right - left, bottom - top) == ((CHIP - 1,) * 2 if "chip" in name else (383, 383))


def test_forms_show_the_scene_where_they_say(scene, tmp_path):
    for name in ("EPSG:4326", "south-up", "GRD-like GCPs, mirrored"):
        form = FORMS[name](scene, tmp_path)
        second = read_image(form.path1)
        rows, columns = np.mgrid[: second.size[0], : second.size[1]]
        inside = form.to_scene1(np.stack([columns.ravel(), rows.ravel()], 1).astype(float)).round().astype(int)
        kept = ((inside >= 5) & (inside < 379)).all(1) & second.mask.ravel()
        value = second.pixels.ravel()[kept].astype(float)
        expected = scene.sar[inside[kept, 1], inside[kept, 0]].astype(float)
        value = np.log(value) if "GRD" in name else value
        assert np.corrcoef(value, expected)[0, 1] > 0.9, name


def test_the_table_tells_found_from_accepted(scene, tmp_path):
    first = next(iter(FORMS.values()))(scene, tmp_path)
    assert forms._distances(first, None, None) == (np.inf, np.inf)
    good = forms.Outcome("a", "same grid", True, "georeference", 4.0, 0.0, 0.2, 1.0, 5.0, ())
    refused = forms.Outcome("b", "same grid", False, "full", 4.0, 0.0, 0.05, 1.0, 5.0, ("the agreement is low",))
    lost = forms.Outcome("c", "same grid", True, "full", 40.0, 9.0, 0.05, 1.0, 5.0, ())
    row = forms.summary([good, refused, lost])[0]
    assert row == ["same grid", "1 of 3", "2 of 3", "2 of 3", "2 of 3", "1 of 3", "5.0"]
    path = forms.write(tmp_path / "out", [good, refused, lost])
    assert (
        "refused though right" in path.read_text()
        and len(json.loads(path.with_suffix(".json").read_text())["outcomes"]) == 3
    )
