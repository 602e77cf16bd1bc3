"""Matched points as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from kornia_tar.geometry import PointMatches


@dataclass(frozen=True)
class Marked(PointMatches):
    mark: bool | None = field(default=None, kw_only=True)


def some(**more):
    points0 = np.array([[0, 0], [-0.5, 3], [9.4, 4.4], [9.5, 4], [3, 3]], np.float32)
    points1 = np.array([[1, 1], [1, 1], [1, 1], [1, 1], [20, 1]], np.float32)
    return Marked(points0, points1, np.arange(5, dtype=np.float32), **more)


def test_inside_keeps_what_lies_on_a_pixel_of_both_images():
    given = some(std=np.ones(5, np.float32), mark=True)
    assert given.inside((5, 10), (6, 10)).confidence.tolist() == [0, 1, 2, 3]
    found = given.inside((5, 10), (6, 10, 3), border=False)
    assert found.confidence.tolist() == [0, 2] and len(found) == len(found.stated_std) == 2
    assert isinstance(found, Marked) and found.mark is True and found.points0.dtype == np.float32


def test_swapped_chosen_and_empty():
    found = some(mark=False)
    turned = found.swapped()
    np.testing.assert_array_equal(turned.points0, found.points1)
    np.testing.assert_array_equal(turned.points1, found.points0)
    assert turned.mark is False and turned.std is None
    assert found.chosen([4, 0]).confidence.tolist() == [4, 0]
    assert len(PointMatches.empty()) == len(Marked.empty().inside((9, 9), (9, 9))) == 0
    assert isinstance(Marked.empty(), Marked) and PointMatches.empty().stated_std.shape == (0,)
    with pytest.raises(ValueError, match="no standard deviation"):
        _ = found.stated_std
