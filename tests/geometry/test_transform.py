"""Transform: a matrix and a smooth field, its inverse, its JSON, and warps through it."""

import json

import numpy as np
import pytest

from kornia_tar.geometry import DisplacementField, Transform, transform_points, valid_mask, warp_image

MATRIX = np.array([[1.1, -0.2, 12.0], [0.15, 0.95, -7.0], [0, 0, 1]])
SIZE = (90, 130)


def bend(points):
    x, y = np.asarray(points).T
    return transform_points(MATRIX, points) + np.stack([4 * np.sin(x / 40), 3 * np.cos(y / 30 + x / 80)], 1)


def grid(size, step=7):
    y, x = np.mgrid[0 : size[0] : step, 0 : size[1] : step]
    return np.stack([x.ravel(), y.ravel()], 1).astype(float)


def test_of_describes_a_smooth_map():
    transform = Transform.of(bend, SIZE, spacing=4)
    assert transform.field is not None
    points = grid(SIZE, 3)
    assert np.abs(transform(points) - bend(points)).max() < 0.02


def test_of_a_matrix_has_no_field():
    transform = Transform.of(lambda p: transform_points(MATRIX, p), SIZE)
    assert transform.field is None
    assert np.allclose(transform.matrix, MATRIX)


def test_of_refuses_what_is_not_defined_or_degenerate():
    with pytest.raises(ValueError, match="not defined"):
        Transform.of(lambda p: np.full_like(p, np.nan), SIZE)
    with pytest.raises(ValueError, match="degenerate"):
        Transform.of(lambda p: np.zeros_like(p), SIZE)


def test_inverse_goes_back():
    transform = Transform.of(bend, SIZE, spacing=4)
    points = grid(SIZE)
    assert np.abs(transform.inverse_points(transform(points)) - points).max() < 1e-3
    back = transform.inverse((110, 180))
    inside = transform(points)
    inside = inside[(inside > 0).all(1) & (inside < [179, 109]).all(1)]
    assert len(inside) > 100
    assert np.abs(transform(back(inside)) - inside).max() < 0.1  # it ends with a kink at image0's edge


def test_after_a_matrix():
    transform = Transform.of(bend, SIZE, spacing=4)
    first = np.array([[1, 0, 5.0], [0, 1, 3.0], [0, 0, 1]])
    joined = transform.after(first, (60, 80))
    points = grid((60, 80), 5)
    assert np.abs(joined(points) - transform(points + np.array([5, 3]))).max() < 0.02
    assert np.allclose(Transform(MATRIX).after(first, SIZE).matrix, MATRIX @ first)


def test_json_round_trip():
    transform = Transform.of(bend, SIZE, spacing=4)
    read = Transform.from_dict(json.loads(json.dumps(transform.to_dict())))
    assert np.abs(read(grid(SIZE)) - transform(grid(SIZE))).max() < 1e-3
    assert Transform.from_dict(Transform(MATRIX).to_dict()).field is None


@pytest.mark.parametrize(
    "values",
    [
        {}, {"matrix": [[1, 2], [3, 4]]}, {"matrix": "a"}, {"matrix": np.zeros((3, 3)).tolist()},
        {"matrix": np.full((3, 3), np.nan).tolist()}, {"matrix": MATRIX.tolist(), "field": {"origin": [0, 0]}},
        {"matrix": MATRIX.tolist(), "field": {"origin": [0, 0], "spacing": [0, 1], "shift": [[[0, 0]]]}},
        {"matrix": MATRIX.tolist(), "field": {"origin": [0, 0], "spacing": [1, 1], "shift": [[[0, 0, 0]]]}},
        {"matrix": MATRIX.tolist(), "field": {"origin": [0, 0], "spacing": [1, 1], "shift": [[[0, float("inf")]]]}},
    ],
)  # fmt: skip
def test_a_strange_file_is_refused(values):
    with pytest.raises(ValueError):
        Transform.from_dict(values)


def test_warp_through_a_field_shows_what_lies_there():
    y, x = np.mgrid[:110, :180]
    ramp = np.stack([x, y, x + y, x - y, x], -1).astype(np.float32)  # five bands: more than OpenCV takes at once
    transform = Transform.of(bend, SIZE, spacing=4)
    out = warp_image(ramp, transform, SIZE, fill=-9)
    points = grid(SIZE, 1)
    there = transform(points).reshape(*SIZE, 2)
    inside = ((there > 1) & (there < [178, 108])).all(-1)
    assert inside.sum() > 3000
    assert np.abs(out[..., 0] - there[..., 0])[inside].max() < 0.05
    assert np.abs(out[..., 4] - there[..., 0])[inside].max() < 0.05
    outside = ((there < -1) | (there > [180, 110])).any(-1)
    assert outside.any() and (out[outside] == -9).all()
    valid = valid_mask(np.ones((110, 180), bool), transform, SIZE)
    assert valid[inside].all() and not valid[outside].any()


def test_a_field_of_zeros_warps_as_its_matrix():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (700, 650), dtype=np.uint8)  # more than a block
    matrix = np.array([[1.0, 0.02, 3.25], [-0.02, 1.0, 8.5], [0, 0, 1]])
    field = DisplacementField((0, 0), (100, 100), np.zeros((2, 2, 2)))
    plain, through = (warp_image(image, t, (600, 640)) for t in (matrix, Transform(matrix, field)))
    difference = np.abs(plain.astype(int) - through)
    assert (difference > 8).mean() < 0.01  # OpenCV rounds positions to 1/32 px, in each function its own way


def test_there_and_back_by_another_is_the_step_between_them():
    first, second = Transform.of(bend, SIZE, spacing=4), Transform(MATRIX)
    step, points = first.then_back(second, SIZE), grid((60, 100)) + 10
    assert np.abs(second(step(points)) - first(points)).max() < 0.05
    assert Transform(MATRIX).then_back(second, SIZE).field is None
    assert np.abs(first.then_back(first, SIZE)(points) - points).max() < 0.05
