"""register_files is the command ``register`` in Python: same result, from files and from what is open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import georeferenced_pair, needs_weights, untrained_weights

from kornia_tar import Registration, register_files
from kornia_tar.cli.main import main
from kornia_tar.outputs.apply import apply_transform, read_transform, write_transform
from kornia_tar.outputs.ground import ground_report
from kornia_tar.raster import read_image, write_image
from kornia_tar.raster.synthetic import demo_pair

rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")

UTM, SIDE = "EPSG:32632", 192


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Optical and SAR 12 and 8 px apart; SAR's georeference is 30 m too far east, its fill value undeclared."""
    return georeferenced_pair(tmp_path_factory.mktemp("geo"), SIDE, 30)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_weights(tmp_path_factory.mktemp("weights"))


@needs_weights
def test_it_finds_what_the_command_finds_from_whatever_is_open(files, tmp_path):
    rioxarray = pytest.importorskip("rioxarray", reason="xarray arrays need rioxarray")
    told = ["--nodata1=-9999", "--search-radius", "300", "--threshold", "0.5", "--model", "similarity"]
    assert main(["register", *map(str, files), "-o", str(tmp_path / "out"), *told]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    with rasterio.open(files[0]) as optical:
        found = register_files(
            optical, rioxarray.open_rasterio(files[1]), nodata1=-9999, search_radius=300, threshold=0.5,
            model="similarity",
        )  # fmt: skip
    assert isinstance(found, Registration) and found.registered and found.model == "similarity"
    np.testing.assert_allclose(found.matrix, report["matrix"], atol=1e-9)
    assert (len(found.matches), found.probability) == (report["matches"], pytest.approx(report["probability"]))
    assert [grid.size for grid in found.grids] == [(SIDE, SIDE)] * 2
    assert found.search is not None and found.search._asdict() == report["search"]
    ground = ground_report(found, *found.grids)
    assert ground["held_out_metres"].pop("blocks") == report["held_out_metres"].pop("blocks")
    for key, value in ground.items():
        assert value == pytest.approx(report[key]) and value is not None, key

    write_transform(tmp_path / "transform.json", found)
    done = apply_transform(tmp_path / "transform.json", [files[1]], tmp_path / "registered.tif", nodata=-9999)
    assert done[0].path == tmp_path / "registered.tif" and 0.8 < done[0].share < 1
    one, other = read_image(done[0].path), read_image(tmp_path / "out/registered.tif")
    assert one.profile.transform == other.profile.transform
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_allclose(one.pixels[one.mask], other.pixels[one.mask], atol=1e-4)


def test_a_refusal_is_kept_with_its_reason_and_not_applied_unasked(files, untrained, tmp_path):
    with pytest.warns(UserWarning, match=r"s\.tif: 2\.4% of the pixels are exactly -9999.*give nodata1=-9999"):
        found = register_files(*files, weights=untrained, min_probability=1, no_georeference=True, rotations=1)
    assert not found.registered and found.reasons
    assert "give nodata1=-9999" in found.reasons[-1], "what may be the cause stands with the reasons, which are kept"
    path = tmp_path / "transform.json"
    if found.transform is None:
        with pytest.raises(ValueError, match="the registration found no transform"):
            write_transform(path, found)
    else:
        write_transform(path, found)
        assert read_transform(path)[3] is False
        with pytest.raises(ValueError, match="this registration was refused"):
            apply_transform(path, [files[1]], tmp_path / "out.tif")


def test_a_search_radius_that_nothing_uses_is_told(untrained, tmp_path):
    for name, image in zip("os", demo_pair()[:2], strict=True):
        write_image(tmp_path / f"{name}.png", image[:96, :96])
    with pytest.warns(UserWarning, match="the search radius of 300 m is not used: image0 has no georeference"):
        register_files(tmp_path / "o.png", tmp_path / "s.png", search_radius=300, rotations=1, weights=untrained)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"modality1": "radar"}, "modality is 'radar'"),
        ({"model": "rigid"}, "model is 'rigid'; it must be one of similarity, affine"),
        ({"device": "nodevice"}, "device nodevice: is none; give auto, cpu, cuda, cuda:1 or mps"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"rotations": 3}, "rotations must be 1, 4 or 8"),
        ({"search_radius": -1.0, "image1": Path("none.tif")}, "the search radius is -1.0 m"),
        ({"threshold": 2.0, "image1": Path("none.tif")}, r"threshold must be in \[0, 1\], got 2.0"),
        ({"search_radius": 300.0, "no_georeference": True}, "a search radius of 300 m needs georeferences"),
        ({"min_probability": 2.0}, "min_probability"),
        ({"nodata0": -1.0}, r"o\.tif: holds uint8, which never is -1"),
        ({"image1": Path("none.tif")}, r"none\.tif: no such file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_used_is_named(files, untrained, options, error):
    told = {"image0": files[0], "image1": files[1], "weights": untrained, "nodata1": -9999, **options}
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        register_files(**told)


def test_what_comes_from_arrays_needs_its_grids_to_be_written(files, tmp_path):
    from kornia_tar import Registrar, TARMatcher

    flat = np.zeros((64, 64), np.uint8)
    outcome = Registrar(TARMatcher(pretrained=None))(flat, flat)
    assert outcome.grids is None
    with pytest.raises(ValueError, match="found no transform: image0 is flat"):
        write_transform(tmp_path / "t.json", outcome)
