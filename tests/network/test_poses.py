"""Poses of the first look: which image turns, what supports a pose, and that turned and scaled pairs are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_matches, lively_net, needs_weights, paired, picture
from torch import Tensor

from kornia_tar import TARMatcher
from kornia_tar.conventions import turn_back
from kornia_tar.network import poses
from kornia_tar.network.frames import Frame, ImageFeatures, Matches, part_of
from kornia_tar.network.net import with_second_look
from kornia_tar.network.poses import WORTH_A_LOOK, choose, mean_confidence, shrink, turn_support, turns_second
from kornia_tar.raster.synthetic import draw_scene

OPTICAL, SAR = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


def frame(image: Tensor, modality: Tensor = OPTICAL, mask: Tensor | None = None) -> Frame:
    none = torch.zeros(0)
    return Frame(image, modality.expand(len(image), -1), mask, ImageFeatures(none, none, none, None))


def matches(points0: Tensor, points1: Tensor, confidence: float, batch: list[int] | None = None) -> Matches:
    count = len(points0)
    pair = torch.zeros(count, dtype=torch.long) if batch is None else torch.tensor(batch)
    return Matches(points0, points1, torch.full((count,), confidence), torch.ones(count), pair)


@pytest.mark.parametrize("quarters", range(-1, 5))
def test_pixels_of_a_turned_image_come_back_to_the_same_pixels(quarters):
    image = np.arange(5 * 7).reshape(5, 7)
    turned = np.rot90(image, quarters)
    assert np.array_equal(turned, torch.from_numpy(image).rot90(quarters))
    y, x = np.indices(turned.shape)
    x, y = turn_back(x, y, quarters, *image.shape)
    np.testing.assert_array_equal(image[y, x], turned)


def test_the_same_image_turns_whichever_place_it_has():
    one, two, small = picture(1, 64, 64, 3), picture(2, 64, 64, 3), picture(3, 48, 64, 3)
    hides = torch.ones(3, 1, 64, 64)
    hides[..., :20] = 0
    cases = {
        "smaller": (frame(small), frame(one)),
        "radar": (frame(one, SAR), frame(two)),
        "content": (frame(one), frame(two)),
        "content under a mask": (frame(one, mask=hides), frame(one)),
        "sides": (frame(one.reshape(3, 1, 32, 128)), frame(two)),
    }
    for name, (first, second) in cases.items():
        assert (turns_second(first, second) != turns_second(second, first)).all(), name
    for name in ("smaller", "radar"):
        assert turns_second(*cases[name][::-1]).all(), name
    other = torch.where(hides > 0, one, 9.0)  # what a mask hides decides nothing
    for mask in (hides, None):
        first = frame(two, mask=mask)
        assert torch.equal(turns_second(first, frame(other, mask=hides)), turns_second(first, frame(one, mask=hides)))


def test_support_is_the_confidence_that_agrees():
    generator = torch.Generator().manual_seed(0)
    p0 = 250 * torch.rand(300, 2, generator=generator)
    turn = torch.tensor([[0.0, -1.1], [1.1, 0.0]])
    right = torch.arange(300) < 120
    p1 = torch.where(right[:, None], p0 @ turn.T + 30, 250 * torch.rand(300, 2, generator=generator))
    found = matches(p0, p1, 0.5)
    assert 59.9 < turn_support(found, 1) < 65
    assert turn_support(found._replace(points1=p1.flip(0)), 1) < WORTH_A_LOOK
    together = Matches(*(torch.cat([t, t[:120]]) for t in found[:4]), torch.tensor([0] * 300 + [2] * 120))
    support = turn_support(together, 3)
    assert support[1] == 0 and 59.9 < support[0] < 65 and 59 < support[2] <= 60.1


def test_each_pair_gets_the_matches_of_its_own_turn():
    one = matches(torch.zeros(4, 2), torch.zeros(4, 2), 0.2, [0, 0, 1, 2])
    two = matches(torch.ones(3, 2), torch.ones(3, 2), 0.6, [0, 1, 1])
    joined = choose([one, two], [0, 1, 1])
    assert joined.batch.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(joined.confidence, torch.tensor([0.2, 0.2, 0.6, 0.6]))
    torch.testing.assert_close(mean_confidence(joined, 3), torch.tensor([0.2, 0.6, 0.0]))
    part = joined.rows([1, 2], 3)
    assert part.batch.tolist() == [0, 0] and (part.points0 == 1).all()
    assert part.placed(part_of([1, 2], 3, part.batch.device)).batch.tolist() == [1, 1]
    assert joined.rows([0, 1, 2], 3) is joined is joined.placed(part_of([0, 1, 2], 3, part.batch.device))
    assert choose([one, two], [-1, 0, -1]).batch.tolist() == [1] and choose([one, two], [1, 1, 1]) is two
    assert (joined.longest(3), joined.counts(3).tolist(), part.longest(1)) == (2, [2, 2, 0], 2)


def scene_pair(quarters: int, seed: int = 4) -> dict[str, object]:
    """An optical and a SAR image of different odd sizes, the SAR image turned; 9 and 5 px apart before that."""
    scene = draw_scene(seed, 192)
    optical = torch.from_numpy(scene.optical[:150, :171, 1].copy())[None, None].float() / 255
    sar = torch.from_numpy(scene.sar[5:160, 9:170].copy())[None, None].float() / 255
    return {"image0": optical, "image1": sar.rot90(quarters, (2, 3)), "modality0": "optical", "modality1": "sar"}


def errors(out: dict[str, Tensor], quarters: int) -> Tensor:
    upright = torch.stack(turn_back(*out["keypoints1"].unbind(-1), quarters, 155, 161), -1)
    return (upright + torch.tensor([9.0, 5.0]) - out["keypoints0"]).norm(dim=1)


def assert_exchange_changes_nothing(matcher: TARMatcher, data: dict[str, object], found: dict[str, Tensor]) -> None:
    swapped = matcher({key[:-1] + str(1 - int(key[-1])): value for key, value in data.items()})
    swapped["keypoints0"], swapped["keypoints1"] = swapped["keypoints1"], swapped["keypoints0"]
    assert_same_matches(paired(found), paired(swapped), 1e-2)


@pytest.fixture(scope="module")
def shipped() -> TARMatcher:
    return TARMatcher().fuse()


@torch.no_grad()
@needs_weights
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_pairs_are_found(shipped, quarters):
    data = scene_pair(quarters)
    assert (errors(shipped(data), quarters) < 3).sum() > 200
    shipped.turns = 1
    try:
        assert (errors(shipped(data), quarters) < 3).sum() < 20
    finally:
        shipped.turns = 4


@torch.no_grad()
@needs_weights
def test_an_upright_pair_costs_and_says_the_same(shipped):
    data = scene_pair(0)
    encoded: list[int] = []
    hook = shipped.net.msfl.register_forward_hook(lambda *_: encoded.append(1))
    values = data["image0"], data["image1"], OPTICAL, SAR
    one, all_poses = (shipped.net(*values, looks=2, turns=turns, scales=scales) for turns, scales in ((1, 1), (4, 3)))
    hook.remove()
    assert len(encoded) == 8
    torch.testing.assert_close(one, all_poses, rtol=0, atol=0)


@torch.no_grad()
@needs_weights
def test_swap_batch_and_masks_hold_where_pairs_turn(shipped):
    pairs = [scene_pair(k, seed) for k, seed in ((2, 4), (0, 5))]
    data = {k: torch.cat([p[k] for p in pairs]) for k in ("image0", "image1")}
    data |= {"modality0": "optical", "modality1": ["sar", "optical"]}
    data["mask1"] = torch.ones(2, *data["image1"].shape[2:])
    data["mask1"][:, :, :20] = 0
    whole = shipped(data)
    assert whole["batch_indexes"].unique().tolist() == [0, 1]
    assert (whole["keypoints1"][:, 0].round() >= 20).all()
    hidden = {**data, "image1": torch.where(data["mask1"][:, None] > 0, data["image1"], 7.0)}
    torch.testing.assert_close(shipped(hidden), whole, rtol=0, atol=0)
    assert_exchange_changes_nothing(shipped, data, whole)
    for b in range(2):
        single = shipped({k: [v[b]] if isinstance(v, list) else v if isinstance(v, str) else v[b : b + 1]
                          for k, v in data.items()})  # fmt: skip
        mine = {k: v[whole["batch_indexes"] == b] for k, v in whole.items() if "lafs" not in k}
        mine["batch_indexes"] = torch.zeros_like(mine["batch_indexes"])
        assert_same_matches(paired(single), paired(mine), 1e-2)


@torch.no_grad()
@needs_weights
@pytest.mark.parametrize("other", ["noise", "scene"])
def test_many_poses_do_not_make_chance_look_like_evidence(shipped, other):
    white = torch.rand(2, 1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    data = {"image0": white[0] if other == "noise" else scene_pair(0)["image0"], "image1": white[1]}
    found = shipped(data | {"modality0": "optical", "modality1": "sar"})["confidence"]
    assert len(found) > 0 and (found > 0.5).sum() == 0


@torch.no_grad()
@needs_weights
def test_half_precision_turns_too():
    assert (errors(TARMatcher().fuse().bfloat16()(scene_pair(1)), 1) < 4).sum() > 150


@needs_weights
def test_gradients_reach_both_images_of_a_turned_pair(shipped):
    data = scene_pair(3)
    for key in ("image0", "image1"):
        data[key] = data[key].clone().requires_grad_()
    out = shipped(data)
    (out["keypoints1"].sum() + out["confidence"].sum()).backward()
    for key in ("image0", "image1"):
        assert data[key].grad.isfinite().all() and data[key].grad.abs().sum() > 0


def scaled_pair(factor: float, quarters: int = 0) -> tuple[dict[str, object], Tensor]:
    """A pair whose SAR image is ``factor`` times as large, and the (2, 3) matrix from image0 to image1."""
    data = scene_pair(0)
    small = data["image1"]
    size = [round(factor * side) for side in small.shape[2:]]
    image1 = F.interpolate(small, size, mode="bilinear", antialias=True)
    height, width = image1.shape[2:]
    turned = image1.rot90(quarters, (2, 3))
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ratio = torch.tensor([width / small.shape[3], height / small.shape[2]])
    y = (x - torch.tensor([9.0, 5.0]) + 0.5) * ratio - 0.5
    y = torch.stack(turn_back(*y.unbind(-1), -quarters % 4, *turned.shape[2:]), -1)
    matrix = torch.stack([y[1] - y[0], y[2] - y[0], y[0]], -1)
    return {**data, "image1": turned}, matrix


def scaled_errors(out: dict[str, Tensor], matrix: Tensor) -> Tensor:
    return (out["keypoints0"] @ matrix[:, :2].T + matrix[:, 2] - out["keypoints1"]).norm(dim=1)


@torch.no_grad()
@needs_weights
def test_pairs_of_another_scale_are_found(shipped):
    data, matrix = scaled_pair(2.4, 1)
    assert (scaled_errors(shipped(data), matrix) < 7).sum() > 1000
    shipped.scales = 1
    try:
        assert (scaled_errors(shipped(data), matrix) < 7).sum() < 20
    finally:
        shipped.scales = 3


@pytest.mark.slow  # the same pair twice more
@torch.no_grad()
@needs_weights
def test_pairs_of_another_scale_are_found_whichever_place_they_have(shipped):
    data, _ = scaled_pair(2.4, 1)
    assert_exchange_changes_nothing(shipped, data, shipped(data))


@torch.no_grad()
def test_an_answer_that_must_be_confirmed_and_is_not_does_not_count(monkeypatch):
    monkeypatch.setattr(poses, "SURE_LOOK", 2.0)  # nothing is ever sure
    net, image = with_second_look(lively_net()).eval(), picture(0, 64, 64)
    four = net(image, image.flip(3), looks=2, turns=4)
    monkeypatch.setattr(poses, "CONFIRMED", 1.1)
    torch.testing.assert_close(net(image, image.flip(3), looks=2, turns=4, scales=3), four, rtol=0, atol=0)
    monkeypatch.setattr(poses, "CONFIRMED", -1.0)
    assert len(net(image, image.flip(3), looks=2, turns=4, scales=3).confidence) > 0


def test_a_shrunk_image_keeps_what_its_mask_shows():
    image, mask = picture(0, 60, 80), torch.ones(1, 1, 60, 80)
    mask[..., :30] = 0
    small, valid = shrink(torch.where(mask > 0, image, 99.0), mask, 0.5)
    assert small.shape == (1, 1, 30, 40) and valid[..., 16:].all() and not valid[..., :14].any()
    assert (small[..., :14] == 0).all() and small.max() <= image.max()
    whole, none = shrink(image, None, 0.5)
    assert none is None
    torch.testing.assert_close(small[..., 17:], whole[..., 17:])
    assert shrink(image, mask, 1.0) == (image, mask)


@torch.no_grad()
@pytest.mark.parametrize("small", [0, 1])
def test_the_image_that_turns_alone_is_encoded_again(small):
    images = [picture(0, 64, 96), picture(1, 64, 96)]
    images[small] = picture(2, 48, 80)
    net, seen = lively_net(), []
    hook = net.msfl.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[2:])))
    net(*images, turns=4)
    hook.remove()
    assert seen[2:] == [(80, 48), (48, 80), (80, 48)]


def test_tiny_images_are_not_shrunk():
    image = picture(0, 48, 48)
    net, seen = lively_net(), []
    hook = net.msfl.register_forward_pre_hook(lambda _, given: seen.append(min(given[0].shape[2:])))
    net(image, image.flip(3), turns=1, scales=3)
    hook.remove()
    assert min(seen) == 48


def test_other_turns_and_scales_are_refused():
    image = picture(0, 64, 64)
    with pytest.raises(ValueError, match="turns is 8"):
        lively_net()(image, image, turns=8)
    with pytest.raises(ValueError, match="scales is 2"):
        lively_net()(image, image, scales=2)
