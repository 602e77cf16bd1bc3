"""Labels' share of the error: told apart from a matcher's own on matches that are made up with known errors."""

from __future__ import annotations

import numpy as np
import pytest

from eval.benchmark.cache import Cache, Prediction, cache_path
from eval.benchmark.protocol import LEVELS
from eval.peers import Matches
from eval.studies import label_noise
from kornia_tar.geometry import transform_points

PAIRS = 16
RNG = np.random.default_rng(0)
GRID = np.stack(np.meshgrid(np.arange(8, 256, 16), np.arange(8, 256, 16)), -1).reshape(-1, 2).astype(float)


def stored(folder, level: str, label_errors: np.ndarray, own_errors: np.ndarray, settings: str = "one") -> None:
    """Matches of a matcher that finds the ground, up to its own error, where the truth is off by the label's."""
    rng = np.random.default_rng(len(level))
    with Cache(cache_path(folder, "made", level, "tar"), {"key": "k", "settings": settings}) as cache:
        for k, (label, own) in enumerate(zip(label_errors, own_errors, strict=True)):
            truth = LEVELS[level].draw(rng)
            points1 = transform_points(truth, GRID + label + own)
            inside = ((points1 >= 0) & (points1 <= 255)).all(axis=1)
            matches = Matches(GRID[inside], points1[inside], np.ones(inside.sum()))
            cache.add(f"pair{k:02}", Prediction(matches, truth, (256, 256), "fill", 0.1, ""))


@pytest.mark.parametrize(("label", "own"), [(1.5, 0.1), (0.1, 1.5)], ids=["labels are wrong", "matcher is wrong"])
def test_errors_that_move_with_the_ground_are_the_labels(tmp_path, label, own):
    labels_off = RNG.normal(0, label, (PAIRS, 2))
    for level in ("tar", "hard"):
        stored(tmp_path, level, labels_off, RNG.normal(0, own, (PAIRS, 2)))
    found = label_noise.measure("made", ("tar", "hard"), "tar", tmp_path)
    before, after = (np.median(errors) for errors in list(found.errors.values())[:2])
    if label > own:
        assert min(found.correlation) > 0.9 and after < 0.5 * before
    else:
        assert max(np.abs(found.correlation)) < 0.7 and after > 0.7 * before
    text = label_noise.describe(found, "made", "tar")
    assert "| stored |" in text and f"all {PAIRS} pairs" in text


def test_what_is_accepted_though_wrong_is_counted_under_each_truth():
    errors = {"stored": np.array([1.0, 11.0, 12.0, np.inf]), "other": np.array([1.0, 2.0, 30.0, np.inf])}
    accepted = np.array([True, True, False, False])
    found = label_noise.Labels(("tar", "hard"), RNG.normal(0, 1, (2, 12, 2)), errors, accepted)
    text = label_noise.describe(found, "made", "tar")
    assert [
        line.rsplit("|", 2)[1].strip() for line in text.splitlines() if line.startswith(("| stored", "| other"))
    ] == ["1", "0"]


def test_what_is_not_cached_or_too_little_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"made\.tar\.tar\.h5.*eval run"):
        label_noise.measure("made", ("tar", "hard"), "tar", tmp_path)
    for level in ("tar", "hard"):
        stored(tmp_path, level, np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="3 pairs"):
        label_noise.measure("made", ("tar", "hard"), "tar", tmp_path)
    stored(tmp_path / "two", "tar", np.zeros((12, 2)), np.zeros((12, 2)))
    stored(tmp_path / "two", "hard", np.zeros((12, 2)), np.zeros((12, 2)), settings="other")
    with pytest.raises(ValueError, match="another under tar"):
        label_noise.measure("made", ("tar", "hard"), "tar", tmp_path / "two")
    with pytest.raises(ValueError, match="two different"):
        label_noise.measure("made", ("tar", "tar"), "tar", tmp_path)
