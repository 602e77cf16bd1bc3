"""Chips show what their matrix says, and the table counts what became of them."""

from __future__ import annotations

import numpy as np
import pytest

from eval.studies import chips
from eval.studies.chips import Kind, Outcome
from kornia_tar.geometry import transform_points

KIND = Kind(64, turn=30, finer=0.5, whole=300)


@pytest.mark.parametrize("kind", [*chips.KINDS, KIND], ids=str)
def test_a_chip_shows_the_ground_that_its_matrix_leads_to(kind):
    y, x = np.mgrid[:700, :600].astype(np.float32)
    chip, matrix = chips.cut((x + 2 * y) / 2000, kind, np.random.default_rng(0))
    assert chip.shape == (kind.side, kind.side)
    v, u = np.mgrid[10 : kind.side - 10 : 7, 10 : kind.side - 10 : 7].reshape(2, -1)
    there = transform_points(matrix, np.stack([u, v], 1))
    whole = chips.middle(np.stack([x, y], 2), kind.whole)
    assert (there > 0).all() and (there < np.array(whole.shape[1::-1]) - 1).all()
    shown = np.array([whole[round(q), round(p)] for p, q in there.tolist()]) @ [1, 2] / 2000
    np.testing.assert_allclose(chip[v, u], shown, atol=2e-3)


def test_a_chip_of_another_place_that_is_accepted_is_told(tmp_path):
    true, places = ("a", "a"), ("a", "b")
    found = [
        Outcome(KIND, "optical", true, 2.0, True, 0.99, 5.0),
        Outcome(KIND, "SAR", true, 30.0, True, 0.95, 7.0),
        Outcome(KIND, "SAR", true, np.inf, False, 0.0, 7.0),
        Outcome(KIND, "optical", places, None, True, 0.91, 9.0),
        Outcome(KIND, "SAR", places, None, False, 0.2, 9.0),
    ]
    text = chips.write(found, "toys", tmp_path / "t.md").read_text()
    assert f"| {KIND} | 1 of 3 | 1 | 1 | 2.0 | 1 of 2 | 0.91 | 7 | 9 |" in text
    assert "| all | 1 of 3 |" in text
