"""Verification of pairs whose geometry is known, and the database it goes into."""

from __future__ import annotations

import numpy as np
import pytest

from hloc_plugin.database import write_database
from hloc_plugin.pipeline import verify_files
from hloc_plugin.verification import sampson, verify
from kornia_tar.geometry import PointMatches, corner_error, transform_points
from kornia_tar.raster import write_image
from kornia_tar.registration import VerificationConfig

pycolmap = pytest.importorskip("pycolmap")

SIZE = (240, 320)
AFFINE = np.array([[0.9, -0.3, 60.0], [0.3, 0.9, -20.0], [0, 0, 1]])
HOMOGRAPHY = np.array([[0.95, -0.1, 20.0], [0.12, 1.0, -5.0], [2e-4, -1e-4, 1]])
MODELS = ("affine", "homography", "fundamental", "two-view")


def planar_matches(matrix, seed=0, good=300, bad=300, noise=0.5):
    rng = np.random.default_rng(seed)
    points0 = rng.uniform(0, (SIZE[1], SIZE[0]), (good + bad, 2))
    points1 = transform_points(matrix, points0) + rng.normal(0, noise, points0.shape)
    points1[good:] = rng.uniform(0, (SIZE[1], SIZE[0]), (bad, 2))
    return points0, points1


def views_of_depth(seed=0, good=300, bad=150, noise=0.3):
    """Matches of two pinhole views of scattered points, and the true fundamental matrix."""
    rng = np.random.default_rng(seed)
    intrinsics = np.array([[384.0, 0, 159.5], [0, 384, 119.5], [0, 0, 1]])
    angle, baseline = 0.15, np.array([0.8, 0.1, 0.1])
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    depth = rng.uniform(3, 8, good)
    pixels = rng.uniform((20, 20), (300, 220), (good, 2))
    scene = (np.column_stack([pixels, np.ones(good)]) @ np.linalg.inv(intrinsics).T) * depth[:, None]
    seen = (scene @ rotation.T - baseline) @ intrinsics.T
    points0 = np.vstack([pixels, rng.uniform((0, 0), SIZE[::-1], (bad, 2))])
    points1 = np.vstack([seen[:, :2] / seen[:, 2:], rng.uniform((0, 0), SIZE[::-1], (bad, 2))])
    cross = np.array([[0, -baseline[2], baseline[1]], [baseline[2], 0, -baseline[0]], [-baseline[1], baseline[0], 0]])
    inverse = np.linalg.inv(intrinsics)
    return points0, points1 + rng.normal(0, noise, points1.shape), inverse.T @ cross @ rotation @ inverse


@pytest.mark.parametrize(("model", "truth"), [("affine", AFFINE), ("homography", HOMOGRAPHY)])
def test_planar_models_are_refitted_on_the_inliers(model, truth):
    outcome = verify(*planar_matches(truth), SIZE, SIZE, model)
    assert outcome.accepted and outcome.config == "PLANAR" and outcome.planar
    assert corner_error(outcome.matrix, truth, SIZE) < 0.4
    assert outcome.inliers[:300].mean() > 0.97 and outcome.inliers[300:].mean() < 0.05
    assert 0.4 < outcome.rmse < 1.2


@pytest.mark.parametrize("model", ["fundamental", "two-view"])
def test_epipolar_models(model):
    points0, points1, truth = views_of_depth()
    outcome = verify(points0, points1, SIZE, SIZE, model)
    assert outcome.accepted and outcome.config == "UNCALIBRATED" and not outcome.planar
    assert outcome.inliers[:300].mean() > 0.97 and outcome.inliers[300:].mean() < 0.1
    assert np.median(sampson(outcome.matrix, points0[:300], points1[:300])) < 0.5
    assert np.median(sampson(truth, points0[:300], points1[:300])) < 0.5  # the convention: x1ᵀ F x0


def test_two_view_of_a_plane_is_a_homography():
    outcome = verify(*planar_matches(HOMOGRAPHY), SIZE, SIZE, "two-view")
    assert outcome.accepted and outcome.planar and outcome.config.startswith("PLANAR")
    assert corner_error(outcome.matrix, HOMOGRAPHY, SIZE) < 0.4


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", [0, 2, 7, 400])
def test_matches_at_random_are_rejected(model, count):
    outcome = verify(*planar_matches(AFFINE, good=0, bad=count), SIZE, SIZE, model)
    assert not outcome.accepted and outcome.config == "DEGENERATE" and outcome.reasons
    assert outcome.inliers.shape == (count,)


def test_implausible_transforms_are_rejected():
    mirrored = verify(*planar_matches(np.array([[-1.0, 0, 300], [0, 1, 0], [0, 0, 1]])), SIZE, SIZE)
    assert any("mirrors" in reason for reason in mirrored.reasons)
    cramped0, cramped1 = planar_matches(AFFINE)
    corner = verify(cramped0 / 8, transform_points(AFFINE, cramped0 / 8), SIZE, SIZE)
    assert any("cover" in reason for reason in corner.reasons)
    assert verify(cramped0, cramped1, SIZE, SIZE, config=VerificationConfig(min_inliers=1000)).reasons


@pytest.mark.parametrize("model", MODELS)
def test_equal_input_gives_the_equal_result(model):
    points = planar_matches(HOMOGRAPHY)
    one, two = (verify(*points, SIZE, SIZE, model) for _ in range(2))
    np.testing.assert_array_equal(one.matrix, two.matrix)
    np.testing.assert_array_equal(one.inliers, two.inliers)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="both must be"):
        verify(np.zeros((3, 2)), np.zeros((4, 2)), SIZE, SIZE)
    with pytest.raises(ValueError, match="model is 'essential'"):
        verify(np.zeros((3, 2)), np.zeros((3, 2)), SIZE, SIZE, "essential")
    with pytest.raises(ValueError, match="threshold is 0"):
        VerificationConfig(threshold=0)


@pytest.fixture
def images(tmp_path):
    """The order of the names is not that of the pairs, so that COLMAP turns one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_image(folder / name, np.zeros(SIZE, np.uint8))
    return folder


@pytest.mark.parametrize("pair", [("a.png", "b.png"), ("b.png", "a.png")])
def test_database_holds_what_was_verified(images, tmp_path, pair):
    points = planar_matches(AFFINE)
    keypoints = {name: p.astype(np.float32) for name, p in zip(pair, points, strict=True)}
    matches = {pair: np.repeat(np.arange(600)[:, None], 2, axis=1)}
    outcome = verify(*points, SIZE, SIZE)
    write_database(tmp_path / "d.db", images, keypoints, matches, {pair: outcome})
    assert not list(tmp_path.glob(".d.db*"))
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        assert set(ids) == set(pair)
        a, b = (ids[name] for name in pair)
        np.testing.assert_allclose(database.read_keypoints(a)[:, :2], keypoints[pair[0]] + 0.5)
        np.testing.assert_array_equal(database.read_matches(a, b), matches[pair])
        geometry = database.read_two_view_geometry(a, b)
    assert geometry.config == pycolmap.TwoViewGeometryConfiguration.PLANAR
    np.testing.assert_array_equal(geometry.inlier_matches, matches[pair][outcome.inliers])
    there = transform_points(geometry.H, points[0] + 0.5) - 0.5
    np.testing.assert_allclose(there, transform_points(outcome.matrix, points[0]), atol=1e-6)


def test_epipolar_geometry_enters_the_database_in_colmaps_pixels(images, tmp_path):
    pair = ("a.png", "b.png")
    *points, _ = views_of_depth()
    outcome = verify(*points, SIZE, SIZE, "fundamental")
    keypoints = {name: p.astype(np.float32) for name, p in zip(pair, points, strict=True)}
    matches = {pair: np.repeat(np.arange(len(points[0]))[:, None], 2, axis=1)}
    write_database(tmp_path / "d.db", images, keypoints, matches, {pair: outcome})
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        geometry = database.read_two_view_geometry(*(image.image_id for image in database.read_all_images()))
    assert geometry.config == pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
    there, here = sampson(geometry.F, points[0] + 0.5, points[1] + 0.5), sampson(outcome.matrix, *points)
    np.testing.assert_allclose(there, here, atol=1e-6)


def test_rejected_pairs_are_in_the_database_without_inliers(images, tmp_path):
    pair = ("a.png", "c.png")
    points = planar_matches(AFFINE, good=0, bad=50)
    keypoints = {name: p.astype(np.float32) for name, p in zip(pair, points, strict=True)}
    matches = {pair: np.repeat(np.arange(50)[:, None], 2, axis=1)}
    write_database(tmp_path / "d.db", images, keypoints, matches, {pair: verify(*points, SIZE, SIZE)})
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        ids = [image.image_id for image in database.read_all_images()]
        geometry = database.read_two_view_geometry(*ids)
        assert len(database.read_matches(*ids)) == 50
    assert geometry.config == pycolmap.TwoViewGeometryConfiguration.DEGENERATE and len(geometry.inlier_matches) == 0


def test_what_colmap_cannot_read_is_named(images, tmp_path):
    (images / "text.png").write_text("no image")
    empty = np.zeros((0, 2), np.float32)
    with pytest.raises(ValueError, match=r"text\.png: COLMAP cannot read it"):
        write_database(tmp_path / "d.db", images, {"a.png": empty, "text.png": empty}, {}, {})
    with pytest.raises(ValueError, match="camera mode is 'BEST'"):
        write_database(tmp_path / "d.db", images, {}, {}, {}, camera_mode="BEST")
    assert not (tmp_path / "d.db").exists()


def test_files_that_do_not_belong_together_are_named(images, tmp_path):
    from hloc_plugin.formats import write_features, write_matches

    none = PointMatches(*(np.zeros((1, 2), np.float32),) * 2, np.ones(1, np.float32))
    write_features(tmp_path / "f.h5", {n: (np.zeros((1, 2)), np.ones(1)) for n in ("a.png", "b.png")})
    write_matches(tmp_path / "m.h5", {("a.png", "b.png"): (none, np.array([[3, 0]]), np.ones(1, np.float32))})
    (tmp_path / "pairs.txt").write_text("a.png b.png\n")
    with pytest.raises(ValueError, match=r"names keypoints of a\.png"):
        verify_files(tmp_path / "pairs.txt", images, tmp_path / "f.h5", tmp_path / "m.h5", tmp_path / "out")
