"""Agreement from all over the overlap, and from a few cells."""

from __future__ import annotations

import math

import pytest
import torch

from kornia_tar.registration.alignment.agreement import block_agreement, trimmed_gain


def grid(side: int = 24) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1) * 8.0 + 3.5


def test_the_most_telling_fifth_is_left_out():
    gains = torch.full((100,), -0.2)
    gains[:20] = 3.0
    assert gains.mean() > 0.4 and trimmed_gain(gains) == pytest.approx(-0.2)
    gains[20:60] = 1.0
    assert trimmed_gain(gains) == pytest.approx(0.4)


def test_no_cells_tell_nothing():
    assert math.isnan(trimmed_gain(torch.empty(0)))
    assert math.isnan(block_agreement(torch.empty(0, 2), torch.empty(0)))


def test_blocks_count_alike_whatever_their_cells_gain():
    points = grid()
    gains = torch.where(points[:, 0] < 96, 0.01, -0.01)
    assert block_agreement(points, gains) == pytest.approx(0.5)
    gains[0] = 50.0  # of a block that gains already
    assert block_agreement(points, gains) == pytest.approx(0.5)


def test_blocks_with_few_cells_are_left_out_and_the_overlap_may_lie_anywhere():
    points, gains = grid(), torch.ones(24 * 24)
    left = points[:, 0] < 96
    lonely = torch.tensor([[1000.0, 1000.0]])
    assert block_agreement(points[left] + 500, gains[left]) == 1.0
    assert block_agreement(torch.cat([points, lonely]), torch.cat([gains, torch.tensor([-9.0])])) == 1.0
