"""Dense alignment: it finds what the cells say together, and knows how well."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kornia_tar.geometry import corner_error, image_corners, invert, transform_points
from kornia_tar.registration.alignment.evidence import DisplacementMaps, join, tie_points
from kornia_tar.registration.alignment.fit import align
from kornia_tar.registration.alignment.likelihood import Frame, Likelihood

SIZE = (192, 256)
STEP, SIDE = 2.0, 9
TRUTHS = {
    "similarity": np.array([[1.01, 0.012, -2.5], [-0.012, 1.01, 2.0], [0, 0, 1]]),
    "affine": np.array([[1.015, -0.008, 2.5], [0.011, 0.985, -1.5], [0, 0, 1]]),
    "homography": np.array([[1.01, -0.005, 1.5], [0.004, 0.99, -1.0], [4e-5, -3e-5, 1]]),
}


def cells(size: tuple[int, int] = SIZE) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(3.5, size[0], 8), torch.arange(3.5, size[1], 8), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)


def saying(
    matrix: np.ndarray, noise: float = 0.0, wrong: float = 0.0, sigma: tuple[float, float] = (1.2, 1.2), seed: int = 0
) -> DisplacementMaps:
    """Cells that say a normal distribution about their true place: ``noise`` px off, a share of them ``wrong``."""
    rng, points = np.random.default_rng(seed), cells()
    K = len(points)
    place = transform_points(matrix, points.double().numpy()) + rng.normal(0, noise, (K, 2))
    lost = rng.random(K) < wrong
    place[lost] = points[torch.from_numpy(lost)].numpy() + rng.uniform(-8, 8, (int(lost.sum()), 2))
    spread = np.tile(np.array(sigma), (K, 1))
    spread[rng.random(K) < 0.5] = sigma[::-1]
    corner = points - STEP * (SIDE // 2)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    places = corner[:, None] + STEP * torch.stack([x, y], -1).view(1, -1, 2)
    offset = (places - torch.from_numpy(place)[:, None]) / torch.from_numpy(spread)[:, None]
    return DisplacementMaps(
        points, corner, (-0.5 * offset.square().sum(-1)).softmax(1).view(K, SIDE, SIDE).float(), STEP
    )


def both(matrix: np.ndarray, **options) -> tuple[DisplacementMaps, DisplacementMaps]:
    return saying(matrix, seed=1, **options), saying(invert(matrix), seed=2, **options)


@pytest.mark.parametrize("model", TRUTHS)
def test_the_truth_is_found(model):
    truth = TRUTHS[model]
    found = align(*both(truth), model, SIZE)
    assert corner_error(found.matrix, truth, SIZE) < 0.2
    assert found.log_likelihood_gain > 1 and found.cells == 2 * len(cells())
    assert math.isnan(found.std) and math.isnan(found.disagreement)


def test_where_cells_see_a_part_alone_the_prior_keeps_the_rest_a_similarity():
    """A corner of the frame in doubt: what it says of stretch moves the far corners, unless a prior holds them."""
    errors = []
    for seed in range(6):
        pair = [
            maps.rows(((maps.points[:, 0] < 100) & (maps.points[:, 1] < 100)).nonzero().flatten())
            for maps in (saying(np.eye(3), 3.0, 0.5, seed=2 * seed), saying(np.eye(3), 3.0, 0.5, seed=2 * seed + 1))
        ]
        found = [align(*pair, "homography", SIZE, before=before) for before in (None, np.eye(3))]
        errors.append([corner_error(one.matrix, np.eye(3), SIZE) for one in found])
    free, held = np.mean(errors, axis=0)
    assert held < 0.7 * free


def test_the_prior_lets_pixels_of_another_shape_go():
    before = np.diag([1.3, 1.0, 1.0])
    found = align(*both(TRUTHS["affine"], noise=0.5, wrong=0.3), "affine", SIZE, before=before)
    assert corner_error(found.matrix, TRUTHS["affine"], SIZE) < 0.4


def test_a_mirror_before_is_no_nan():
    found = align(*both(TRUTHS["affine"]), "affine", SIZE, before=np.diag([-1.0, 1.0, 1.0]))
    assert np.isfinite(found.matrix).all() and corner_error(found.matrix, TRUTHS["affine"], SIZE) < 0.5


def test_evidence_that_is_no_number_moves_nothing():
    in1, in0 = both(TRUTHS["affine"])
    in1.probability[3, 0, 0] = math.nan
    found = align(in1, in0, "affine", SIZE, check_points=image_corners(SIZE))
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    assert math.isinf(found.std)


def test_half_of_the_cells_may_be_wrong():
    truth = TRUTHS["affine"]
    found = align(*both(truth, noise=0.5, wrong=0.5), "affine", SIZE)
    assert corner_error(found.matrix, truth, SIZE) < 0.4


def test_cells_that_are_too_sure_lose_and_are_judged_by_how_far_they_agree():
    """As on sensors that the network never saw: most are sure of a wrong place, the others agree on the right one."""
    truth = TRUTHS["affine"]
    found = align(*both(truth, wrong=0.8, sigma=(0.7, 0.7)), "affine", SIZE, check_points=image_corners(SIZE))
    error = corner_error(found.matrix, truth, SIZE)
    assert found.log_likelihood_gain < 0 and error < 1
    assert 0.3 * error < found.std < 5


def test_edges_that_pin_one_direction_each_pin_the_transform_together():
    truth = TRUTHS["affine"]
    found = align(*both(truth, noise=0.0, sigma=(0.8, 50.0)), "affine", SIZE)
    assert corner_error(found.matrix, truth, SIZE) < 0.3


def test_cells_that_know_nothing_gain_nothing():
    blank = saying(np.eye(3), sigma=(1e3, 1e3))
    found = align(blank, blank, "affine", SIZE, check_points=image_corners(SIZE))
    assert found.log_likelihood_gain < 0.05
    assert math.isinf(found.std)


def test_cells_that_contradict_each_other_lose():
    rng, blank = np.random.default_rng(0), saying(np.eye(3), sigma=(0.5, 0.5))
    shuffled = [
        blank._replace(
            probability=torch.stack([p.roll(tuple(rng.integers(-4, 5, 2)), (0, 1)) for p in blank.probability])
        )
        for _ in range(2)
    ]
    assert align(*shuffled, "affine", SIZE).log_likelihood_gain < 0


def test_std_foretells_the_error():
    truth, corners = TRUTHS["affine"], image_corners(SIZE)
    errors, foretold = [], []
    for seed in range(12):
        pair = (
            saying(truth, noise=2.0, wrong=0.3, seed=3 * seed),
            saying(invert(truth), noise=2.0, wrong=0.3, seed=3 * seed + 1),
        )
        found = align(*pair, "affine", SIZE, check_points=corners)
        errors.append(corner_error(found.matrix, truth, SIZE))
        foretold.append(found.std)
        assert found.disagreement > 0
    assert 0.5 < np.mean(errors) / np.mean(foretold) < 1.5


def test_exchanged_images_give_the_inverse():
    in1, in0 = both(TRUTHS["affine"], noise=1.0, wrong=0.2)
    there, back = align(in1, in0, "affine", SIZE), align(in0, in1, "affine", SIZE)
    assert corner_error(invert(back.matrix), there.matrix, SIZE) < 0.05
    assert back.log_likelihood_gain == pytest.approx(there.log_likelihood_gain, abs=1e-3)


def test_equal_input_gives_the_equal_result():
    pair = both(TRUTHS["affine"], noise=1.0)
    np.testing.assert_array_equal(align(*pair, "affine", SIZE).matrix, align(*pair, "affine", SIZE).matrix)


def test_tie_points_follow_the_cells_that_know_and_the_model_elsewhere():
    truth = TRUTHS["affine"]
    sure, blank = saying(truth, sigma=(0.8, 0.8)), saying(truth, sigma=(1e3, 1e3))
    model = truth @ np.array([[1, 0, 1.5], [0, 1, 0], [0, 0, 1]])  # 1.5 px off
    inner = (sure.points - 128).abs().amax(1) < 80
    expected = transform_points(truth, sure.points.numpy())[inner]
    near, near_std, near_confidence = (t[inner] for t in tie_points(sure, model, 2.5, 3.0))
    far, far_std, far_confidence = (t[inner] for t in tie_points(blank, model, 2.5, 3.0))
    assert np.linalg.norm(near.numpy() - expected, axis=1).mean() < 0.4
    assert np.linalg.norm(far.numpy() - expected, axis=1).mean() > 1
    assert (near_std < far_std).all() and (near_confidence > far_confidence).all()
    assert (near_confidence <= 1).all() and (far_confidence >= 0).all()


def test_parts_join_part_and_move():
    one = saying(TRUTHS["affine"])
    by = torch.tensor([100.0, 20.0])
    joined = join([one, one.moved(by)])
    assert len(joined.points) == 2 * len(one.points)
    torch.testing.assert_close(joined.corner[len(one.points) :] - one.corner, by.expand_as(one.corner))
    some = one.rows(torch.tensor([5, 2]))
    torch.testing.assert_close(some.points, one.points[[5, 2]])
    torch.testing.assert_close(some.probability, one.probability[[5, 2]])
    places = one.points + torch.tensor([1.0, -0.5])
    torch.testing.assert_close(one.density(places), one.moved(by).density(places + by))


def test_a_density_integrates_to_one():
    one = saying(np.eye(3))
    y, x = torch.meshgrid(torch.arange(-8, 8.1, 0.5), torch.arange(-8, 8.1, 0.5), indexing="ij")
    total = sum(one.density(one.points + torch.stack(d)) for d in zip(x.flatten(), y.flatten(), strict=True)) * 0.25
    assert float(total.min()) == pytest.approx(1, abs=0.02) and float(total.max()) == pytest.approx(1, abs=0.02)
    assert (one.density(one.points + 13).abs() < 1e-12).all()


def test_far_outside_its_map_a_cell_takes_the_nearest_place_it_knows():
    one = saying(np.eye(3), sigma=(0.5, 0.5))
    far = np.array([[1, 0, 30.0], [0, 1, 0], [0, 0, 1]])
    places, std, confidence = tie_points(one, far, 2.5, 3.0)
    assert ((places - one.points).norm(dim=1) < 12).all()
    assert (confidence < 0.01).all() and std.isfinite().all()


def test_inference_mode_and_autocast_change_nothing():
    truth = TRUTHS["affine"]
    expected = align(*both(truth), "affine", SIZE, check_points=image_corners(SIZE))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = align(*both(truth), "affine", SIZE, check_points=image_corners(SIZE))
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    assert found.std == expected.std


def test_too_few_blocks_promise_nothing():
    in1, in0 = both(TRUTHS["affine"])
    line = torch.arange(6)  # of one row of cells
    found = align(in1.rows(line), in0.rows(line), "affine", SIZE, check_points=image_corners(SIZE))
    assert math.isinf(found.std)


@pytest.mark.parametrize("model", TRUTHS)
def test_closed_derivatives_are_those_of_the_likelihood(model):
    in1, in0 = both(TRUTHS[model], noise=1.0, wrong=0.2)
    maps, rng = join((in1, in0)), np.random.default_rng(0)
    frame = Frame(model, SIZE, np.diag([1.05, 1.0, 1.0]), len(maps.points))
    likelihood, theta = Likelihood(frame, maps, len(in1.points), 1.5), 0.01 * rng.standard_normal(frame.identity.shape)
    cells, slope, curve = likelihood.derivatives(theta)
    steps = 1e-5 * np.eye(len(theta))
    by_cell = np.stack([(likelihood.gains(theta + h) - likelihood.gains(theta - h)) / 2e-5 for h in steps], 1)
    np.testing.assert_allclose(cells, by_cell, rtol=1e-3, atol=1e-4)
    numeric = [(likelihood(theta + h) - likelihood(theta - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-4)
    bent = [(likelihood.derivatives(theta - h)[1] - likelihood.derivatives(theta + h)[1]) / 2e-5 for h in steps]
    assert np.abs(curve - bent).max() < 0.1 * np.abs(curve).max(), "but for how the places bend with θ"
    points = image_corners(SIZE)
    moved = np.stack([(frame.places(theta + h, points) - frame.places(theta - h, points)) / 2e-5 for h in steps], 2)
    np.testing.assert_allclose(likelihood.jacobian(theta, points), moved, rtol=1e-4, atol=1e-4)


def test_a_climb_in_doubt_ends_at_a_top():
    """Nearly all cells wrong: a whole step often leads down there, and a shorter one up."""
    in1, in0 = both(TRUTHS["similarity"], noise=2.5, wrong=0.9)
    maps = join((in1, in0))
    frame, matrix = Frame("similarity", SIZE, None, len(maps.points)), align(in1, in0, "similarity", SIZE).matrix
    a, c = matrix[0, 0] - 1, matrix[1, 0]
    middle = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2])
    shift = (transform_points(matrix, middle[None])[0] - middle) / frame.half
    theta, likelihood = np.array([a, c, *shift]), Likelihood(frame, maps, len(in1.points))
    np.testing.assert_allclose(frame.matrix(theta), matrix, atol=1e-6)
    _, slope, curve = likelihood.derivatives(theta)
    assert np.linalg.eigvalsh(curve).min() > 0 and slope @ np.linalg.solve(curve, slope) < 1e-4, "nats per cell to gain"


@pytest.mark.parametrize("which", [0, 1])
def test_an_image_without_cells_has_no_say(which):
    pair = list(both(TRUTHS["affine"]))
    pair[which] = pair[which].rows(torch.zeros(0, dtype=torch.long))
    found = align(*pair, "affine", SIZE, check_points=image_corners(SIZE))
    assert corner_error(found.matrix, TRUTHS["affine"], SIZE) < 0.2 and found.cells == len(cells())
