"""Lines between matched points."""

from __future__ import annotations

import numpy as np

from kornia_tar.outputs.drawing import draw_matches, paste, subsample


def test_ends_lie_on_the_pixels_that_match():
    canvas = np.zeros((120, 260, 3), np.uint8)
    on0 = paste(canvas, np.full((100, 100, 3), 10, np.uint8), (0, 20), 50)  # enlarged twice
    on1 = paste(canvas, np.full((100, 100, 3), 20, np.uint8), (160, 20), 100)
    assert (canvas[20:, :100] == 10).all() and (canvas[20:, 160:] == 20).all()
    np.testing.assert_allclose(on0([[0, 0], [49, 49]]), [[0.5, 20.5], [98.5, 118.5]])
    points0, points1, colours = [[20, 20], [5, 40]], [[60, 10], [10, 80]], [(255, 0, 0), (0, 255, 0)]
    picture = draw_matches(canvas, on0, on1, points0, points1, colours, joined=[True, False])
    assert (canvas[20:, :100] == 10).all()  # as it was
    assert (picture[60, 40] == (255, 0, 0)).all() and (picture[30, 220] == (255, 0, 0)).all()
    assert (picture[100, 10] == (0, 255, 0)).all() and (picture[100, 170] == (0, 255, 0)).all()
    between = picture[:, 110:150].reshape(-1, 3)
    assert (between == (255, 0, 0)).all(1).sum() + (between[:, 0] > 100).sum() > 30 and not between[:, 1].any()


def test_no_matches_and_paler_ones():
    canvas = np.full((60, 80, 3), 100, np.uint8)
    on = paste(canvas, canvas[:30, :30].copy(), (0, 0), 30)
    none = np.zeros((0, 2))
    np.testing.assert_array_equal(draw_matches(canvas, on, on, none, none, np.zeros((0, 3)), opacity=0.8), canvas)
    paler = draw_matches(canvas, on, on, [[10, 10]], [[20, 10]], (200, 0, 0), opacity=0.5)
    assert (paler[10, [10, 20]] == (150, 50, 50)).all()


def test_subsample_is_even():
    rows = np.arange(100, 200)
    assert subsample(rows, 3).tolist() == [100, 149, 199]
    np.testing.assert_array_equal(subsample(rows, 100), rows)
    np.testing.assert_array_equal(subsample(rows, 1000), rows)
    assert not len(subsample(rows[:0], 5))
