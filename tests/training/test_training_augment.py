"""Warps, photometry and the truth that the warps imply."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Generator

from kornia_tar.conventions import CELL
from kornia_tar.network.points import transform_points
from kornia_tar.training.augment import (
    Deformation,
    blur,
    draw_warps,
    grid_points,
    make_batch,
    optical_photometry,
    sar_photometry,
    turned_square,
    warp,
)
from kornia_tar.training.draws import share_of
from kornia_tar.training.losses import ground_truth
from kornia_tar.training.pseudo_sar import coarse_pseudo_sar, fine_pseudo_sar

CPU = torch.device("cpu")
SIZE = 64
PLAIN = dataclasses.replace(Deformation(), negative=0.0, graphics=0.0, any_turn=0.0)
SAME = dataclasses.replace(PLAIN, same_modality=1.0, pseudo_sar=0.0, scale=1.6)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def sample(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S) image at (B, N, 2) pixels: (B, N)."""
    grid = (points * 2 / (image.shape[-1] - 1) - 1)[:, :, None]
    return torch.nn.functional.grid_sample(image, grid, align_corners=True)[:, 0, :, 0]


def test_apply_by_hand():
    matrix = torch.tensor([[[2.0, 0, 1], [0, 3, -1], [0.1, 0, 1]]])
    torch.testing.assert_close(transform_points(matrix, torch.tensor([[[10.0, 4]]])), torch.tensor([[[10.5, 5.5]]]))


def test_warp_by_hand():
    source = torch.arange(36.0).view(1, 1, 6, 6)
    shift = torch.tensor([[[1.0, 0, 2], [0, 1, 1], [0, 0, 1]]])
    torch.testing.assert_close(warp(source, shift, 3), source[:, :, 1:4, 2:5])
    half = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0], [0, 0, 1]]])
    torch.testing.assert_close(warp(source, half, 3), source[:, :, :3, :3] + 0.5)
    assert (warp(source, shift, 8)[..., :, 5:] == 0).all()


def test_two_crops_of_a_source_agree_under_the_matrix():
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    source = (torch.sin(x / 9) + torch.cos(y / 7) + torch.sin((x + y) / 11)).expand(8, 1, -1, -1)
    (w0, w1), _ = draw_warps(8, SIZE, 128, Deformation(), seeded(), CPU)
    ones = torch.ones_like(source)
    crop0, crop1 = (warp(torch.cat([source, ones], 1), w, SIZE) for w in (w0, w1))
    there = transform_points(torch.linalg.inv(w1) @ w0, grid_points(SIZE, SIZE, 1.0, 0.0, CPU).expand(8, -1, -1))
    inside = ((there >= 0) & (there <= SIZE - 1)).all(-1)
    both = inside & (crop0[:, 1].flatten(1) > 0.999) & (sample(crop1[:, 1:], there) > 0.999)
    assert both.float().mean() > 0.2
    difference = (sample(crop1[:, :1], there) - crop0[:, 0].flatten(1))[both].abs()
    assert difference.max() < 0.05


def structure(image: torch.Tensor) -> torch.Tensor:
    """Grey levels' contrast, whichever way round: photometry may invert them."""
    smooth = blur(image, torch.full((len(image),), 2.0))
    dx, dy = smooth.diff(dim=-1)[..., :-1, :], smooth.diff(dim=-2)[..., :-1]
    return torch.nn.functional.pad((dx.square() + dy.square()).sqrt(), (0, 1, 0, 1))


def agreement(batch, move: torch.Tensor) -> float:
    """Mean correlation of the pictures' structure under the matrix, image1 looked at ``move`` px away."""
    points = grid_points(SIZE - 16, SIZE - 16, 1.0, 8.0, CPU).expand(len(batch.image0), -1, -1)
    there = transform_points(batch.matrix, points) + move
    usable = (there > 4).all(-1) & (there < SIZE - 5).all(-1)
    a, b = sample(structure(batch.image0), points), sample(structure(batch.image1), there)
    found = [np.corrcoef(a[k][usable[k]], b[k][usable[k]])[0, 1] for k in range(len(a)) if usable[k].sum() > 200]
    return float(np.mean(found))


def test_batch_agrees_with_its_matrix(pairs):
    d = dataclasses.replace(SAME, translation=0.1)
    batch = make_batch(pairs, torch.arange(32) % 4, SIZE, d, seeded(3))
    there = agreement(batch, torch.zeros(2))
    elsewhere = max(agreement(batch, torch.tensor(move)) for move in ([3.0, 0], [-3.0, 0], [0, 3.0], [0, -3.0]))
    assert there > 0.6
    assert there > elsewhere + 0.2


def test_batch_has_its_shapes_and_kinds(pairs):
    batch = make_batch(pairs, torch.tensor([0, 1, 2, 3, 0, 1]), SIZE, Deformation(), seeded())
    cells = (SIZE // CELL) ** 2
    assert batch.image0.shape == batch.image1.shape == batch.mask0.shape == batch.mask1.shape == (6, 1, SIZE, SIZE)
    assert batch.matrix.shape == (6, 3, 3) and batch.valid0.shape == batch.valid1.shape == (6, cells)
    assert all(t.isfinite().all() for t in batch)
    assert set(batch.mask0.unique().tolist()) <= {0.0, 1.0}
    assert (batch.modality0.sum(1) == 1).all() and (batch.modality1.sum(1) == 1).all()
    assert batch.valid0.dtype == batch.real0.dtype == torch.bool
    assert batch.image0.dtype == torch.float32


def test_both_roles_and_kinds_are_drawn(pairs):
    index = torch.zeros(200, dtype=torch.long)
    d = dataclasses.replace(PLAIN, same_modality=0.3, pseudo_sar=0.2)
    batch = make_batch(pairs, index, 32, d, seeded())
    same = (batch.modality0 == batch.modality1).all(1)
    assert 0.2 < same.float().mean() < 0.4
    assert 0.35 < batch.modality0[~same, 1].mean() < 0.65  # SAR is image0 as often as image1
    pseudo = ~(batch.real0 & batch.real1)
    assert 0.1 < pseudo.float().mean() < 0.3
    assert not (pseudo & same).any()
    assert (batch.modality0[~batch.real0, 1] == 1).all()
    only = make_batch(pairs, index[:20], 32, dataclasses.replace(d, same_modality=0.0, pseudo_sar=0.0), seeded())
    assert (only.modality0 != only.modality1).all() and only.real0.all() and only.real1.all()


def test_batch_depends_on_the_generator_alone(pairs):
    index = torch.tensor([0, 1, 2])
    torch.manual_seed(1)
    one = make_batch(pairs, index, SIZE, Deformation(), seeded(5))
    torch.manual_seed(2)
    two = make_batch(pairs, index, SIZE, Deformation(), seeded(5))
    torch.testing.assert_close(tuple(one), tuple(two), rtol=0, atol=0)
    other = make_batch(pairs, index, SIZE, Deformation(), seeded(6))
    assert not torch.equal(one.matrix, other.matrix)


def test_drawing_does_not_touch_the_pairs(pairs):
    before = pairs.optical.clone(), pairs.sar.clone()
    make_batch(pairs, torch.arange(4), SIZE, Deformation(), seeded())
    assert torch.equal(pairs.optical, before[0]) and torch.equal(pairs.sar, before[1])


def test_no_cell_sits_where_it_sat(pairs):
    """The identity is a poor guess: what training must not be able to learn. Of near pairs it is good: they are few."""
    far = dataclasses.replace(PLAIN, near=0.0)
    assert Deformation().near < 0.3
    batch = make_batch(pairs, torch.arange(32) % 4, SIZE, far, seeded())
    target = ground_truth(batch).target0
    own = torch.arange(target.shape[1])
    assert (target == own)[target >= 0].float().mean() < 0.15


def test_easing_gives_weaker_warps():
    d = Deformation()
    assert d.eased(0.0) == d
    easy = d.eased(1.0)
    assert easy.negative == easy.graphics == easy.any_turn == 0 and easy.framed == d.framed
    assert easy.rotation < d.rotation and easy.scale < d.scale and easy.shear == 0 and easy.perspective == 0

    def turn(deformation: Deformation) -> torch.Tensor:
        (w0, w1), _ = draw_warps(200, SIZE, 128, deformation, seeded(), CPU)
        relative = (torch.linalg.inv(w1) @ w0)[:, :2, :2]
        return torch.rad2deg(torch.atan2(relative[:, 1, 0], relative[:, 0, 0])).abs()

    assert turn(easy).max() < 10.5
    assert 35 < turn(dataclasses.replace(d, shear=0.0, perspective=0.0, any_turn=0.0)).max() < 50.5
    every = turn(dataclasses.replace(d, shear=0.0, perspective=0.0, any_turn=1.0, near=0.0))
    assert torch.histc(every, 6, 0, 180).min() > 15  # of 200: every turn of the circle
    some = turn(dataclasses.replace(d, shear=0.0, perspective=0.0, near=0.0))
    assert 0.05 < (some > 51).float().mean() < 0.2
    assert d.finished().any_turn == 0 and d.finished(0.3).any_turn == 0.3


def test_the_scale_between_two_images_reaches_two():
    strength = dataclasses.replace(Deformation(), shear=0.0, perspective=0.0)
    (w0, w1), _ = draw_warps(400, SIZE, 128, strength, seeded(), CPU)
    scale = (torch.linalg.inv(w1) @ w0)[:, :2, :2].det().abs().sqrt()
    assert 1.8 < scale.max() < 2.01 and 0.499 < scale.min() < 0.56


def test_nodata_is_black_and_half_of_it_is_told(pairs):
    d = dataclasses.replace(PLAIN, translation=0.8, framed=0.0)
    batch = make_batch(pairs, torch.arange(64) % 4, SIZE, d, seeded(1))
    for image, mask in ((batch.image0, batch.mask0), (batch.image1, batch.mask1)):
        assert (image[mask == 0] == 0).all()
        told = (mask == 0).flatten(1).any(1)
        assert 0.2 < told.float().mean() < 0.8


def test_valid_cells_show_the_source(pairs):
    """Where the mask tells what is inside: a valid cell is at least half inside."""
    d = dataclasses.replace(PLAIN, translation=0.8, framed=0.0)
    batch = make_batch(pairs, torch.arange(16) % 4, SIZE, d, seeded(1))
    assert 0.1 < batch.valid0.float().mean() < 0.999
    told = (batch.mask0 == 0).flatten(1).any(1)
    inside = torch.nn.functional.avg_pool2d(batch.mask0, CELL).flatten(1)
    assert (inside[batch.valid0] >= 0.5).all()
    assert told.any() and not batch.valid0[inside == 0].any()


@pytest.mark.parametrize("draw", [optical_photometry, sar_photometry, coarse_pseudo_sar, fine_pseudo_sar])
def test_photometry_keeps_places_and_is_finite(draw, pairs):
    image = pairs.optical.float().mean(1, keepdim=True).repeat(4, 1, 1, 1) / 255
    out = draw(image, seeded())
    assert out.shape == image.shape and out.isfinite().all()
    for extreme in (torch.zeros_like(image), torch.ones_like(image)):
        assert draw(extreme, seeded()).isfinite().all()
    a, b = structure(image)[:, 0, 8:-8, 8:-8], structure(out)[:, 0]
    at = lambda dy, dx: np.corrcoef(a.flatten(), b[:, 8 + dy : dy - 8 or None, 8 + dx : dx - 8 or None].flatten())[0, 1]  # noqa: E731
    assert at(0, 0) > max(at(0, 4), at(4, 0), at(-4, 0), at(0, -4))


def test_blur_by_hand():
    image = torch.zeros(2, 1, 9, 9)
    image[:, :, 4, 4] = 1
    out = blur(image, torch.tensor([0.0, 0.8]))
    torch.testing.assert_close(out[0], image[0])
    torch.testing.assert_close(out[1].sum(), torch.tensor(1.0))
    taps = torch.exp(-0.5 * (torch.arange(-2, 3) / 0.8) ** 2)
    torch.testing.assert_close(out[1, 0, 2:7, 2:7], torch.outer(taps, taps) / taps.sum() ** 2)


def test_framed_pairs_show_the_whole_of_image0(pairs):
    strength = dataclasses.replace(PLAIN.finished(), cropped=0.0)
    batch = make_batch(pairs, torch.arange(4).repeat(8), 64, strength, seeded(3))
    assert batch.valid0.all() and (batch.mask0 == 1).all()  # no edge of the source in the frame
    assert not batch.valid1.all()  # but image1 shows where it ends
    ends = (batch.image1 == 0).flatten(1).float().mean(1)
    assert (ends > 0.02).sum() > (ends <= 0.02).sum() / 8


def test_part_of_the_pairs_is_framed(pairs):
    _, framed = draw_warps(400, SIZE, 128, Deformation(framed=0.75), seeded(), CPU)
    assert 0.68 < framed.float().mean() < 0.82


def test_an_optical_image_alone_gets_a_drawn_sar_partner(pairs):
    alone = dataclasses.replace(pairs, sar=torch.zeros_like(pairs.sar), has_sar=torch.zeros(4, dtype=torch.bool))
    batch = make_batch(alone, torch.arange(16) % 4, SIZE, PLAIN, seeded(2))
    is_sar = batch.modality0[:, 1] == 1
    assert is_sar.any() and (batch.real0 == ~is_sar).all()
    assert (batch.image0.flatten(1).std(1) > 0.01).all()


def test_a_turned_square_is_one():
    pixels = grid_points(SIZE, SIZE, 1.0, 0.0, CPU).expand(40, -1, -1)
    inside = turned_square(pixels, SIZE, seeded())
    assert inside.shape == (40, 1, SIZE, SIZE) and inside.dtype == torch.bool
    share = inside.float().mean(dim=(1, 2, 3))
    assert float(share.min()) > 0.2 and float(share.max()) <= 1 and len(share.unique()) > 20
    for axis in (2, 3):  # a convex shape meets each line in one run
        changes = (inside.int().diff(dim=axis) != 0).sum(axis)
        assert int(changes.max()) <= 2


def test_near_pairs_are_nearly_registered():
    corners = torch.tensor([[0.0, 0], [SIZE - 1, 0], [0, SIZE - 1], [SIZE - 1, SIZE - 1]])
    moved = {}
    for near in (0.0, 1.0):
        strength = dataclasses.replace(Deformation().finished(), near=near)
        (w0, w1), _ = draw_warps(64, SIZE, 128, strength, seeded(), CPU)
        there = transform_points(torch.linalg.inv(w1) @ w0, corners.expand(64, -1, -1))
        moved[near] = float((there - corners).norm(dim=-1).mean())
    assert moved[1.0] < 0.35 * moved[0.0] and moved[1.0] < 0.15 * SIZE


def test_cropped_images_end_where_the_other_does_not(pairs):
    index = torch.zeros(64, dtype=torch.long)
    strength = dataclasses.replace(PLAIN.finished(), framed=0.0)
    whole, cropped = (
        make_batch(pairs, index, SIZE, dataclasses.replace(strength, cropped=share), seeded()) for share in (0.0, 1.0)
    )
    for k in (0, 1):
        shown = [float((getattr(b, f"image{k}") != 0).float().mean()) for b in (whole, cropped)]
        assert shown[1] < shown[0] - 0.1


def test_a_share_is_held_in_every_batch():
    counts = [int(share_of(16, 0.1, seeded(k), CPU).sum()) for k in range(60)]
    assert set(counts) == {1, 2} and 1.4 < np.mean(counts) < 1.8
    first = torch.stack([share_of(16, 0.1, seeded(k), CPU) for k in range(200)]).float().mean(0)
    assert first.min() > 0.02 and first.max() < 0.25  # whichever rows
    assert not share_of(16, 0.0, seeded(), CPU).any() and share_of(16, 1.0, seeded(), CPU).all()


def test_negatives_have_no_truth(pairs):
    index = torch.arange(20) % 4
    named = dataclasses.replace(pairs, scene=torch.arange(4))
    batch = make_batch(named, index, SIZE, dataclasses.replace(PLAIN, negative=0.4), seeded(1))
    assert batch.negative.sum() == 8
    assert not batch.valid0[batch.negative].any() and not batch.valid1[batch.negative].any()
    assert batch.valid0[~batch.negative].any(1).all()
    assert (batch.scene == torch.where(batch.negative, -1, index)).all()
    truth = ground_truth(batch)
    assert (truth.target0[batch.negative] == -1).all() and (truth.target1[batch.negative] == -1).all()
    assert (truth.target0[~batch.negative] >= 0).any()
    assert not make_batch(pairs, index, SIZE, PLAIN, seeded(1)).negative.any()


def test_negatives_show_two_places_or_nothing(pairs):
    """Two of four sources of one grey each: what an image shows tells where it comes from."""
    greys = torch.tensor([0, 255, 0, 255], dtype=torch.uint8)
    plain = dataclasses.replace(
        pairs, optical=greys.view(4, 1, 1, 1).expand(4, 3, 128, 128), sar=greys.view(4, 1, 1, 1).expand(4, 1, 128, 128)
    )
    d = dataclasses.replace(SAME, negative=1.0, cropped=0.0, framed=0.0, translation=0.0, near=1.0)
    batch = make_batch(plain, torch.arange(200) % 4, SIZE, d, seeded())
    nothing = ~(batch.real0 & batch.real1)
    assert 0.35 < nothing.float().mean() < 0.65
    assert 0.2 < (~batch.real0 & ~batch.real1)[nothing].float().mean() < 0.5
    sar = (batch.modality0[:, 1] == 1) & ~nothing
    middle = lambda image: image[:, 0, 24:40, 24:40].mean((1, 2))  # noqa: E731
    apart = (middle(batch.image0) - middle(batch.image1)).abs()
    assert sar.any() and (apart[sar] > 0.5).all()
    # A batch of one pair over and over has no other place to show.
    lone = make_batch(pairs, torch.zeros(8, dtype=torch.long), SIZE, dataclasses.replace(PLAIN, negative=1.0), seeded())
    assert lone.negative.all() and not (lone.real0 & lone.real1).any()


def test_graphics_lie_on_the_same_pixels_and_take_the_truth_away(pairs):
    index = torch.arange(8) % 4
    without = dataclasses.replace(PLAIN, cropped=0.0, framed=0.0, translation=0.0)
    plain = make_batch(pairs, index, SIZE, without, seeded(4))
    drawn = make_batch(pairs, index, SIZE, dataclasses.replace(without, graphics=1.0), seeded(4))
    assert torch.equal(plain.matrix, drawn.matrix)
    changed = [(a != b)[:, 0] for a, b in ((plain.image0, drawn.image0), (plain.image1, drawn.image1))]
    both = (changed[0] & changed[1]).flatten(1).sum(1)
    assert (both > 0.9 * torch.minimum(*(c.flatten(1).sum(1) for c in changed))).all() and (both > 20).all()
    lost = plain.valid0 & ~drawn.valid0
    assert lost.any() and not (drawn.valid0 & ~plain.valid0).any()
    per_cell = torch.nn.functional.avg_pool2d(changed[0].float()[:, None], CELL).flatten(1)
    assert (per_cell[lost] > 0.5).all()
    seen_in_both = plain.valid0 & plain.valid1
    assert torch.equal(lost & seen_in_both, plain.valid1 & ~drawn.valid1 & seen_in_both)
