"""Georeferences: pixels to the map and back, in every form that files have, and between two files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kornia_tar import raster as r
from kornia_tar.raster.georeference import Georeference, metres, pixel_map, reproject
from kornia_tar.raster.nodata import undeclared_fill
from kornia_tar.raster.resample import resample, smooth_transform
from kornia_tar.raster.view import MaskedImage

rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")
from rasterio import Affine  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.rpc import RPC  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

UTM, LONLAT = "EPSG:32632", "EPSG:4326"
GRID = from_origin(500_000, 4_600_000, 10, 10)
SIZE = (200, 300)
POINTS = np.array([[0.0, 0], [299, 0], [299, 199], [0, 199], [17.25, 140.5]])
ROTATED = Affine.translation(5e5, 4.6e6) * Affine.rotation(23) * Affine.scale(10, -10)
MIRRORED = GRID * Affine.translation(300, 0) * Affine.scale(-1, 1)


def georeference(transform: Affine = GRID, crs: str = UTM, size: tuple[int, int] = SIZE) -> Georeference:
    return Georeference(r.GeoProfile(crs, transform), size)


def gcps(transform: Affine, step: int = 50) -> tuple[GroundControlPoint, ...]:
    """A grid of them, in degrees, of a UTM transform."""
    found = []
    for row in range(0, SIZE[0] + 1, step):
        for column in range(0, SIZE[1] + 1, step):
            lon, lat = reproject([transform * (column, row)], UTM, LONLAT)[0]
            found.append(GroundControlPoint(row=row, col=column, x=lon, y=lat, z=0))
    return tuple(found)


def rpcs() -> RPC:
    """Degrees that grow linearly from the middle of the image, at 100 m of height."""
    one, x, y = ([float(k == n) for k in range(20)] for n in (0, 1, 2))  # of GDAL's cubic in longitude, latitude
    return RPC(
        height_off=100, height_scale=1, lat_off=45.0, lat_scale=0.01, line_off=100, line_scale=100, line_den_coeff=one,
        line_num_coeff=[-v for v in y], long_off=9.0, long_scale=0.015, samp_off=150, samp_scale=150,
        samp_den_coeff=one, samp_num_coeff=x,
    )  # fmt: skip


FORMS = {
    "transform": georeference(),
    "south-up": georeference(Affine(10, 0, 5e5, 0, 10, 4.59e6)),
    "rotated": georeference(ROTATED),
    "GCPs": Georeference(r.GeoProfile(LONLAT, None, gcps=gcps(MIRRORED)), SIZE),
    "RPCs": Georeference(r.GeoProfile(None, None, rpcs=rpcs()), SIZE),
}


@pytest.mark.parametrize("form", FORMS)
def test_pixels_go_to_the_map_and_back(form):
    found = FORMS[form]
    assert np.abs(found.from_map(found.to_map(POINTS)) - POINTS).max() < 1e-3


def test_the_corner_of_the_first_pixel_is_the_transform_s_origin():
    np.testing.assert_allclose(
        georeference().to_map([[-0.5, -0.5], [0, 0]]), [[500_000, 4_600_000], [500_005, 4_599_995]]
    )
    found = FORMS["GCPs"].to_lonlat([[-0.5, -0.5]])
    np.testing.assert_allclose(found, reproject([MIRRORED * (0, 0)], UTM, LONLAT), atol=1e-8)
    np.testing.assert_allclose(FORMS["RPCs"].to_map([[149.5, 99.5]]), [[9.0, 45.0]], atol=1e-4)  # half a pixel: 5e-5°


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (georeference(GRID * Affine.translation(12, -7)), POINTS - [12, -7]),
        (georeference(GRID * Affine.scale(4)), (POINTS + 0.5) / 4 - 0.5),
        (FORMS["south-up"], POINTS * [1, -1] + [0, 4_600_000 / 10 - 4_590_000 / 10 - 1]),
        (FORMS["GCPs"], POINTS * [-1, 1] + [299, 0]),
    ],
)
def test_what_two_georeferences_claim_is_the_map_between_their_pixels(other, expected):
    np.testing.assert_allclose(pixel_map(georeference(), other)(POINTS), expected, atol=2e-3)


def test_other_systems_and_longitudes_counted_otherwise_meet():
    degrees = 1 / 11_132
    corner = reproject([[500_000, 4_600_000]], UTM, LONLAT)[0]
    for turn in (0, 360):
        other = georeference(from_origin(corner[0] + turn, corner[1], degrees, degrees), LONLAT)
        found = pixel_map(georeference(), other)(POINTS)
        lonlat = georeference().to_lonlat(POINTS)
        expected = (lonlat - corner) / [degrees, -degrees] - 0.5
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_distances_are_metres_on_the_ground():
    np.testing.assert_allclose(georeference().ground_distance(), [10, 10], rtol=5e-4)
    latitude = 60.0
    mercator = reproject([[9.0, latitude]], LONLAT, "EPSG:3857")[0]
    found = georeference(from_origin(*mercator, 20, 20), "EPSG:3857").ground_distance()
    np.testing.assert_allclose(found, [10, 10], rtol=8e-3)  # half of what its units say
    plain = georeference(from_origin(9, 60, 1e-4, 1e-4), LONLAT).ground_distance()
    np.testing.assert_allclose(plain, [5.58, 11.14], rtol=1e-3)


def test_metres_between_longitudes_and_latitudes():
    at = [[9.0, 41.55]]
    east, north = metres(georeference().to_lonlat([[0, 0]]), georeference().to_lonlat([[300, -200]]))[0]
    assert east == pytest.approx(3000, rel=1e-3) and north == pytest.approx(2000, rel=1e-3)
    np.testing.assert_allclose(metres([[179.999, 0]], [[-179.999, 0]]), [[222.6, 0]], atol=0.1)
    np.testing.assert_array_equal(metres(at, at), [[0, 0]])


def test_points_of_no_map_are_nan_and_do_not_take_the_others_with_them():
    found = reproject([[9.0, 45.0], [200.0, 95.0], [np.inf, 0]], LONLAT, UTM)
    assert np.isfinite(found[0]).all() and np.isnan(found[1:]).all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_places_beyond_all_numbers_are_not_finite_and_warn_of_nothing():
    found = georeference(Affine(1e-3, 0, 5e5, 0, -1e-3, 4.6e6)).from_map([[1e308, 1e308], [5e5, 4.6e6]])
    assert not np.isfinite(found[0]).any() and np.isfinite(found[1]).all()


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (r.GeoProfile(None, Affine.identity(), -9999), "has no georeference"),
        (r.GeoProfile(None, GRID), "names no coordinate reference system"),
        (r.GeoProfile(LONLAT, None, gcps=gcps(GRID)[:2]), "has 2 GCPs"),
        (r.GeoProfile(LONLAT, from_origin(500_000, 4_600_000, 10, 10)), "no longitude and latitude"),
        (r.GeoProfile('LOCAL_CS["site",UNIT["metre",1]]', GRID), "no longitude and latitude"),
    ],
)
def test_a_georeference_that_cannot_be_used_says_why(profile, says):
    with pytest.raises(ValueError, match=says):
        Georeference(profile, SIZE)


def test_files_keep_what_they_say_of_where_they_lie(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, SIZE, np.uint8)
    for name in ("rotated", "GCPs", "RPCs"):
        path = tmp_path / f"{name}.tif"
        r.write_image(path, pixels, FORMS[name].profile)
        back = Georeference.of(r.read_image(path))
        assert back.kind == FORMS[name].kind and back.size == SIZE
        np.testing.assert_allclose(back.to_map(POINTS), FORMS[name].to_map(POINTS), atol=1e-6)
        again = tmp_path / f"{name}.again.tif"
        r.write_image(again, pixels, r.read_image(path).profile)
        np.testing.assert_allclose(Georeference.of(r.read_image(again)).to_map(POINTS), back.to_map(POINTS), atol=1e-9)


def test_a_world_file_is_read(tmp_path):
    r.write_image(tmp_path / "a.tif", np.zeros(SIZE, np.uint8))
    centre = ROTATED * (0.5, 0.5)
    numbers = (ROTATED.a, ROTATED.d, ROTATED.b, ROTATED.e, *centre)
    (tmp_path / "a.tfw").write_text("\n".join(map(repr, numbers)) + "\n")
    profile = r.read_image(tmp_path / "a.tif").profile
    assert profile.transform.almost_equals(ROTATED) and profile.kind == "transform"


def wave(size: tuple[int, int], period: float) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return (0.5 + 0.5 * np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)).astype(np.float32)


def view(image: np.ndarray, mask: np.ndarray | None = None) -> MaskedImage:
    return MaskedImage.of(image, mask, None, "image")


@pytest.mark.parametrize("factor", [2.0, 5.0, 8.0])
def test_a_finer_image_is_averaged_where_it_should_be_and_keeps_its_place(factor):
    size = 800, 640
    slow, fast = wave(size, 40 * factor), (np.indices(size).sum(0) % 2).astype(np.float32)
    out = tuple(int(side / factor) for side in size)
    grow = lambda p: (p + 0.5) * factor - 0.5  # noqa: E731
    small = resample(view(slow), grow, out)
    y, x = np.mgrid[: out[0], : out[1]]
    at = grow(np.stack([x, y], -1).astype(float))
    expected = 0.5 + 0.5 * np.prod(np.sin(2 * np.pi * at / (40 * factor)), axis=-1)
    inner = (slice(4, -4),) * 2
    assert np.abs(small.image - expected)[inner].max() < 0.03 and small.mask[inner].all()
    assert np.abs(resample(view(fast), grow, out).image - 0.5)[inner].max() < 0.15  # no moiré


def test_resampling_reads_a_window_and_lets_nothing_missing_bleed():
    image, mask = wave((600, 600), 80), np.ones((600, 600), bool)
    mask[:, :300], image[:, :300] = False, 0
    turned = lambda p: p[:, ::-1] * [3, -3] + [200, 500]  # noqa: E731
    small = resample(view(image, mask), turned, (120, 130))
    y, x = np.mgrid[:120, :130]
    there = turned(np.stack([x.ravel(), y.ravel()], 1)).reshape(120, 130, 2)
    inside = (there[..., 0] > 305) & (there >= 5).all(-1) & (there <= 594).all(-1)
    expected = 0.5 + 0.5 * np.prod(np.sin(2 * np.pi * there / 80), axis=-1)
    assert small.mask[inside].all() and not small.mask[there[..., 0] < 297].any()
    assert np.abs(small.image - expected)[inside].max() < 0.06
    assert not resample(view(image), lambda p: p + 5000, (64, 64)).mask.any()


def test_a_map_between_projections_is_described_to_a_hundredth_of_a_pixel():
    first = georeference(size=(4000, 4000))
    corner = reproject([[500_000, 4_600_000]], UTM, LONLAT)[0]
    there = pixel_map(first, georeference(from_origin(*corner, 1e-4, 1e-4), LONLAT, (4000, 4000)))
    points = np.random.default_rng(0).uniform(0, 3999, (2000, 2))
    found = smooth_transform(there, first.size)
    assert np.abs(found(points) - there(points)).max() < 0.01 and found.field is not None
    assert np.abs(found.inverse_points(found(points)) - points).max() < 0.01


def as_raster(pixels: np.ndarray) -> r.Raster:
    return r.Raster(pixels, np.ones(pixels.shape[:2], bool), None, Path("memory"))


@pytest.mark.parametrize("value", [-9999.0, -32768.0, float(np.finfo(np.float32).min), 0.0])
def test_an_undeclared_fill_value_is_suspected(value):
    decibels = np.random.default_rng(0).normal(-12, 4, (120, 160)).astype(np.float32)
    assert r.suspected_fill(as_raster(decibels)) is None
    decibels[:, :20] = np.float32(value)
    found = r.suspected_fill(
        as_raster(np.minimum(decibels, -0.5) if value < 0 else np.where(decibels < 0, decibels, 0))
    )
    assert found is not None and found[0] == np.float32(value) and found[1] >= 0.125


def test_saturated_pixels_all_over_are_no_fill_value():
    rng = np.random.default_rng(0)
    stretched = np.clip(rng.normal(128, 70, (200, 200)), 0, 255).astype(np.uint8)
    assert (stretched == 0).mean() > 0.02 and r.suspected_fill(as_raster(stretched)) is None
    stretched[:, :30] = 0
    assert r.suspected_fill(as_raster(stretched))[0] == 0
    assert r.suspected_fill(as_raster(np.zeros((64, 64), np.uint8))) is None


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("int32", -(2**31), "-2147483648"), ("uint32", 2**32 - 1, "4294967295"), ("int16", -9999, "-9999"),
        ("float32", -3.4028235e38, "-3.4028235e+38"), ("float32", 0.1, "0.1"),
        ("float64", -1 / 3, "-0.3333333333333333"),
    ],
)  # fmt: skip
def test_the_value_that_is_suggested_masks_what_it_should(tmp_path, dtype, value, told):
    pixels = np.random.default_rng(0).normal(100, 5, (60, 80)).astype(dtype)
    pixels[:, :20] = value
    r.write_image(tmp_path / "a.tif", pixels, r.GeoProfile(UTM, GRID))
    line = undeclared_fill(r.read_image(tmp_path / "a.tif"), "--nodata")
    assert "25.0% of the pixels are exactly" in line
    suggested = line.partition("--nodata=")[2]
    back = r.read_image(tmp_path / "a.tif", nodata=float(suggested))
    assert np.array_equal(back.mask, np.arange(80) >= np.full((60, 1), 20)) and undeclared_fill(back, "") is None
    assert suggested == told


def test_a_told_nodata_value_is_masked_and_kept(tmp_path):
    decibels = np.random.default_rng(0).normal(-12, 4, (60, 80)).astype(np.float32)
    decibels[:, :20] = np.finfo(np.float32).min
    r.write_image(tmp_path / "a.tif", decibels, r.GeoProfile(UTM, GRID))
    back = r.read_image(tmp_path / "a.tif", nodata=-3.4e38)
    assert back.mask.mean() == 0.75 and back.profile.nodata == -3.4e38 and r.suspected_fill(back) is None
    r.write_image(tmp_path / "b.tif", decibels, r.GeoProfile(UTM, GRID, -3.4e38))  # a tag of fewer digits
    assert r.read_image(tmp_path / "b.tif").mask.mean() == 0.75
    r.write_image(tmp_path / "c.png", np.where(decibels < -1000, 7, 100).astype(np.uint8))
    assert r.read_image(tmp_path / "c.png", nodata=7).mask.mean() == 0.75
    with pytest.raises(ValueError, match=r"c\.png: holds uint8, which never is -9999"):
        r.read_image(tmp_path / "c.png", nodata=-9999)
