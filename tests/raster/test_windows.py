"""Large images window by window: what comes of windows is what comes of the whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers import picture

from kornia_tar.geometry import DisplacementField, Transform, blocks, source_window, valid_mask, warp_block, warp_image
from kornia_tar.outputs.registered import resampled
from kornia_tar.outputs.thumbnails import Thumbnails
from kornia_tar.raster import read_image, suspected_fill, to_grey8, to_rgb8, told_modality, windows
from kornia_tar.raster import resample as resampling
from kornia_tar.raster import view as views
from kornia_tar.raster.resample import resample
from kornia_tar.raster.view import MaskedImage, shrunk
from kornia_tar.raster.windows import Windowed

SIZE = 150, 131
TURNED = np.array([[0.9013, -0.2971, 31.17], [0.3011, 0.8973, -7.13], [0, 0, 1]])
BENT = np.array([[1.1, 0.2, -9.0], [-0.1, 0.8, 12.0], [4e-4, -2e-4, 1]])
FAR = np.array([[9.3, 0.4, 3.0], [-0.2, 9.1, 8.0], [0, 0, 1]])


@pytest.fixture
def small_windows(monkeypatch):
    """Windows, strips and blocks so small that even these images have many."""
    monkeypatch.setattr(windows, "LARGE", 1000)
    monkeypatch.setattr(windows, "PART", 4000)
    monkeypatch.setattr(resampling, "BLOCK", 48)


def bent_field() -> Transform:
    return Transform(TURNED, DisplacementField.over(SIZE, 30, lambda at: 3 * np.sin(at / 20)))


def values(height: int, width: int, seed: int = 0) -> np.ndarray:
    return picture(seed, height, width)[0, 0].numpy()


def test_an_array_that_is_made_where_it_is_asked_for():
    whole = np.arange(70 * 50 * 3).reshape(70, 50, 3)
    asked = []

    def read(rows: slice, columns: slice) -> np.ndarray:
        asked.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return whole[rows, columns]

    lazy = Windowed(whole.shape, whole.dtype, read, 16)
    assert lazy.ndim == 3 and len(lazy) == 70
    np.testing.assert_array_equal(lazy[3:40, 7:9], whole[3:40, 7:9])
    assert sum(asked) == 37 * 2 and max(asked) <= 16 * 2
    for key in (np.s_[5:], np.s_[:, 4:], np.s_[::7, ::3], np.s_[2:60:9, 1::5, 1], np.s_[..., 0], np.s_[9:9], np.s_[8]):
        np.testing.assert_array_equal(lazy[key], whole[key])
    np.testing.assert_array_equal(np.asarray(lazy), whole)
    np.testing.assert_array_equal(lazy.changed(lambda part: part[..., 1] / 2)[4:6, 2:3], whole[4:6, 2:3, 1] / 2)


@pytest.mark.parametrize("kind", ["uint8 rgb", "uint16 bands", "float32 nan", "complex", "alpha", "palette", "flat"])
def test_a_file_gives_the_same_whole_and_by_windows(tmp_path, small_windows, kind):
    rasterio = pytest.importorskip("rasterio")
    grey = values(*SIZE)
    dtype, count = {"uint16 bands": ("uint16", 4), "float32 nan": ("float32", 1), "complex": ("complex64", 1),
                    "alpha": ("uint8", 4), "uint8 rgb": ("uint8", 3)}.get(kind, ("uint8", 1))  # fmt: skip
    bands = np.stack([(np.roll(grey, 9 * k, 1) * (200 if dtype == "uint8" else 3000)).astype(dtype) for k in range(4)])
    bands = bands[:count]
    if kind == "float32 nan":
        bands[0, 20:30, 40:90] = np.nan
    if kind == "alpha":
        bands[3] = 255
        bands[:, :20] = 0
    if kind == "flat":
        bands[:] = 7
        bands[0, 3, 5:9] = 9, 8, 9, 8
    path = tmp_path / "image.tif"
    told = {"nodata": 601} if kind == "uint16 bands" else {}
    shape = {"tiled": True, "blockxsize": 32, "blockysize": 32} if kind == "uint8 rgb" else {}
    with rasterio.open(path, "w", driver="GTiff", height=SIZE[0], width=SIZE[1], count=count, dtype=dtype, **told,
                       **shape) as file:  # fmt: skip
        if kind == "palette":
            file.write_colormap(1, {k: (k, 255 - k, k // 2, 0 if k == 90 else 255) for k in range(256)})
        file.write(bands)
    whole, lazy = read_image(path), read_image(path, windowed=True)
    assert isinstance(whole.pixels, np.ndarray) and isinstance(lazy.pixels, Windowed)
    assert (lazy.pixels.shape, lazy.pixels.dtype) == (whole.pixels.shape, whole.pixels.dtype)
    np.testing.assert_array_equal(np.asarray(lazy.pixels), whole.pixels)
    np.testing.assert_array_equal(lazy.mask, whole.mask)
    assert (lazy.profile, lazy.bands) == (whole.profile, whole.bands)
    assert told_modality(lazy, "auto") == told_modality(whole, "auto")
    assert suspected_fill(lazy) == suspected_fill(whole)
    for modality in ("optical", "sar"):
        np.testing.assert_array_equal(to_grey8(lazy, modality), to_grey8(whole, modality))
    np.testing.assert_array_equal(to_rgb8(lazy), to_rgb8(whole))
    np.testing.assert_array_equal(to_rgb8(lazy, 4), to_rgb8(whole, 4))


@pytest.mark.parametrize("how", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("matrix", [TURNED, BENT, np.diag([2.317, 2.913, 1.0])])
def test_blocks_of_a_resampled_image_are_those_of_the_whole(tmp_path, small_windows, monkeypatch, how, matrix):
    rasterio = pytest.importorskip("rasterio")
    bands = np.stack([(values(300, 280, k) * 60_000).astype(np.uint16) for k in range(2)])
    bands[:, 60:75, 50:200] = 0
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=300, width=280, count=2, dtype="uint16",
                       nodata=0) as file:  # fmt: skip
        file.write(bands)
    lazy, whole = read_image(tmp_path / "a.tif", windowed=True), read_image(tmp_path / "a.tif")
    found, valid, nodata = resampled(lazy, Transform(matrix), SIZE, how)
    monkeypatch.setattr(resampling, "BLOCK", 4096)
    expected, valid_whole, _ = resampled(whole, Transform(matrix), SIZE, how)
    assert nodata == 0 and 0.2 < valid.mean() < 1
    assert (valid != valid_whole).mean() < 0.002  # a coordinate's last bit
    both = valid & valid_whole
    apart = np.abs(np.asarray(found)[both].astype(float) - np.asarray(expected)[both])
    assert np.quantile(apart, 0.995) <= 64 and np.median(apart) <= 1  # of 60 000; cv2 counts 32nds of a pixel
    assert (np.asarray(found)[30:60, 40:99] != found[30:60, 40:99]).mean() < 0.02


@pytest.mark.parametrize(
    "way", [Transform(TURNED), Transform(BENT), bent_field()], ids=["matrix", "perspective", "field"]
)
def test_blocks_of_a_warp_are_those_of_the_whole(way):
    image, mask = values(90, 170), values(90, 170, 1) > 0.3
    warped, valid = warp_image(image, way, SIZE), valid_mask(mask, way, SIZE)
    for rows, columns in blocks(SIZE, 37):
        window = source_window(way, rows, columns, mask.shape, 3)
        if window is None:
            assert not valid[rows, columns].any()
            continue
        corner = window[1].start, window[0].start
        found, there = warp_block(image[window], mask[window], way, rows, columns, corner)
        assert (there == valid[rows, columns]).mean() > 0.99
        np.testing.assert_allclose(found[there], warped[rows, columns][there], atol=0.03)


def test_behind_the_horizon_there_is_nothing_and_before_it_all():
    way = Transform(np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 80, 0, 1]]))  # its horizon is at x = 80
    image, mask = values(200, 300), np.ones((200, 300), bool)
    warped, valid = warp_image(image, way, SIZE), valid_mask(mask, way, SIZE)
    assert 0.1 < valid.mean() < 0.6
    for rows, columns in blocks(SIZE, 64):
        window = source_window(way, rows, columns, mask.shape, 3)
        found, there = (np.zeros((1, 1)), np.zeros((1, 1), bool)) if window is None else warp_block(
            image[window], mask[window], way, rows, columns, (window[1].start, window[0].start)
        )  # fmt: skip
        assert there.sum() == pytest.approx(valid[rows, columns].sum(), abs=8)
        if there.any():
            both = there & valid[rows, columns]
            np.testing.assert_allclose(found[both], warped[rows, columns][both], atol=0.05)


def test_a_view_of_bytes_is_a_view_of_floats(monkeypatch):
    pixels = (values(400, 380) * 255).astype(np.uint8)
    mask = values(400, 380, 1) > 0.25
    bytes_, floats = (MaskedImage.of(p, mask, None, "image") for p in (pixels, pixels.astype(np.float32) / 255))
    assert bytes_.image.dtype == np.uint8 and floats.image.dtype == np.float32
    whole = [floats.reduced(111)[0], floats.warped(TURNED, SIZE), floats.warped(2.6 * TURNED, SIZE)]
    far = floats.warped(FAR, (40, 38))
    monkeypatch.setattr(views, "PART", 6000)
    parts = [bytes_.reduced(111)[0], bytes_.warped(TURNED, SIZE), bytes_.warped(2.6 * TURNED, SIZE)]
    for one, other in zip(whole, parts, strict=True):
        assert other.image.dtype == np.float32 and (one.mask != other.mask).mean() < 0.01
        assert np.abs(one.image - other.image)[one.mask & other.mask].max() < 0.03
    part = bytes_.warped(TURNED, SIZE, (slice(40, 90), slice(20, 131)))
    np.testing.assert_allclose(part.image, parts[1].image[40:90, 20:131], atol=0.03)
    assert (bytes_.shown(TURNED, SIZE, (slice(40, 90), slice(20, 131))) != part.mask).mean() < 0.005
    np.testing.assert_allclose(bytes_.warped(FAR, (40, 38)).image, far.image, atol=0.03)


def test_a_much_finer_image_is_averaged_and_keeps_its_place():
    y, x = np.mgrid[:900, :900]
    ramp = ((x + 2 * y) / 2700).astype(np.float32)
    noisy = (ramp + np.random.default_rng(0).normal(0, 0.2, ramp.shape)).astype(np.float32)
    mask = np.ones(ramp.shape, bool)
    mask[300:400, 200:500] = False
    view = MaskedImage.of(noisy, mask, None, "image").warped(FAR, (90, 90))
    rows, columns = np.nonzero(view.mask)
    there = Transform(FAR)(np.stack([columns, rows], 1))
    error = view.image[view.mask] - there @ [1, 2] / 2700
    assert abs(error.mean()) < 1e-3 and error.std() < 0.03  # of 0.2, over some 80 pixels
    assert 0.7 < view.mask.mean() < 0.98


def test_strips_average_as_the_whole_does(monkeypatch):
    image = values(301, 211)
    whole = cv2.resize(image, (50, 77), interpolation=cv2.INTER_AREA)
    monkeypatch.setattr(views, "PART", 2000)
    np.testing.assert_allclose(shrunk(image, (50, 77)), whole, atol=1e-6)


def test_bytes_on_another_grid_stay_bytes(small_windows):
    pixels, mask = (values(260, 240) * 255).astype(np.uint8), values(260, 240, 1) > 0.2
    bytes_, floats = (MaskedImage.of(p, mask, None, "image") for p in (pixels, pixels.astype(np.float32) / 255))
    for matrix in (TURNED, np.diag([2.2, 2.6, 1.0])):
        one, other = (resample(view, Transform(matrix), (90, 80)) for view in (bytes_, floats))
        assert one.image.dtype == np.uint8
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_allclose(one.image / 255, other.image, atol=0.51 / 255)


def test_thumbnails_of_a_large_pair_show_what_the_pair_shows(tmp_path, monkeypatch):
    from kornia_tar.outputs import thumbnails
    from kornia_tar.raster import Raster

    mask = np.ones((400, 300), bool)
    smooth = [cv2.GaussianBlur(values(400, 300, k), (0, 0), 4) for k in (0, 1)]
    pair = [Raster((image * 255).astype(np.uint8), mask, None, tmp_path) for image in smooth]
    grey1 = to_grey8(pair[1], None)
    way = Transform(TURNED, DisplacementField.over((400, 300), 60, lambda at: 4 * np.sin(at / 40)))
    whole = Thumbnails.of(*pair, grey1)
    assert whole.step == 1 and whole.image1 is grey1
    image, valid = whole.warped(way)
    np.testing.assert_array_equal(image, warp_image(grey1, way, (400, 300)))
    monkeypatch.setattr(thumbnails, "LONGEST", 150)
    small = Thumbnails.of(*pair, grey1)
    assert small.step == 3 and small.image0.shape == (133, 100, 3)
    np.testing.assert_allclose(small.points([[1, 1], [4, 7]]), [[0, 0], [1, 2]], atol=1e-12)
    image3, valid3 = small.warped(way)
    expected = shrunk(image[:399], (100, 133)) * 255
    inside = (shrunk(valid[:399], (100, 133)) > 0.999) & valid3
    assert inside.mean() > 0.4 and np.abs(image3 - expected)[inside].mean() < 4
