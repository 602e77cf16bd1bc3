"""Windows lie where the residuals say, apart, and on ground that both images show."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from kornia_tar.geometry import PointMatches, transform_points
from kornia_tar.outputs.windows import MAX_MAGNIFY, SHOWN, find_windows, in_blocks
from kornia_tar.registration.acceptance import Witnesses
from kornia_tar.registration.held_out import HeldOut
from kornia_tar.registration.result import Registration

MATRIX = np.array([[1.02, 0.05, 6.0], [-0.05, 1.02, -3.0], [0, 0, 1]])
rng = np.random.default_rng(0)


def outcome(size: tuple[int, int], error_of_x, n: int = 4000, held: HeldOut | None = None) -> Registration:
    """Tie points all over image0, whose residual in px is a function of their place along x, 0 to 1."""
    points0 = rng.uniform((0, 0), size[::-1], (n, 2))
    turn = rng.uniform(0, 2 * np.pi, n)
    off = error_of_x(points0[:, 0] / size[1])[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    matches = PointMatches(points0, transform_points(MATRIX, points0) + off, np.ones(n), np.ones(n))
    return Registration(
        True, (), MATRIX, "affine", matches, np.ones(n, bool), 0, 1.0, 0.4, 0.3, 0.2, 0.99, Witnesses.none(),
        held_out=held,
    )  # fmt: skip


def held_out(size: tuple[int, int], errors: np.ndarray) -> HeldOut:
    rows, columns = errors.shape
    y, x = np.mgrid[:rows, :columns]
    places = (np.stack([x, y], -1) + 0.5) / (columns, rows) * size[::-1] - 0.5
    return HeldOut(int(np.isfinite(errors).sum()), 1, 1, 1, 1, np.stack([errors, 0 * errors], -1), places)


def boxes(windows):
    return [(w.rows.start, w.rows.stop, w.columns.start, w.columns.stop) for w in windows]


def apart(windows) -> bool:
    return all(
        a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]
        for a, b in itertools.combinations(boxes(windows), 2)
    )


@pytest.mark.parametrize("size", [(1500, 2000), (512, 512), (300, 2000)])
def test_by_tie_points(size):
    windows = find_windows(outcome(size, lambda x: 0.2 + 3 * x), np.ones(size, bool))
    assert [w.name for w in windows] == ["best", "middling", "worst"] and apart(windows)
    best, middling, worst = (w.middle[0] / size[1] for w in windows)
    assert best < 0.3 < middling < 0.7 < worst
    for window in windows:
        assert window.points >= 4 and "tie points" in window.measure
        assert window.error == pytest.approx(0.2 + 3 * window.middle[0] / size[1], abs=0.5)


def test_by_held_out_blocks_where_they_tell_enough():
    size, errors = (800, 800), np.full((4, 4), 2.0)
    errors[0, 3], errors[3, 1], errors[2, 2] = 9.0, 0.1, np.nan
    windows = find_windows(outcome(size, lambda x: 3 - x, held=held_out(size, errors)), np.ones(size, bool))
    assert [w.error for w in windows] == [0.1, 2.0, 9.0] and "held-out" in windows[0].measure
    for window, (x, y) in zip(windows[::2], [(300, 700), (700, 100)], strict=True):
        assert abs(window.middle[0] - x) <= 101 and abs(window.middle[1] - y) <= 101
    few = held_out(size, np.where(np.eye(4, dtype=bool) & (np.arange(4) < 2), 1.0, np.nan))
    assert find_windows(outcome(size, lambda x: 3 - x, held=few), np.ones(size, bool))[0].points > 0


def test_only_ground_that_both_images_show():
    size = (600, 900)
    shown = np.zeros(size, bool)
    shown[150:450, 300:800] = True
    windows = find_windows(outcome(size, lambda x: 5 * (1 - x)), shown)
    assert len(windows) == 3 and apart(windows)
    assert all(shown[w.rows, w.columns].mean() >= 0.95 for w in windows)
    assert windows[0].middle[0] > windows[1].middle[0] > windows[2].middle[0]
    assert find_windows(outcome(size, lambda x: x), np.zeros(size, bool)) == []


@pytest.mark.parametrize("size", [(2400, 4000), (512, 512), (64, 64), (40, 900), (900, 40), (33, 33)])
def test_one_to_one_where_there_is_room_else_magnified(size):
    windows = find_windows(outcome(size, lambda x: x), np.ones(size, bool))
    assert windows and apart(windows)
    assert windows[0].magnify == {4000: 1, 512: 2}.get(size[1], windows[0].magnify) <= MAX_MAGNIFY
    for window in windows:
        height, width = window.rows.stop - window.rows.start, window.columns.stop - window.columns.start
        assert height * window.magnify <= SHOWN[0] and width * window.magnify <= SHOWN[1]
        assert window.rows.start >= 0 and window.rows.stop <= size[0]
        assert window.columns.start >= 0 and window.columns.stop <= size[1]


def test_none_without_a_transform_or_anything_that_tells():
    found, all_ = outcome((200, 200), lambda x: x), np.ones((200, 200), bool)
    assert find_windows(replace(found, matrix=None), all_) == []
    assert find_windows(replace(found, matches=PointMatches.empty(), inliers=np.zeros(0, bool)), all_) == []


def test_a_window_cuts_the_same_place_out_of_both():
    size = (512, 512)
    window = find_windows(outcome(size, lambda x: x), np.ones(size, bool))[2]
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    one, other, board = window.cut(image, 255 - image, np.ones(size, bool))
    assert (one == image[window.rows, window.columns]).all() and (other == 255 - one).all()
    assert ((board == one).all(-1) | (board == other).all(-1)).all() and not (board == one).all()
    assert (window.cut(image, 255 - image, np.zeros(size, bool))[2] == one).all()


def test_blocks_hold_their_points():
    points = np.array([[0.0, 0], [9, 9], [10, 0], [-0.4, 3], [25, 25]])
    assert sorted(sorted(rows.tolist()) for rows in in_blocks(points, (10, 10), 1)) == [[0, 1, 3], [2], [4]]
    assert [sorted(rows.tolist()) for rows in in_blocks(points, (10, 10), 2)] == [[0, 1, 3]]
    assert in_blocks(np.zeros((0, 2)), (10, 10), 1) == []
