"""Reading, stretching and writing of real files."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kornia_tar import raster as r

rng = np.random.default_rng(0)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (rng.random(shape) * top).astype(dtype)


def as_raster(pixels: np.ndarray, mask: np.ndarray | None = None) -> r.Raster:
    return r.Raster(pixels, np.ones(pixels.shape[:2], bool) if mask is None else mask, None, Path("memory"))


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_comes_back_as_it_was(tmp_path, shape, dtype):
    pixels = noise(*shape, dtype=dtype)
    r.write_image(tmp_path / "a.png", pixels)
    back = r.read_image(tmp_path / "a.png")
    assert back.pixels.dtype == dtype and back.mask.all() and back.profile is None and back.size == (40, 50)
    np.testing.assert_array_equal(back.pixels, pixels)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
def test_other_plain_formats_are_read(tmp_path, suffix):
    Image.fromarray(noise(40, 50, 3)).save(tmp_path / f"a.{suffix}")
    assert r.read_image(tmp_path / f"a.{suffix}").pixels.shape == (40, 50, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_becomes_mask(tmp_path, dtype):
    pixels = noise(40, 50, 4, dtype=dtype)
    pixels[..., 3] = np.iinfo(dtype).max
    pixels[:10, :, 3] = 0
    r.write_image(tmp_path / "a.png", pixels)
    back = r.read_image(tmp_path / "a.png")
    assert back.pixels.shape == (40, 50, 3) and not back.mask[:10].any() and back.mask[10:].all()
    assert back.pixels.dtype == dtype


def test_palette_and_bilevel_images(tmp_path):
    Image.fromarray(noise(40, 50, 3)).quantize(8).save(tmp_path / "p.png")
    Image.fromarray(noise(40, 50) > 127).save(tmp_path / "b.png")
    assert r.read_image(tmp_path / "p.png").pixels.shape == (40, 50, 3)
    assert r.read_image(tmp_path / "b.png").pixels.shape == (40, 50)


def test_geotiff_keeps_grid_nodata_and_dtype(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="GeoTIFF needs rasterio")
    profile = r.GeoProfile(
        rasterio.CRS.from_epsg(32614), rasterio.Affine(10, 0, 500_000, 0, -10, 4_000_000), nodata=-9999
    )
    pixels = noise(40, 50, 5, dtype=np.float32)
    pixels[0, 0, 2], pixels[1, 1, 0] = -9999, np.nan
    r.write_image(tmp_path / "a.tif", pixels, profile)
    back = r.read_image(tmp_path / "a.tif")
    assert back.profile == profile and back.pixels.dtype == np.float32
    np.testing.assert_array_equal(back.pixels, pixels)
    assert not back.mask[0, 0] and not back.mask[1, 1] and back.mask.sum() == 40 * 50 - 2
    with pytest.raises(ValueError, match=r"b\.tif"):  # -9999 does not fit
        r.write_image(tmp_path / "b.tif", noise(40, 50), profile)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_plain_and_complex_tiff(tmp_path):
    pytest.importorskip("rasterio", reason="TIFF by rasterio")
    r.write_image(tmp_path / "plain.tif", noise(40, 50))
    assert r.read_image(tmp_path / "plain.tif").profile is None
    slc = (noise(40, 50, dtype=np.float32) + 1j).astype(np.complex64)
    r.write_image(tmp_path / "slc.tif", slc)
    np.testing.assert_allclose(r.read_image(tmp_path / "slc.tif").pixels, np.abs(slc))


def test_tiff_without_rasterio(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio", reason="makes the GeoTIFF")
    r.write_image(tmp_path / "plain.tif", noise(40, 50))
    r.write_image(tmp_path / "geo.tif", noise(40, 50), r.GeoProfile(None, rasterio.Affine.scale(2)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert r.read_image(tmp_path / "plain.tif").size == (40, 50)
    for act in (lambda: r.read_image(tmp_path / "geo.tif"), lambda: r.write_image(tmp_path / "x.tif", noise(40, 50))):
        with pytest.raises(ImportError, match=r"pip install .kornia-tar\[geo\]"):
            act()


def bad_files(folder: Path) -> dict[str, str]:
    (folder / "text.png").write_text("hello, I am no image\n" * 10)
    (folder / "text.txt").write_text("hello, I am no image\n" * 10)
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    for name, shape in {"tiny": (10, 10), "thin": (10, 400)}.items():
        Image.fromarray(noise(*shape)).save(folder / f"{name}.png")
    for suffix in ("png", "jpg"):
        Image.fromarray(noise(64, 64)).save(folder / f"cut.{suffix}")
        whole = (folder / f"cut.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((40, 40, 4), np.uint8)).save(folder / "void.png")
    return {
        "absent.png": "no such file", "folder.png": "folder", "text.png": "cannot be read",
        "text.txt": "cannot be read", "empty.png": "cannot be read", "tiny.png": "10x10 pixels; each side",
        "thin.png": "400x10",
        "cut.png": "cannot be read", "cut.jpg": "cannot be read", "void.png": "no valid pixel",
    }  # fmt: skip


def test_bad_files_give_one_clear_line(tmp_path):
    for name, says in bad_files(tmp_path).items():
        with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
            r.read_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_bad_tiffs(tmp_path):
    pytest.importorskip("rasterio", reason="TIFF by rasterio")
    (tmp_path / "text.tif").write_text("hello" * 100)
    r.write_image(tmp_path / "cut.tif", noise(300, 300))
    whole = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    r.write_image(tmp_path / "nan.tif", np.full((40, 40), np.nan, np.float32))
    for name, says in {"text.tif": "cannot be read", "cut.tif": "cannot be read", "nan.tif": "no valid pixel"}.items():
        with pytest.raises(ValueError, match=says) as caught:
            r.read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_pixel_limit(tmp_path, monkeypatch):
    r.write_image(tmp_path / "a.png", noise(40, 50))
    for limit in (10, 1999):
        with pytest.raises(ValueError, match=r"limit of|exceeds limit"):
            r.read_image(tmp_path / "a.png", max_pixels=limit)
    assert r.read_image(tmp_path / "a.png", max_pixels=2000).size == (40, 50)
    monkeypatch.setenv("KORNIA_TAR_MAX_PIXELS", "1999")
    with pytest.raises(ValueError, match="KORNIA_TAR_MAX_PIXELS"):
        r.read_image(tmp_path / "a.png")
    monkeypatch.setenv("KORNIA_TAR_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="many"):
        r.read_image(tmp_path / "a.png")


def test_stretch_ignores_invalid_pixels_and_outliers():
    pixels = np.linspace(100, 200, 64 * 64, dtype=np.float32).reshape(64, 64)
    pixels[0, 0], pixels[0, 1] = 1e9, np.nan
    mask = np.isfinite(pixels)
    mask[0, 0] = False
    grey = r.to_grey8(as_raster(pixels, mask), "optical")
    assert grey.dtype == np.uint8 and grey[0, 0] == 0 and grey[0, 1] == 0
    assert 120 < grey[32, 32] < 135 and grey.max() == 255


def test_sar_power_amplitude_and_decibels_look_alike():
    power = rng.gamma(4, 1 / 4, (128, 128)) * 10 ** rng.normal(-1, 0.5, (128, 128))
    power[:1] *= 1e4  # strong scatterers
    views = [
        r.to_grey8(as_raster(pixels.astype(np.float32)), "sar").astype(int)
        for pixels in (power, np.sqrt(power), 10 * np.log10(power))
    ]
    assert all(np.abs(view - views[0]).max() <= 1 for view in views)
    assert 90 < np.median(views[0]) < 165
    assert np.isfinite(r.to_grey8(as_raster(np.zeros((40, 40), np.float32)), "sar")).all()


def test_grey_of_colour_and_of_many_bands():
    grey = noise(40, 50)
    for modality in ("optical", "sar"):
        from_rgb = r.to_grey8(as_raster(np.repeat(grey[..., None], 3, -1)), modality).astype(int)
        assert np.abs(from_rgb - r.to_grey8(as_raster(grey), modality)).max() <= 1
    vv_vh = noise(40, 50, 2, dtype=np.float32)
    np.testing.assert_array_equal(r.to_grey8(as_raster(vv_vh), "sar"), r.to_grey8(as_raster(vv_vh[..., 0]), "sar"))
    assert r.to_grey8(as_raster(noise(40, 50, 13, dtype=np.uint16)), "optical").shape == (40, 50)
    assert r.to_rgb8(as_raster(noise(40, 50, 13, dtype=np.uint16))).shape == (40, 50, 3)
    with pytest.raises(ValueError, match="radar"):
        r.to_grey8(as_raster(grey), "radar")


def test_threads_read_beside_each_other_and_leave_the_process_as_it_was(tmp_path):
    """Pillow's limit, the filters of warnings and two hooks are the process's: one thread's must not be another's."""
    pytest.importorskip("rasterio")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / "placed.png")
    (tmp_path / "placed.pgw").write_text("10\n0\n0\n-10\n500000\n4600000\n")
    Image.fromarray(rng.integers(0, 255, (300, 300), np.uint8)).save(tmp_path / "large.png")
    state = lambda: (Image.MAX_IMAGE_PIXELS, list(warnings.filters), sys.excepthook, sys.unraisablehook)  # noqa: E731
    before = state()
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(r.read_image, [tmp_path / "placed.png", tmp_path / "large.png"] * 40))
    assert {one.size for one in read} == {(32, 32), (300, 300)}
    assert state() == before
