"""Graphics over both images, and pictures of nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from kornia_tar.training.graphics import covered_cells, draw_graphics, stroke
from kornia_tar.training.negatives import draw_nothing

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def graphics():
    return draw_graphics(40, 96, Generator().manual_seed(0), CPU)


def test_every_picture_gets_some_and_none_is_buried(graphics):
    assert graphics.cover.shape == graphics.ink0.shape == graphics.ink1.shape == (40, 1, 96, 96)
    for part in graphics:
        assert part.isfinite().all() and float(part.min()) >= 0 and float(part.max()) <= 1
    share = (graphics.cover > 0.3).float().mean((1, 2, 3))
    assert (share > 0).float().mean() > 0.9 and float(share.median()) < 0.4 and float(share.max()) < 0.9
    assert len(share.unique()) > 30


def test_they_are_drawn_at_the_same_pixels_over_whatever_lies_there(graphics):
    one, other = torch.zeros(40, 1, 96, 96), torch.full((40, 1, 96, 96), 0.5)
    drawn = graphics.on(one, 0), graphics.on(other, 1)
    bare = graphics.cover == 0
    assert torch.equal(drawn[0][bare], one[bare]) and torch.equal(drawn[1][bare], other[bare])
    full = graphics.cover == 1
    torch.testing.assert_close(drawn[0][full], graphics.ink0[full])
    torch.testing.assert_close(drawn[1][full], graphics.ink1[full])
    alike = (graphics.ink0 == graphics.ink1).flatten(1).all(1)
    assert alike.any() and not alike.all()  # tones of their own in some


def test_they_depend_on_the_generator_alone(graphics):
    again = draw_graphics(40, 96, Generator().manual_seed(0), CPU)
    for a, b in zip(graphics, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(graphics.cover, draw_graphics(40, 96, Generator().manual_seed(1), CPU).cover)


def test_covered_cells_by_hand():
    cover = torch.zeros(1, 1, 16, 16)
    cover[..., :8, :8] = 1  # all of the first
    cover[..., :8, 12:] = 1  # half of the second
    cover[..., 8:, :6] = 0.9  # three quarters of the third
    cover[..., 8:, 8:] = 0.2  # a veil over the fourth
    assert covered_cells(cover, 8).tolist() == [[True, False, True, False]]


def test_stroke_by_hand():
    distance = torch.tensor([0.0, 0.5, 1.0, 1.5])
    assert stroke(distance, torch.tensor(1.0)).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert stroke(distance, torch.tensor(2.0)).tolist() == [1.0, 1.0, 0.5, 0.0]


def test_nothing_comes_in_many_kinds():
    drawn = draw_nothing(200, 48, Generator().manual_seed(0), CPU)
    assert drawn.shape == (200, 1, 48, 48) and drawn.isfinite().all()
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    centred = drawn - drawn.mean((2, 3), keepdim=True)
    spread = centred.square().mean((1, 2, 3)).sqrt()
    flat = spread < 0.012
    assert 0.1 < flat.float().mean() < 0.35
    rest = centred[~flat]
    near = (rest[..., 1:] * rest[..., :-1]).mean((1, 2, 3)) / rest.square().mean((1, 2, 3))
    assert (near < 0.1).any() and (near > 0.8).any()  # white and coloured
    assert torch.equal(drawn, draw_nothing(200, 48, Generator().manual_seed(0), CPU))
