"""Windows that correlate tell how far a truth is off, and say nothing where nothing correlates."""

from __future__ import annotations

import numpy as np
from toys import texture

from eval.studies.truth import displacements, judge


def test_a_truth_that_is_off_is_told():
    image = np.maximum(texture(0), 1)
    right, off = np.eye(3), np.array([[1.0, 0, 7], [0, 1, -4], [0, 0, 1]])
    moved = displacements(image, image, off)
    assert len(moved) and np.median(moved, axis=0).tolist() == [-7, 4]
    judged = judge("a", image, image, off, right)
    assert judged.told and judged.matcher_off == 0 and np.isclose(judged.truth_off, np.hypot(7, 4))
    assert np.isclose(judged.apart, np.hypot(7, 4))


def test_nothing_is_told_where_nothing_correlates():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(1, 255, (256, 256), dtype=np.uint8) for _ in range(2))
    assert not judge("a", one, other, np.eye(3), np.eye(3)).told
    assert not judge("a", one, one, np.eye(3), None).told
