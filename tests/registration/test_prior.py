"""The georeference as a prior: what two files claim is undone, the rest is found, and a wrong claim does no harm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import needs_weights, small_matcher

from kornia_tar import AlignmentConfig, Registrar, RegistrarConfig, SearchConfig, TARMatcher, register_georeferenced
from kornia_tar.raster import GeoProfile, Raster
from kornia_tar.raster.georeference import Georeference, reproject
from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.georeferenced.common_grid import CommonGrid

rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")
from rasterio import Affine  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

UTM = "EPSG:32632"
GRID = from_origin(500_000, 4_600_000, 10, 10)
SIDE = 256
QUICK = RegistrarConfig(
    search=SearchConfig(rotations=1, side=96, scales=(1.0,)), alignment=AlignmentConfig(tile=96, refinements=1)
)


def geo(transform: Affine = GRID, size: tuple[int, int] = (SIDE, SIDE), crs: str = UTM) -> Georeference:
    return Georeference(GeoProfile(crs, transform), size)


def raster(pixels: np.ndarray, profile: GeoProfile | None) -> Raster:
    return Raster(pixels, np.ones(pixels.shape[:2], bool), profile, Path("memory"))


def grid_points(size: tuple[int, int]) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, size[1] - 1, 9), np.linspace(0, size[0] - 1, 9))
    return np.stack([x.ravel(), y.ravel()], 1)


def test_images_of_one_grid_are_left_on_it():
    grid = CommonGrid.of(geo(), geo())
    assert grid.size == (SIDE, SIDE) and grid.share == 1 and grid.finer == pytest.approx(1)
    np.testing.assert_array_equal(grid.to_grid, np.eye(3))
    assert grid.radius == pytest.approx(500, rel=1e-3)  # 50 px


def test_a_chip_gets_its_surroundings_within_the_radius_and_no_more():
    whole, chip = geo(size=(2000, 2000)), geo(GRID * Affine.translation(900, 700), (200, 200))
    for first, second in ((whole, chip), (chip, whole)):
        grid = CommonGrid.of(first, second, radius=400)
        assert grid.size == (280, 280) and grid.share == pytest.approx(200 / 280, abs=0.01)
        corner = first.to_map(grid.to_first([[0, 0]]))[0]
        np.testing.assert_allclose(corner, geo().to_map([[860, 660]])[0], atol=1)


@pytest.mark.parametrize(("factor", "distance"), [(4, 20), (2, 20), (1.25, 10), (0.25, 10)])
def test_the_grid_s_ground_distance_suits_both_images(factor, distance):
    size = tuple(int(SIDE / factor) for _ in range(2))
    grid = CommonGrid.of(geo(), geo(GRID * Affine.scale(factor), size))
    assert grid.distance == pytest.approx(distance, rel=1e-3)
    assert grid.finer == pytest.approx(distance / 10 / factor, rel=0.01)
    points = grid_points(grid.size)
    np.testing.assert_allclose(grid.to_first(points), (points + 0.5) * distance / 10 - 0.5, atol=0.3)


def test_pixels_of_degrees_become_square():
    corner = reproject([[500_000, 6_700_000]], UTM, "EPSG:4326")[0]  # 60° north
    degrees = geo(from_origin(*corner, 1e-4, 1e-4), (300, 400), "EPSG:4326")
    grid = CommonGrid.of(degrees, geo(from_origin(500_000, 6_700_000, 8, 8)))
    assert grid.to_grid[0, 0] == pytest.approx(grid.to_grid[1, 1] / 2, rel=0.02)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (geo(GRID * Affine.translation(9000, 0)), "do not overlap: image1's middle lies 90.0 km from image0's"),
        (geo(GRID, crs="EPSG:32633"), "do not overlap"),
        (geo(GRID, crs="EPSG:32732"), "do not overlap"),
    ],
)
def test_other_ground_is_told_with_its_distance(other, says):
    with pytest.raises(ValueError, match=says):
        CommonGrid.of(geo(), other)


def test_the_georeferences_own_flip_and_scale_bring_the_images_onto_each_other():
    y, x = np.mgrid[:SIDE, :SIDE]
    image = (0.5 + 0.5 * np.sin(x / 9) * np.sin(y / 13)).astype(np.float32)
    flipped = geo(GRID * Affine.translation(SIDE, 0) * Affine.scale(-1, 1))
    grid = CommonGrid.of(geo(), flipped)
    a, b = grid.views(*(MaskedImage.of(i, None, None, "i") for i in (image, np.fliplr(image))))
    assert np.abs(a.image - b.image)[b.mask].max() < 1e-3 and b.mask.mean() > 0.97


def test_without_two_georeferences_nothing_changes():
    rng = np.random.default_rng(0)
    image0, image1 = (rng.random((96, 96)).astype(np.float32) for _ in range(2))
    registrar = Registrar(small_matcher(), QUICK)
    plain = registrar(image0, image1)
    for profiles, use, why in (
        ((None, GeoProfile(UTM, GRID)), True, "image0 has no georeference"),
        ((GeoProfile(UTM, GRID), GeoProfile(None, GRID)), True, "image1 has a georeference that names no coordinate"),
        ((GeoProfile(UTM, GRID),) * 2, False, "left aside"),
    ):
        rasters = [raster(i, p) for i, p in zip((image0, image1), profiles, strict=True)]
        found, search = register_georeferenced(registrar, *rasters, image0, image1, use=use)
        assert search.kind == "full" and why in search.why and search.radius is None
        assert found.log_likelihood_gain == plain.log_likelihood_gain and found.reasons == plain.reasons
        np.testing.assert_array_equal(found.matrix, plain.matrix)


def test_an_untrained_net_is_refused_by_both_searches_and_the_radius_must_be_positive():
    rng = np.random.default_rng(0)
    image0, image1 = (rng.random((96, 96)).astype(np.float32) for _ in range(2))
    rasters = [raster(i, GeoProfile(UTM, GRID)) for i in (image0, image1)]
    registrar = Registrar(small_matcher(), QUICK)
    found, search = register_georeferenced(registrar, *rasters, image0, image1, radius=300)
    assert (
        not found.registered
        and found.reasons
        and search.why == ("refused within 300 m of where the georeferences say, and without them")
    )
    for radius in (0, -5, np.inf, np.nan):
        with pytest.raises(ValueError, match="search radius"):
            register_georeferenced(registrar, *rasters, image0, image1, radius=radius)


@pytest.fixture(scope="module")
def registrar() -> Registrar:
    return Registrar(TARMatcher().eval().fuse())


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    drawn = draw_scene(11, 384)
    return drawn.optical, drawn.sar


def optical_of(scene: tuple[np.ndarray, np.ndarray], left: int = 0, side: int = SIDE) -> tuple[Raster, np.ndarray]:
    """A part of the optical image, with its georeference."""
    pixels = scene[0][left : left + side, left : left + side]
    grey = np.rint(pixels @ [0.299, 0.587, 0.114]).astype(np.uint8)
    return raster(pixels, GeoProfile(UTM, GRID * Affine.translation(left, left))), grey


def mean_error(found, truth) -> float:
    """px of image1, over the middle of image0."""
    points = grid_points((SIDE, SIDE))
    return float(np.linalg.norm(found.transform(points) - truth(points), axis=1).mean())


@needs_weights
def test_mirrored_gcps_in_degrees_that_are_off_are_undone(registrar, scene):
    first, grey0 = optical_of(scene)
    sar = np.ascontiguousarray(np.fliplr(scene[1][:SIDE, :SIDE]))
    mirrored = Affine.translation(90, -60) * GRID * Affine.translation(SIDE, 0) * Affine.scale(-1, 1)  # 108 m off
    gcps = []
    for row in range(0, SIDE + 1, 64):
        for column in range(0, SIDE + 1, 64):
            lon, lat = reproject([mirrored * (column, row)], UTM, "EPSG:4326")[0]
            gcps.append(GroundControlPoint(row=row, col=column, x=lon, y=lat, z=0))
    second = raster(sar, GeoProfile("EPSG:4326", None, gcps=tuple(gcps)))
    found, search = register_georeferenced(registrar, first, second, grey0, sar)
    assert found.registered and search.kind == "georeference" and "within 500 m" in search.why
    assert found.matrix[0, 0] < -0.9 and all(check.passed for check in found.checks)
    assert {"mirrored", "shift_metres"} <= {check.name for check in found.checks}, "asked of what remains"
    assert mean_error(found, lambda p: p * [-1, 1] + [SIDE - 1, 0]) < 2
    rest = np.linalg.norm(found.transform(found.matches.points0) - found.matches.points1, axis=1)
    assert np.median(rest[found.inliers]) < 3 and found.inliers.sum() > 50


@needs_weights
def test_a_coarse_image_is_found_where_it_covers_a_part(registrar, scene):
    first, grey0 = optical_of(scene, side=384)
    sar = scene[1][64:320, 64:320].reshape(128, 2, 128, 2).mean((1, 3)).astype(np.uint8)
    second = raster(sar, GeoProfile(UTM, GRID * Affine.translation(64 + 5, 64 - 4) * Affine.scale(2)))
    found, search = register_georeferenced(registrar, first, second, grey0, sar)
    assert search.kind == "georeference"
    rest = np.linalg.norm(found.transform(found.matches.points0) - found.matches.points1, axis=1)
    assert np.median(rest[found.inliers]) < 2  # px of image1
    points = grid_points((SIDE, SIDE)) + 64
    truth = (points - 64 + 0.5) / 2 - 0.5
    assert np.linalg.norm(found.transform(points) - truth, axis=1).mean() < 1


@needs_weights
def test_a_wrong_georeference_ends_in_the_full_search(registrar, scene):
    first, grey0 = optical_of(scene)
    sar = scene[1][:SIDE, :SIDE]
    wrong = raster(sar, GeoProfile("EPSG:32633", GRID))  # the next zone
    found, search = register_georeferenced(registrar, first, wrong, grey0, sar)
    assert found.registered and search.kind == "full" and mean_error(found, lambda p: p) < 2
    assert "do not overlap" in search.why and search.radius is None


@needs_weights
@pytest.mark.slow
def test_what_lies_beyond_the_radius_is_refused_by_the_prior(registrar, scene):
    first, grey0 = optical_of(scene)
    sar = scene[1][:SIDE, :SIDE]
    off = replace(first.profile, transform=GRID * Affine.translation(40, 0))  # 400 m
    found, search = register_georeferenced(registrar, first, raster(sar, off), grey0, sar, radius=60)
    assert search.kind == "full" and "found without them" in search.why and mean_error(found, lambda p: p) < 2
