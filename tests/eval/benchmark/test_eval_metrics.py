import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.benchmark import metrics
from eval.benchmark.protocol import LEVELS, translation
from kornia_tar.geometry import transform_points

GRID = np.stack(np.meshgrid(np.arange(4, 256, 8), np.arange(4, 256, 8)), -1).reshape(-1, 2).astype(float)
SHAPE = (256, 256)


def rung_matrix(seed: int, level: str = "tar") -> np.ndarray:
    return LEVELS[level].draw(np.random.default_rng(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(LEVELS)))
def test_true_matches_score_perfectly(seed, level):
    truth = rung_matrix(seed, level)
    score = metrics.score_pair(GRID, transform_points(truth, GRID), truth, SHAPE, LEVELS[level].model)
    assert score.ncm == score.matches == len(GRID)
    assert score.precision == (1.0, 1.0, 1.0)
    assert score.rmse < 1e-9
    assert score.corner_error < 1e-3


@settings(max_examples=25, deadline=None)
@given(st.floats(-25, 25), st.floats(-25, 25))
def test_identity_scores_the_length_of_a_shift(x, y):
    length = float(np.hypot(x, y))
    score = metrics.score_pair(GRID, GRID, translation(x, y), SHAPE)
    assert score.rmse == pytest.approx(length, abs=1e-6)
    assert score.corner_error == pytest.approx(length, abs=1e-3)
    assert score.ncm == (len(GRID) if length < 3 else 0)


def test_identity_scores_the_chord_of_a_rotation():
    angle, centre = np.deg2rad(30), 127.5
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    truth = translation(centre, centre) @ turn @ translation(-centre, -centre)
    chord = 2 * np.hypot(centre, centre) * np.sin(angle / 2)
    assert metrics.corner_error(np.eye(3), truth, SHAPE) == pytest.approx(chord)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_matches_are_a_failure_with_infinite_error(number):
    score = metrics.score_pair(GRID[:number], GRID[:number], np.eye(3), SHAPE)
    assert score.corner_error == np.inf
    assert score.ncm == number
    assert score.precision == (float(number > 0),) * 3
    assert score.rmse == (0 if number else np.inf)


@pytest.mark.parametrize("model", ["affine", "homography"])
def test_matches_on_one_point_are_a_failure(model):
    point = np.ones((50, 2))
    assert metrics.score_pair(point, point, np.eye(3), SHAPE, model).corner_error == np.inf


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_estimator_bears_two_thirds_outliers_and_repeats_itself(seed):
    rng = np.random.default_rng(seed)
    truth = rung_matrix(seed)
    target = transform_points(truth, GRID) + rng.normal(0, 0.3, GRID.shape)
    wrong = rng.random(len(GRID)) < 2 / 3
    target[wrong] = rng.uniform(0, 256, (int(wrong.sum()), 2))
    first, second = (metrics.estimate(GRID, target) for _ in range(2))
    assert np.array_equal(first, second)
    assert metrics.corner_error(first, truth, SHAPE) < 1


@given(st.lists(st.one_of(st.floats(0, 100), st.just(float("inf"))), min_size=1))
def test_rates_and_areas_are_ordered_and_count_failures(errors):
    rates = [metrics.success_rate(errors, limit) for limit in (1, 3, 5, 10)]
    assert rates == sorted(rates)
    for limit in (3, 5, 10):
        assert 0 <= metrics.auc(errors, limit) <= metrics.success_rate(errors, limit)
        # One more failure can only take away, in proportion: it is in the denominator.
        more = metrics.auc([*errors, float("inf")], limit)
        assert more == pytest.approx(metrics.auc(errors, limit) * len(errors) / (len(errors) + 1))


def test_auc_is_the_area_under_the_step_curve():
    errors = [0.0, 2.0, 4.0, np.inf]
    axis = np.linspace(0, 5, 50_001)
    curve = np.array([metrics.success_rate(errors, value) for value in axis])
    assert metrics.auc(errors, 5) == pytest.approx(curve.mean(), abs=1e-3)


def test_aggregate_of_one_success_and_one_failure():
    good = metrics.score_pair(GRID, GRID, np.eye(3), SHAPE)
    bad = metrics.score_pair(GRID[:0], GRID[:0], np.eye(3), SHAPE)
    rows = metrics.aggregate([good, bad])
    halves = ["SR@1", "SR@10", "AUC@3", "AUC@10", "CMR@1", "CMR@5", "precision@3", "failure"]
    assert [rows[key] for key in halves] == pytest.approx([0.5] * len(halves))
    assert rows["NCM"] == len(GRID) / 2


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no pairs"):
        metrics.aggregate([])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60))
def test_nine_tenths_of_the_errors_do_not_exceed_ce90(errors):
    limit = metrics.ce90(errors)
    share = np.mean(np.asarray(errors) <= limit)
    assert share >= 0.9 and limit in errors
    assert np.mean(np.asarray(errors) < limit) < 0.9


def test_tie_points_judge_the_model_not_the_matches():
    ties = np.column_stack([GRID[:100], GRID[:100] + np.array([3, 4])])
    score = metrics.score_pair(GRID, GRID, np.eye(3), SHAPE, tie_points=ties)
    assert score.rmse == 0 and score.corner_error == pytest.approx(0, abs=1e-6)
    assert score.tie_rmse == pytest.approx(5, abs=1e-5) and score.ce90 == pytest.approx(5, abs=1e-5)
    failed = metrics.score_pair(GRID[:1], GRID[:1], np.eye(3), SHAPE, tie_points=ties)
    assert failed.tie_rmse == failed.ce90 == np.inf
    rows = metrics.aggregate([score, failed, failed])
    assert rows["tie RMSE"] == rows["CE90"] == np.inf
    assert "CE90" not in metrics.aggregate([metrics.score_pair(GRID, GRID, np.eye(3), SHAPE)])


def test_errors_behind_the_horizon_are_those_of_the_projective_map():
    """Tables were made with a finite error there: a corner behind the horizon is far off, but not "without model"."""

    def by_hand(matrix, points):
        homogeneous = np.column_stack([points, np.ones(len(points))]) @ matrix.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return homogeneous[:, :2] / homogeneous[:, 2:]

    def distance(a, b):
        return np.nan_to_num(np.linalg.norm(a - b, axis=1), nan=np.inf)

    rng = np.random.default_rng(0)
    bottom, right = np.array(SHAPE) - 1
    corners = np.array([(0, 0), (right, 0), (right, bottom), (0, bottom)], float)
    behind = 0
    for k in range(300):
        matrix = np.eye(3) + rng.normal(0, [[0.3, 0.3, 20], [0.3, 0.3, 20], [4e-3, 4e-3, 0.2]])
        truth = np.eye(3) + rng.normal(0, [[0.1, 0.1, 9], [0.1, 0.1, 9], [1e-4, 1e-4, 0]])
        if k == 0:  # a corner on the horizon itself
            matrix = np.array([[1, 0, 0], [0, 1, 0], [-1 / right, 0, 1.0]])
        behind += bool((np.column_stack([corners, np.ones(4)]) @ (matrix / matrix[2, 2])[2] <= 0).any())
        expected = distance(by_hand(truth, corners), by_hand(matrix, corners)).mean()
        found = metrics.corner_error(matrix, truth, SHAPE)
        assert found == pytest.approx(expected, rel=1e-9), k
        errors = metrics.match_errors(GRID, GRID, matrix)
        np.testing.assert_allclose(errors, distance(by_hand(matrix, GRID), GRID), rtol=1e-9)
    assert behind > 50
