"""Graphics are the same on both images, and the table counts what became of the pairs."""

from __future__ import annotations

import numpy as np
import pytest

from eval.studies import graphics
from eval.studies.graphics import Outcome


@pytest.mark.parametrize("kind", graphics.KINDS)
def test_equal_seeds_draw_equal_graphics_and_leave_the_input(kind):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (192, 192), np.uint8) for _ in range(2)]
    kept = [picture.copy() for picture in pictures]
    drawn = [graphics.draw(kind, picture, 3, False) for picture in pictures]
    assert np.corrcoef(*(picture.ravel() for picture in pictures))[0, 1] < 0.02
    alike = np.mean(drawn[0] == drawn[1]) > 0.02, np.corrcoef(*(picture.ravel() for picture in drawn))[0, 1] > 0.03
    assert any(alike)
    np.testing.assert_array_equal(pictures, kept)
    np.testing.assert_array_equal(drawn[0], graphics.draw(kind, pictures[0], 3, False))


def test_a_wrong_answer_that_is_accepted_counts_as_wrong(tmp_path):
    found = [
        Outcome("labels", True, 1.0, True, 2.0),
        Outcome("labels", True, 400.0, True, 2.0),
        Outcome("labels", True, 400.0, False, 2.0),
        Outcome("labels", True, None, True, 2.0),
        Outcome("labels", False, None, False, 2.0),
    ]
    text = graphics.write(found, "toys", tmp_path / "t.md").read_text()
    assert "| labels | yes | 1 | 1 | 1 | 1 of 1 | 2.0 |" in text
    assert "| labels | no | 0 | 0 | 0 | 0 of 1 | 2.0 |" in text
