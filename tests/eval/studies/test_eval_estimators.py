"""Estimators agree on clean matches, bear outliers, and say when they find nothing."""

import numpy as np
import pytest

from eval import cli
from eval.benchmark import metrics
from eval.benchmark.protocol import LEVELS
from eval.studies import estimators
from kornia_tar.geometry import transform_points

GRID = np.stack(np.meshgrid(np.arange(4, 256, 12), np.arange(4, 256, 12)), -1).reshape(-1, 2).astype(float)
SHAPE = (256, 256)


@pytest.fixture(params=estimators.ESTIMATORS)
def estimator(request):
    if request.param.startswith("pycolmap"):
        pytest.importorskip("torch")  # pycolmap must not come before it
        pytest.importorskip("pycolmap")
    return estimators.ESTIMATORS[request.param]


def test_half_of_the_matches_are_wrong(estimator):
    rng = np.random.default_rng(3)
    truth = LEVELS["tar"].draw(rng)
    target = transform_points(truth, GRID) + rng.normal(0, 0.5, GRID.shape)
    wrong = rng.random(len(GRID)) < 0.5
    target[wrong] = rng.uniform(0, 256, (int(wrong.sum()), 2))
    found = estimator(GRID, target, SHAPE)
    assert found is not None
    assert found.inliers[~wrong].mean() > 0.95
    if found.matrix is not None:
        assert metrics.corner_error(found.matrix, truth, SHAPE) < 1.5
        assert found.inliers[wrong].mean() < 0.1


def test_the_same_matches_give_the_same_answer(estimator):
    rng = np.random.default_rng(5)
    target = np.where(rng.random((len(GRID), 1)) < 0.4, rng.uniform(0, 256, GRID.shape), GRID + 5)
    first, second = (estimator(GRID, target, SHAPE) for _ in range(2))
    assert np.array_equal(first.inliers, second.inliers)
    assert first.matrix is None or np.array_equal(first.matrix, second.matrix)


def test_matches_on_one_point_give_no_model_that_is_right(estimator):
    found = estimator(np.ones((20, 2)), np.full((20, 2), 7.0), SHAPE)
    truth = np.array([[1.0, 0, 40], [0, 1, 40], [0, 0, 1]])
    matrix = None if found is None else found.matrix
    assert metrics.corner_error(matrix, truth, SHAPE) > 5


def test_the_table_compares_all_on_what_is_cached(tar, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["warps", "--data", tar.name, "--warps", "warps", "--level", "tar"]) == 0
    places = ["--out", "tables", "--warps", "warps"]
    assert cli.main(["study", "estimators", "--set", "toy-000", "--matcher", "sift", *places]) == 1
    assert "no matches cached of 'sift'" in capsys.readouterr().err
    assert cli.main(["run", "--data", tar.name, "--matchers", "sift", *places]) == 0
    assert cli.main(["study", "estimators", "--set", "toy-000", "--matcher", "sift", *places]) == 0
    text = (tmp_path / "tables" / "estimators.md").read_text()
    assert "RootSIFT on toy-000, level tar (3 pairs" in text
    assert "| OpenCV RANSAC, affine (shared) | 100.0 |" in text
    for name in estimators.ESTIMATORS:
        assert name in text
