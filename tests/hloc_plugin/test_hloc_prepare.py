"""Rasters as they come, and PNG as hloc wants it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from hloc_plugin import prepare
from hloc_plugin.cli import main
from hloc_plugin.formats import read_pairs
from hloc_plugin.prepare import prepare_images
from kornia_tar.raster import write_image


@pytest.fixture
def optical(tmp_path):
    """16-bit colour with values up to 4000, as Sentinel-2 has them."""
    ramp = np.linspace(200, 4000, 64 * 80).reshape(64, 80, 1).astype(np.uint16)
    write_image(tmp_path / "s2 scene.png", np.repeat(ramp, 3, axis=2))
    return tmp_path / "s2 scene.png"


@pytest.fixture
def radar(tmp_path):
    """Decibels with missing pixels and a georeference."""
    pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    from kornia_tar.raster import GeoProfile

    decibels = np.random.default_rng(0).normal(-12, 4, (64, 72)).astype(np.float32)
    decibels[:, :10] = np.nan
    profile = GeoProfile("EPSG:32633", from_origin(5e5, 5e6, 10, 10), np.nan)
    write_image(tmp_path / "s1.tif", decibels, profile)
    return tmp_path / "s1.tif"


def test_sixteen_bits_keep_their_shades(optical, tmp_path):
    assert prepare_images([optical], tmp_path / "out") == ["s2_scene.png"]
    image = cv2.imread(str(tmp_path / "out/images/s2_scene.png"), cv2.IMREAD_COLOR)
    assert image.dtype == np.uint8 and image.shape == (64, 80, 3)
    assert len(np.unique(image)) > 200 and image.min() == 1
    assert not (tmp_path / "out/masks").exists()


def test_decibels_and_nodata(radar, tmp_path):
    told = []
    prepare_images([radar], tmp_path / "out", progress=told.append)
    image = cv2.imread(str(tmp_path / "out/images/s1.png"), cv2.IMREAD_GRAYSCALE)
    mask = cv2.imread(str(tmp_path / "out/masks/s1.png.png"), cv2.IMREAD_GRAYSCALE)
    assert (image[:, :10] == 0).all() and (image[:, 10:] > 0).all() and len(np.unique(image)) > 200
    np.testing.assert_array_equal(mask > 0, image > 0)
    about = json.loads((tmp_path / "out/prepare.json").read_text())["images"][0]
    assert about["modality"] == "sar" and about["crs"] == "EPSG:32633"
    assert about["transform"] == [10, 0, 500000, 0, -10, 5000000]
    assert len(told) == 1 and "86% valid" in told[0]


def test_a_fill_value_that_nobody_declared_is_named_and_masked_where_it_is_told(optical, tmp_path, capsys):
    pytest.importorskip("rasterio")
    decibels = np.random.default_rng(0).normal(-12, 4, (64, 72)).astype(np.float32)
    decibels[:, :9] = -9999
    write_image(tmp_path / "s1.tif", decibels)
    command = ["prepare", str(optical), str(tmp_path / "s1.tif"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "s1.tif: 12.5% of the pixels are exactly -9999" in line and line.endswith(" --nodata=-9999")
    assert main([*command, "--nodata=-9999", "--overwrite"]) == 0  # which no pixel of the optical image can be
    assert "warning" not in capsys.readouterr().err
    mask = cv2.imread(str(tmp_path / "out/masks/s1.png.png"), cv2.IMREAD_GRAYSCALE)
    assert ((mask > 0) == (decibels > -9999)).all() and not (tmp_path / "out/masks/s2_scene.png.png").exists()


def test_sub_folders_stay_and_folders_of_equal_names_are_told_apart(tmp_path):
    for folder in ("im/optical", "im/sar", "im/.hidden"):
        (tmp_path / folder).mkdir(parents=True)
        write_image(tmp_path / folder / "00 1.png", np.full((40, 40), 9, np.uint8))
    expected = ["optical/00_1.png", "sar/00_1.png"]
    assert prepare_images([tmp_path / "im"], tmp_path / "one") == expected
    assert prepare_images([tmp_path / "im/optical", tmp_path / "im/sar"], tmp_path / "two") == expected
    for out in ("one", "two"):
        assert all((tmp_path / out / "images" / name).is_file() for name in expected)
    assert prepare_images([tmp_path / "im"], tmp_path / "im") == expected  # and again: what it wrote is no source
    assert prepare_images([tmp_path / "im"], tmp_path / "im", overwrite=True) == expected


def test_names_fit_into_a_file_of_pairs_and_the_sources_stay_told(tmp_path):
    (tmp_path / "in" / "a b").mkdir(parents=True)
    names = ("1\u00a02.png", "#3.png", "a b/4\u3000 5.png")
    for name in names:
        write_image(tmp_path / "in" / name, np.full((40, 40), 9, np.uint8))
    written = prepare_images([tmp_path / "in"], tmp_path / "out")
    assert sorted(written) == ["1_2.png", "_#3.png", "a_b/4__5.png"]
    (tmp_path / "pairs.txt").write_text(f"{written[0]} {written[1]}\n{written[2]} {written[0]}\n", "utf-8")
    assert len(read_pairs(tmp_path / "pairs.txt", tmp_path / "out/images")) == 2
    told = json.loads((tmp_path / "out/prepare.json").read_text("utf-8"))["images"]
    sources = {one["image"]: one["source"] for one in told}
    assert sources["a_b/4__5.png"] == str(tmp_path / "in" / names[2]) and set(sources) == set(written)


def test_folders_of_one_own_name_are_told_apart_by_those_above(tmp_path):
    for folder in ("a/images", "b/images"):
        (tmp_path / folder / "d.tif").mkdir(parents=True)  # a folder is no image
        write_image(tmp_path / folder / "1.png", np.full((40, 40), 9, np.uint8))
    found = prepare_images([tmp_path / "a/images", tmp_path / "b/images"], tmp_path / "out")
    assert found == ["a/images/1.png", "b/images/1.png"]


def test_an_earlier_mask_goes_with_its_image(tmp_path):
    for alpha in (True, False):
        pixels = np.full((40, 40, 4 if alpha else 3), 9, np.uint8)
        pixels[:20, :, -1] = 0
        write_image(tmp_path / "s.png", pixels)
        prepare_images([tmp_path / "s.png"], tmp_path / "out", overwrite=True)
        assert (tmp_path / "out/masks/s.png.png").exists() == alpha


def test_folders_and_clashes(optical, tmp_path):
    write_image(tmp_path / "folder.png", np.full((40, 40), 9, np.uint8))
    assert prepare_images([tmp_path], tmp_path / "out") == ["folder.png", "s2_scene.png"]
    with pytest.raises(ValueError, match=r"would both become s2_scene\.png"):
        prepare_images([optical, tmp_path / "out/images/s2_scene.png"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        prepare_images([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"none\.tif"):
        prepare_images([tmp_path / "none.tif"], tmp_path / "out")


def test_what_a_folder_holds_beside_images_is_told_and_an_image_by_another_name_can_be_named(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (40, 48), np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.gif"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "c.product").write_bytes((folder / "a.png").read_bytes())
    for beside in ("a.pgw", "a.png.aux.xml", "notes.txt", "cameras.bin"):  # COLMAP's, without ENVI's header
        (folder / beside).write_text("")
    told = list[str]()
    assert prepare_images([folder], tmp_path / "out", progress=told.append) == ["a.png", "b.png"]
    assert [line for line in told if line.startswith("warning")] == [
        f"warning: {folder / 'c.product'}: left out, for its name ends like no image's; name the file itself to have it"
    ]
    assert prepare_images([folder / "c.product"], tmp_path / "other") == ["c.png"]


def test_after_an_interruption_the_same_call_goes_on_and_what_is_not_ours_stays(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name, rng.integers(1, 255, (40, 48), np.uint8))
    real, written = prepare.write_image, list[str]()

    def interrupted(path, pixels):
        real(path, pixels)
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_images([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "out/images/c.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"c\.png: is there already"):
        prepare_images([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "out/images/c.png").unlink()
    assert prepare_images([tmp_path / "in"], tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "prepare.json"]
    with pytest.raises(ValueError, match="is there already"):
        prepare_images([tmp_path / "in"], tmp_path / "out")
