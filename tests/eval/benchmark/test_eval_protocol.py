import cv2
import numpy as np
import pytest
from toys import texture

from eval.benchmark import protocol
from eval.datasets import Sample
from kornia_tar.geometry import transform_points


@pytest.mark.parametrize("name", protocol.LEVELS)
def test_draws_stay_in_range(name):
    level, centre = protocol.LEVELS[name], (protocol.SIZE - 1) / 2
    for seed in range(200):
        matrix = level.draw(np.random.default_rng(seed))
        shift = transform_points(matrix, [[centre, centre]])[0] - centre
        assert np.abs(shift).max() <= level.translation * protocol.SIZE + 1e-9
        # At the centre the projective part is gone to first order but for its translation, which is undone here.
        jacobian = matrix[:2, :2] - np.outer(shift + centre, matrix[2, :2])
        jacobian /= matrix[2] @ [centre, centre, 1]
        scale = np.sqrt(np.linalg.det(jacobian))
        assert level.scale[0] - 1e-9 <= scale <= level.scale[1] + 1e-9
        assert abs(np.rad2deg(np.arctan2(jacobian[1, 0], jacobian[0, 0]))) <= level.rotation + 1e-9


def test_a_warp_depends_on_its_own_name_only():
    alone, among = protocol.draw_warps(["b"], "tar", 7), protocol.draw_warps(["c", "b", "a"], "tar", 7)
    assert np.array_equal(alone["b"], among["b"])
    assert not np.array_equal(among["a"], among["b"])
    assert not np.array_equal(protocol.draw_warps(["b"], "tar", 8)["b"], alone["b"])


def test_stored_warps_come_back_exactly(tmp_path):
    warps = protocol.draw_warps(["a", 'odd "name"'], "hard", 0)
    protocol.write_warps(protocol.warps_path("toy", "hard", tmp_path), "toy", "hard", 0, warps)
    again = protocol.read_warps("toy", "hard", tmp_path)
    assert list(again) == list(warps)
    assert all(np.array_equal(again[name], warps[name]) for name in warps)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.hard-level.json"]


@pytest.mark.parametrize("level", protocol.LEVELS)
def test_committed_warps_are_what_the_seed_draws(level):
    stored = protocol.read_warps("val-000", level)
    drawn = protocol.draw_warps(stored, level, 0)
    assert len(stored) == 565
    assert all(np.allclose(stored[name], drawn[name], rtol=1e-5) for name in stored)


def test_missing_or_broken_warps_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m eval warps"):
        protocol.read_warps("nowhere", "tar", tmp_path)
    protocol.warps_path("toy", "tar", tmp_path).write_text('{"warps": 3}')
    with pytest.raises(ValueError, match=r"toy\.tar-level\.json"):
        protocol.read_warps("toy", "tar", tmp_path)


@pytest.mark.parametrize("level", protocol.LEVELS)
def test_truth_says_where_a_point_of_image0_went(level):
    image = np.zeros((256, 256), np.uint8)
    point = np.array([140.0, 110.0])
    cv2.circle(image, (140, 110), 6, 255, -1)
    for seed in range(5):
        warp = protocol.LEVELS[level].draw(np.random.default_rng(seed))
        pair = protocol.make_pair(Sample("a", image, image), warp)
        y, x = np.indices(pair.image1.shape)
        weight = pair.image1 / pair.image1.sum()
        centroid = [(x * weight).sum(), (y * weight).sum()]
        assert np.allclose(centroid, transform_points(pair.truth, point)[0], atol=0.3)


def test_a_larger_image_is_cropped_a_small_one_filled():
    warp = np.diag([0.8, 0.8, 1.0])
    small, large = texture(0), texture(0, 512)
    filled = protocol.make_pair(Sample("a", small, small), warp)
    cropped = protocol.make_pair(Sample("a", large, large), warp)
    assert (filled.border, cropped.border) == ("fill", "crop")
    assert filled.image0.shape == cropped.image0.shape == cropped.image1.shape == (256, 256)
    # Same question: image1 is image0 seen through the truth, wherever image0 reaches.
    back = cv2.warpPerspective(cropped.image1, np.linalg.inv(cropped.truth), (256, 256))
    inner = np.s_[108:148, 108:148]
    assert np.corrcoef(back[inner].ravel(), cropped.image0[inner].ravel())[0, 1] > 0.98


def test_without_a_warp_the_sets_own_truth_stands():
    truth = protocol.translation(3, 4)
    pair = protocol.make_pair(Sample("a", texture(0), texture(1, 200), "infrared", truth), None)
    assert (pair.border, pair.hints) == ("none", {"modality0": "optical"})
    assert np.array_equal(pair.truth, truth)
    with pytest.raises(ValueError, match="no truth"):
        protocol.make_pair(Sample("a", texture(0), texture(1)), None)


def test_images_too_small_or_unequal_are_refused():
    with pytest.raises(ValueError, match=r"a: images are \(256, 256\) and \(200, 200\)"):
        protocol.make_pair(Sample("a", texture(0), texture(1, 200)), np.eye(3))
