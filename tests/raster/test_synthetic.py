"""The synthetic scene is the same every time, aligned, and true to its matrix."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kornia_tar import geometry
from kornia_tar.raster.synthetic import demo_pair, draw_scene


@pytest.fixture(scope="module")
def scene():
    return draw_scene(seed=4, size=384)


def test_equal_seeds_give_equal_pixels(scene):
    again, other = draw_scene(seed=4, size=384), draw_scene(seed=5, size=384)
    np.testing.assert_array_equal(scene.optical, again.optical)
    np.testing.assert_array_equal(scene.sar, again.sar)
    assert (scene.sar != other.sar).mean() > 0.5


def test_shapes_and_contrast(scene):
    assert scene.optical.shape == (384, 384, 3) and scene.optical.dtype == np.uint8
    assert scene.sar.shape == (384, 384) and scene.sar.dtype == np.uint8
    assert scene.optical.std() > 15 and scene.sar.std() > 30


def test_edges_of_the_two_renderings_lie_on_each_other(scene):
    """Gradient energy agrees best at zero shift, though the grey values do not agree."""

    def energy(image: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2.5)
        return np.log1p(np.hypot(*np.gradient(smooth)))

    optical, sar = energy(cv2.cvtColor(scene.optical, cv2.COLOR_RGB2GRAY)), energy(scene.sar)
    centre = optical[30:-30, 30:-30]
    score = cv2.matchTemplate(sar, centre, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(score.argmax(), score.shape)
    assert abs(y - 30) <= 2 and abs(x - 30) <= 2 and score.max() > 0.2


def test_pair_follows_its_matrix():
    optical, sar, truth = demo_pair(0)
    assert optical.shape == (512, 512, 3) and sar.shape == (512, 512) and (sar[[0, -1]] > 0).mean() > 0.8
    d = geometry.decompose(truth, at=(255.5, 255.5))
    assert 20 <= abs(d.rotation_degrees) <= 30 and d.scale == pytest.approx(1.15) and d.perspective == 0
    assert max(map(abs, d.translation)) <= 25
    # Back in the optical frame, the radar image is the aligned one again, up to being resampled twice.
    aligned = draw_scene(0, 784).sar[136:-136, 136:-136]
    back = geometry.warp_image(sar, truth, (512, 512))
    valid = geometry.valid_mask(np.ones(sar.shape, bool), truth, (512, 512))
    assert valid.mean() > 0.5
    assert np.corrcoef(back[valid], aligned[valid])[0, 1] > 0.95
