"""The quicklook is one sheet for any shape of images and any number of matches."""

from __future__ import annotations

import numpy as np
import pytest

from kornia_tar.outputs.quicklook import draw_quicklook

rng = np.random.default_rng(0)


def sheet(shape0=(200, 300), shape1=(180, 150, 3), n=40, **options):
    optical, sar = (rng.integers(0, 255, shape, dtype=np.uint8) for shape in (shape0, shape1))
    registered = rng.integers(0, 255, shape0[:2], dtype=np.uint8)
    points0 = rng.uniform((0, 0), shape0[1::-1], (n, 2))
    points1 = rng.uniform((0, 0), shape1[1::-1], (n, 2))
    return draw_quicklook(
        optical, sar, registered, points0, points1, np.arange(n) % 3 > 0, ["Title", "more"], **options
    )


@pytest.mark.parametrize("shape0", [(200, 300), (64, 64, 3), (900, 40, 3), (40, 900)])
@pytest.mark.parametrize("shape1", [(180, 150, 3), (33, 700), (700, 33)])
def test_any_shapes_make_one_sheet(shape0, shape1):
    picture = sheet(shape0, shape1)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[1:] == (1348, 3)
    assert picture.shape[0] < 1600 and picture.std() > 10
    border = picture[[0, -1]]
    assert (border == border[0, 0]).all()  # clean margins


@pytest.mark.parametrize("n", [0, 1, 3000])
def test_any_number_of_matches(n):
    picture = sheet(n=n, confidence=rng.random(n), valid=np.zeros((200, 300), bool))
    assert picture.shape[1] == 1348


def test_matches_and_their_colours_show():
    flat = np.full((100, 100), 128, np.uint8)
    points = np.array([[20.0, 50], [80, 50]])

    def draw(inliers, confidence=None):
        return draw_quicklook(flat, flat, flat, points, points, inliers, confidence=confidence).astype(int)

    good, bad = draw([True, True]), draw([False, False])
    half = good.shape[0] // 2
    green_minus_red = [(p[half:, :, 1] - p[half:, :, 0]) for p in (good, bad)]
    assert green_minus_red[0].max() > 60 and green_minus_red[1].min() < -60
    assert not np.array_equal(good, draw([True, True], [0.1, 0.1]))


def test_what_the_georeferences_say_takes_the_place_of_pixel_on_pixel():
    optical, sar = np.full((100, 100), 128, np.uint8), np.zeros((100, 100), np.uint8)
    points = np.zeros((0, 2))

    def draw(**options):
        return draw_quicklook(optical, sar, optical, points, points, [], **options)

    moved = draw(before=(np.full((100, 100), 250, np.uint8), np.ones((100, 100), bool)))
    changed = (moved != draw()).any(-1).nonzero()
    assert moved[changed].astype(int)[..., 0].max() >= 240 and changed[1].max() < moved.shape[1] / 2


def test_wrong_input_is_named():
    flat = np.zeros((50, 60), np.uint8)
    none = np.zeros((0, 2))
    with pytest.raises(ValueError, match="same height and width"):
        draw_quicklook(flat, flat, flat.T, none, none, [])
    with pytest.raises(ValueError, match="uint8"):
        draw_quicklook(flat.astype(float), flat, flat, none, none, [])
    with pytest.raises(ValueError, match="rows"):
        draw_quicklook(flat, flat, flat, np.zeros((3, 2)), none, [])
