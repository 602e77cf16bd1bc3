"""CFDM: geometry of cells and windows, mutual nearest cells, position code, half-way rule."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import SMALL, lively_net
from torch import nn

from kornia_tar.conventions import CELL
from kornia_tar.network import layers
from kornia_tar.network.cfdm import (
    CFDM,
    Cells,
    CFDMConfig,
    cell_centres,
    dual_softmax,
    mutual_nearest,
    nearest_cells,
)
from kornia_tar.network.fine import FineHead, Offset, correlate_cells, parabola_peak
from kornia_tar.network.layers import NODATA, Attention, rotary_angles, rotate
from kornia_tar.network.net import assemble


@pytest.fixture(scope="module")
def cfdm() -> CFDM:
    return lively_net().cfdm


def scores(matrix: list[list[float]]) -> torch.Tensor:
    return dual_softmax(torch.tensor([matrix]))


def test_cell_centres_are_the_middles_of_their_pixels():
    centres = cell_centres(torch.arange(6), columns=3)
    assert centres.tolist() == [[3.5, 3.5], [11.5, 3.5], [19.5, 3.5], [3.5, 11.5], [11.5, 11.5], [19.5, 11.5]]
    pixels = torch.arange(CELL).float()
    assert float(pixels.mean()) == centres[0, 0]


def test_dual_softmax_is_the_product_of_both_softmaxes():
    raw = torch.randn(2, 5, 7)
    log_p = dual_softmax(raw)
    torch.testing.assert_close(log_p.exp(), raw.softmax(1) * raw.softmax(2))


def test_mutual_nearest_by_hand():
    log_p = torch.tensor([[[0.5, 0.1, 0.1], [0.45, 0.2, 0.1], [0.1, 0.1, 0.3], [0.0, 0.05, 0.0]]]).log()
    cells = mutual_nearest(log_p, 0.0)
    # Row 1 prefers column 0, which prefers row 0; column 1 prefers row 1, which does not answer.
    assert cells.cell0.tolist() == [0, 2] and cells.cell1.tolist() == [0, 2]
    torch.testing.assert_close(cells.log_probability.exp(), torch.tensor([0.5, 0.3]))
    assert mutual_nearest(log_p, 0.4).cell0.tolist() == [0]
    assert mutual_nearest(log_p, 0.9).cell0.shape == (0,)


def test_mutual_nearest_is_one_to_one_and_ordered():
    log_p = dual_softmax(torch.randn(3, 20, 30))
    cells = mutual_nearest(log_p, 0.0)
    key0 = cells.batch * 1000 + cells.cell0
    assert (key0.diff() > 0).all()
    assert len((cells.batch * 1000 + cells.cell1).unique()) == len(key0)
    swapped = mutual_nearest(log_p.transpose(1, 2), 0.0)
    forward = set(zip(cells.batch.tolist(), cells.cell0.tolist(), cells.cell1.tolist(), strict=True))
    backward = set(zip(swapped.batch.tolist(), swapped.cell1.tolist(), swapped.cell0.tolist(), strict=True))
    assert forward == backward


def test_of_cells_that_are_alike_the_first_one_matches():
    cells = mutual_nearest(scores([[5.0, 5.0, 1.0], [5.0, 5.0, 1.0], [0.0, 0.0, 4.0]]), 0.0)
    assert (cells.cell0.tolist(), cells.cell1.tolist()) == ([0, 2], [0, 2])


@pytest.mark.parametrize("rows", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("columns", [(), (3,), (0, 1, 2, 3)])
def test_nodata_never_matches(rows, columns):
    raw = 10 * torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    raw[:, list(rows)] += NODATA
    raw[:, :, list(columns)] += NODATA
    cells = mutual_nearest(dual_softmax(raw), 0.0)
    assert not set(cells.cell0.tolist()) & set(rows)
    assert not set(cells.cell1.tolist()) & set(columns)


@torch.no_grad()
@pytest.mark.parametrize("keys", [layers.KEYS, 1])
def test_masked_cells_neither_match_nor_are_seen(cfdm, monkeypatch, keys):
    monkeypatch.setattr(layers, "KEYS", keys)
    torch.manual_seed(1)
    x0, x1 = torch.randn(2, 32, 4, 5), torch.randn(2, 32, 3, 6)
    mask0 = torch.rand(2, 4, 5) < 0.6
    mask1 = torch.rand(2, 3, 6) < 0.6
    coarse = cfdm.coarse(x0, x1, mask0, mask1)
    cells = nearest_cells(coarse, 0.0)
    assert len(cells.batch)
    assert mask0.flatten(1)[cells.batch, cells.cell0].all()
    assert mask1.flatten(1)[cells.batch, cells.cell1].all()
    noise = torch.randn_like(x1) * ~mask1[:, None]
    other = cfdm.coarse(x0, x1 + noise, mask0, mask1)
    torch.testing.assert_close(other.tokens0, coarse.tokens0)
    seen = mask1.flatten(1)[:, None].expand_as(coarse.scores())
    torch.testing.assert_close(other.scores()[seen], coarse.scores()[seen])


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grid", [(4, 6), (5, 6), (3, 5), (1, 1)])
def test_four_equal_tokens_answer_as_their_average(monkeypatch, grid, masked):
    """Every block of 2×2 is equal, also that of which a part lies beyond the grid or is masked."""
    torch.manual_seed(4)
    attention = Attention(16, 2).eval()
    nn.init.ones_(attention.gate)
    rows, columns = grid
    blocks = torch.randn(2, 16, (rows + 1) // 2, (columns + 1) // 2)
    source = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :rows, :columns].flatten(2).transpose(1, 2)
    mask = NODATA * (torch.rand(2, rows * columns) < 0.4) if masked else None
    if mask is not None:
        mask[:, 0] = 0
    x = torch.randn(2, 7, 16)
    each = attention(x, source, grid, None, mask)
    monkeypatch.setattr(layers, "KEYS", 0)
    torch.testing.assert_close(attention(x, source, grid, None, mask), each)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_what_an_image_sees_in_itself_may_be_known_beforehand(depth):
    torch.manual_seed(3)
    cfdm = CFDM(32, 16, CFDMConfig(heads=2, layers=depth)).eval()
    cfdm.open_gates()
    x0, x1, mask1 = torch.randn(1, 32, 4, 5), torch.randn(1, 32, 3, 6), torch.rand(1, 3, 6) < 0.6
    asked = cfdm.coarse(x0, x1, None, mask1)
    known = cfdm.coarse(x0, x1, None, mask1, cfdm.look_within(x0), cfdm.look_within(x1, mask1))
    assert torch.equal(known.scores(), asked.scores()) and torch.equal(known.tokens1, asked.tokens1)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [1, 7 * 24, 10**6])
def test_scores_held_some_rows_at_a_time_give_the_same_cells(cfdm, masked, at_once):
    torch.manual_seed(2)
    x0 = torch.randn(2, 32, 5, 6)
    x1 = x0.flip(2)[..., :4] + 0.1 * torch.randn(2, 32, 5, 4)
    masks = (torch.rand(2, 5, 6) < 0.7, torch.rand(2, 5, 4) < 0.7) if masked else (None, None)
    coarse = cfdm.coarse(x0, x1, *masks)
    whole = mutual_nearest(dual_softmax(coarse.scores()), 0.0)
    found = nearest_cells(coarse, 0.0, at_once)
    assert len(whole.batch) > 10
    for a, b in zip(found, whole, strict=True):
        torch.testing.assert_close(a, b)
    gradients = []
    for ask in (None, at_once):
        with torch.enable_grad():
            own = coarse._replace(descriptors0=coarse.descriptors0.clone().requires_grad_())
            nearest_cells(own, 0.0, ask).log_probability.sum().backward()
        gradients.append(own.descriptors0.grad)
    torch.testing.assert_close(*gradients)


def test_position_code_sees_differences_only():
    torch.manual_seed(0)
    height, width, dim = 7, 9, 16
    angles = rotary_angles((height, width), dim, torch.device("cpu"))
    assert angles.shape == (height * width, dim)
    q, k = torch.randn(dim), torch.randn(dim)
    logits = rotate(q.expand(height * width, -1), angles) @ rotate(k.expand(height * width, -1), angles).T
    grid = logits.view(height, width, height, width)
    for dy, dx in ((0, 0), (1, 0), (0, 1), (3, -2)):
        same = [grid[y, x, y + dy, x + dx] for y in range(height - dy) for x in range(max(0, -dx), width - max(0, dx))]
        torch.testing.assert_close(torch.stack(same), same[0].expand(len(same)), rtol=1e-4, atol=1e-4)
    assert (grid[0, 0, 0, 1] - grid[0, 0, 1, 0]).abs() > 1e-3  # x and y are told apart
    torch.testing.assert_close(rotate(q.expand(63, -1), angles).norm(dim=-1), q.norm().expand(63))


@torch.no_grad()
def test_attention_acts_through_its_gates():
    cfdm = CFDM(32, 8, CFDMConfig(heads=2, layers=1))
    x, y = torch.randn(2, 10, 32), torch.randn(2, 7, 32)
    layer = cfdm.cross_attention[0]
    torch.testing.assert_close(layer(x, y, (1, 7)), x, rtol=0, atol=0)  # closed
    cfdm.open_gates()
    assert 0 < (layer(x, y, (1, 7)) - x).norm() / x.norm() < 0.3


@torch.no_grad()
def test_windows_are_centred_on_their_cells():
    """Each fine pixel carries its own place; what a window shows, less the cell's centre, is the window's raster."""
    cfdm = CFDM(32, 8, SMALL.cfdm)
    torch.nn.init.dirac_(cfdm.fine_descriptor.weight)
    torch.nn.init.zeros_(cfdm.fine_descriptor.bias)
    rows, columns = 4, 6
    v, u = torch.meshgrid(torch.arange(4 * rows), torch.arange(4 * columns), indexing="ij")
    place = torch.stack([2 * u + 0.5, 2 * v + 0.5])  # a fine pixel is the middle of 2×2 image pixels
    fine = torch.zeros(2, 8, 4 * rows, 4 * columns)
    fine[:, :2] = place
    fine[1, 2] = 1
    cell = torch.tensor([7, 8, 16])
    batch = torch.tensor([0, 1, 1])
    windows = cfdm.windows(cfdm.framed(fine), batch, cell)
    assert windows.shape == (3, 10, 10, 8)
    relative = windows[..., :2].flatten(1, 2) - cell_centres(cell, columns)[:, None]
    steps = 2.0 * torch.arange(10) - 9
    raster = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
    torch.testing.assert_close(relative, raster.expand(3, -1, -1))
    assert windows[:, 0, 0, 2].tolist() == [0, 1, 1]
    corner = cfdm.windows(cfdm.framed(fine), torch.tensor([1]), torch.tensor([0]))
    assert (corner[0, :3] == 0).all() and (corner[0, :, :3] == 0).all()
    assert (corner[0, 3:, 3:, 2] == 1).all()


@torch.no_grad()
def test_all_cells_at_once_say_what_each_says_in_its_window(cfdm):
    fine0, fine1 = torch.randn(2, 2, cfdm.fine_descriptor.in_channels, 12, 20)
    batch, cell = torch.meshgrid(torch.arange(2), torch.arange(15), indexing="ij")
    d0, d1 = cfdm.fine_descriptors(fine0), cfdm.fine_descriptors(fine1)
    w0, w1 = (cfdm.windows(cfdm.framed(d), batch.flatten(), cell.flatten()) for d in (d0, d1))
    one_by_one = cfdm.fine_head.logits(w0, w1).view(2, 3, 5, -1).permute(0, 3, 1, 2)
    torch.testing.assert_close(cfdm.fine_head.dense_logits(d0, d1), one_by_one)
    for rows in (1, 2, 3):  # of three
        found = correlate_cells(d0, d1, cfdm.config.window, rows) * cfdm.fine_head.log_temperature.exp()
        torch.testing.assert_close(found, one_by_one)


@torch.no_grad()
@pytest.mark.parametrize("move", [(0, 0), (-8, -8), (8, -2), (2, 4), (-4, 6)])
def test_a_new_fine_head_reads_how_far_the_centre_moved(move):
    """Noise in one window, the same moved by whole fine pixels in the other."""
    head = FineHead(32, SMALL.cfdm.window, SMALL.cfdm.hidden)
    x, y = (m // 2 for m in move)
    noise = F.normalize(torch.randn(1, 18, 18, 512, generator=torch.Generator().manual_seed(0)), dim=-1)
    template, window = noise[:, 4:14, 4:14], noise[:, 4 - y : 14 - y, 4 - x : 14 - x]
    token = torch.zeros(1, 32)
    head.log_temperature.fill_(4.0)
    found = head(template, window, token, token, torch.zeros(1))
    torch.testing.assert_close(found.shift, torch.tensor([move], dtype=torch.float32), atol=0.1, rtol=0)
    assert head.positions[int(found.window.argmax())].tolist() == list(move)


@pytest.mark.parametrize("peak", [(0.0, 0.0), (0.7, -1.3), (5.2, 3.5), (-8.0, 8.0), (-3.9, 0.2)])
def test_the_parabola_finds_the_peak_between_displacements(peak):
    positions = FineHead(32, CFDMConfig().window, CFDMConfig().hidden).positions
    at = torch.tensor([peak])
    torch.testing.assert_close(parabola_peak(-(positions - at).square().sum(1)[None]), at)
    assert parabola_peak(torch.zeros(1, 81)).isfinite().all()


@pytest.mark.parametrize("window", [0, 2, 7])
def test_a_window_that_does_not_centre_on_a_cell_is_refused(window):
    with pytest.raises(ValueError, match="window"):
        CFDM(32, 8, CFDMConfig(heads=2, window=window))


def offset(shift: torch.Tensor, log_scale: float = 0.0, logit: float = 0.0) -> Offset:
    count = len(shift)
    return Offset(torch.zeros(count, 81), shift, torch.full((count,), log_scale), torch.full((count,), logit))


@pytest.mark.parametrize("seed", range(5))
def test_half_way_rule_is_exact_for_any_affine(seed):
    generator = torch.Generator().manual_seed(seed)
    linear = torch.eye(2).double() + 0.4 * torch.randn(2, 2, generator=generator, dtype=torch.double)
    move = 5 * torch.randn(2, generator=generator, dtype=torch.double)
    cell0, cell1 = torch.randint(0, 48, (2, 30), generator=generator)
    c0, c1 = cell_centres(cell0, 8).double(), cell_centres(cell1, 6).double()
    e1 = c0 @ linear.T + move - c1
    e0 = (c1 - move) @ torch.linalg.inv(linear).T - c0
    cells = Cells(torch.zeros(30).long(), cell0, cell1, torch.zeros(30))
    matches = assemble(cells, offset(e0), offset(e1), 8, 6)
    torch.testing.assert_close(matches.points0 @ linear.T + move, matches.points1)


def test_assemble_by_hand():
    cells = Cells(torch.tensor([0, 2]), torch.tensor([0, 9]), torch.tensor([5, 1]), torch.zeros(2))
    in0 = offset(torch.tensor([[2.0, -4], [0, 0]]), log_scale=math.log(0.3), logit=1.0)
    in1 = offset(torch.tensor([[-6.0, 1], [1, 1]]), log_scale=math.log(0.4), logit=3.0)
    matches = assemble(cells, in0, in1, columns0=8, columns1=4)
    torch.testing.assert_close(matches.points0, torch.tensor([[4.5, 1.5], [11.5, 11.5]]))
    torch.testing.assert_close(matches.points1, torch.tensor([[8.5, 12], [12, 4]]))
    torch.testing.assert_close(matches.confidence, torch.tensor([2.0, 2]).sigmoid())
    # √2·0.3 and √2·0.4 px, root mean square
    torch.testing.assert_close(matches.std, torch.full((2,), 0.5))
    assert matches.batch.tolist() == [0, 2]


@torch.no_grad()
def test_no_match_is_refined_to_nothing(cfdm):
    coarse = cfdm.coarse(torch.randn(1, 32, 4, 4), torch.randn(1, 32, 4, 4))
    nothing = torch.zeros(0).long()
    fine = torch.randn(1, 8, 16, 16)
    in0, in1 = cfdm.refine(Cells(nothing, nothing, nothing, torch.zeros(0)), coarse, fine, fine)
    assert in0.shift.shape == in1.shift.shape == (0, 2)
