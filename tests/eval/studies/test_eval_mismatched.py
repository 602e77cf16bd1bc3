"""Crops of two places share no ground, and the table counts what became of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import small_matcher

from eval.benchmark.forms import GRID, Scene, read_scenes
from eval.calibration.outcomes import Outcome
from eval.studies import mismatched
from kornia_tar import AlignmentConfig, Registrar, RegistrarConfig, SearchConfig

pytest.importorskip("rasterio")
from rasterio.transform import from_origin


def scene(name: str, height: int, width: int, left: float, top: float) -> Scene:
    y, x = np.mgrid[:height, :width]
    optical = np.repeat((x % 251).astype(np.uint8)[..., None], 3, 2)
    return Scene(name, optical, (y % 251).astype(np.uint8), from_origin(left, top, GRID, GRID))


#: A mosaic, and a scene that lies in it.
SCENES = [scene("mosaic", 300, 400, 0.0, 3000.0), scene("scene", 128, 128, 1000.0, 2500.0)]


def test_no_ground_is_shown_by_both():
    for number in range(60):
        crops = mismatched.draw(SCENES, 128, number)
        assert [str(crop) for crop in crops] == [str(crop) for crop in mismatched.draw(SCENES, 128, number)]
        for crop in crops:
            assert crop.of(crop.scene.sar, 128)[0, 0] == crop.row % 251
            assert crop.ground[1] == crop.scene.transform.f - GRID * crop.row
        left = [crop.ground[0] for crop in crops]
        top = [crop.ground[1] for crop in crops]
        assert abs(left[0] - left[1]) >= 128 * GRID or abs(top[0] - top[1]) >= 128 * GRID


def test_a_side_that_no_two_places_have_is_named():
    with pytest.raises(ValueError, match="no two places of 300² px"):
        mismatched.draw(SCENES, 300, 0)
    with pytest.raises(FileNotFoundError, match="holds no georeference"):
        read_scenes(Path("nowhere"))


def test_pairs_with_a_georeference_that_lies_are_kept_apart_from_those_without(tmp_path):
    config = RegistrarConfig(
        search=SearchConfig(rotations=1, side=96, scales=(1.0,)), alignment=AlignmentConfig(tile=96, refinements=1)
    )
    registrar, ticks = Registrar(small_matcher(), config), list[int]()
    found = mismatched.measure(registrar, "toy", SCENES, 96, 2, tmp_path, ticks.append, georeferenced=True)
    again = mismatched.measure(registrar, "toy", SCENES, 96, 2, tmp_path, ticks.append, georeferenced=True)
    assert len(found) == 2 and not any(one.registered for one in found)
    assert [(one.name, one.seconds) for one in again] == [(one.name, one.seconds) for one in found]
    assert (tmp_path / "outcomes" / "mismatched.96.georeferenced.json").is_file() and ticks == [1] * 4


def test_an_accepted_pair_is_told(tmp_path):
    found = {64: [Outcome("a and b", None, False, 5.0, 3.0, probability=0.2), Outcome("c", None, True, 1.0, 5.0)]}
    text = mismatched.write(found, "toys", tmp_path / "t.md").read_text()
    assert "| 64² | 2 | 1 | 0.20 | 4 | 5 |" in text
