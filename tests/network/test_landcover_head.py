"""The land-cover head: probabilities of words, ground around a cell, other words; the matching stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import SMALL, lively_net, picture

from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint
from kornia_tar.network.frames import OTHERS, ImageFeatures, Steering
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import TARConfig, TARNet, with_landcover, with_padding
from kornia_tar.network.tafe import (
    BRIGHTNESS,
    LandCoverConfig,
    LandCoverHead,
    brightness,
    otsu_level,
    read_ground,
)

CONFIG = LandCoverConfig(text_dim=16, classes=4, width=8, hidden=16, windows=(3,))
OPTICAL = torch.tensor([[1.0, 0.0]])


@pytest.fixture
def head() -> LandCoverHead:
    torch.manual_seed(0)
    head = LandCoverHead(32, CONFIG).eval()
    head.set_text(F.normalize(torch.randn(4, 16), dim=1))
    return head


def with_head(net: TARNet) -> TARNet:
    net = with_landcover(net, CONFIG, seed=3)
    net.landcover.set_text(F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), dim=1))
    return net


@torch.no_grad()
def test_words_and_none_of_them_share_a_cell(head):
    cover = head(torch.randn(2, 32, 6, 5), OPTICAL.expand(2, -1))
    assert cover.shape == (2, 4, 6, 5) and (cover >= 0).all()
    assert (cover.sum(1) < 1).all()


@torch.no_grad()
def test_a_word_is_scored_the_same_whatever_the_others_are(head):
    x, words = torch.randn(1, 32, 6, 6), F.normalize(torch.randn(4, 16), dim=1)
    head.set_text(words)
    before = head.scores(x, OPTICAL)
    head.set_text(words[[2, 0]])
    torch.testing.assert_close(head.scores(x, OPTICAL), before[:, [2, 0]])
    with pytest.raises(ValueError, match=r"\(K, 16\)"):
        head.set_text(torch.zeros(3, 8))


@torch.no_grad()
def test_some_cells_see_the_same_ground_as_all_do(head):
    x = torch.randn(1, 32, 8, 8)
    every = head(x, OPTICAL)
    part = slice(1, None, 2), slice(0, None, 2)
    torch.testing.assert_close(head(x, OPTICAL, cells=part), every[:, :, *part])


@torch.no_grad()
def test_what_shows_no_ground_says_nothing_to_others(head):
    x, valid = torch.randn(1, 32, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)
    valid[:, :, 4:] = False
    changed = x.clone()
    changed[..., 4:] = 9.0
    one, two = head(x, OPTICAL, valid), head(changed, OPTICAL, valid)
    torch.testing.assert_close(one[..., :4], two[..., :4])


@torch.no_grad()
def test_the_projection_nearly_keeps_the_angles_of_texts_and_none_of_the_texts():
    head = LandCoverHead(32, LandCoverConfig(text_dim=512, classes=20, width=8, hidden=16, windows=(3,)))
    text = F.normalize(torch.randn(20, 512) + 0.7 * torch.randn(512), dim=1)
    head.teach(text)
    assert max(tensor.shape[-1] for name, tensor in head.state_dict().items() if name in ("words", "common")) == 128
    one, other = (F.normalize(t - t.mean(0), dim=1) for t in (text, head.words))
    assert (one @ one.T - other @ other.T).abs().max() < 0.4
    assert (one @ one.T - other @ other.T).square().mean().sqrt() < 0.12
    torch.testing.assert_close(head.common, head.words.mean(0))


def test_a_window_has_a_middle():
    with pytest.raises(ValueError, match="odd"):
        LandCoverHead(32, replace(CONFIG, windows=(4,)))


@torch.no_grad()
def test_the_matching_knows_nothing_of_the_head():
    net = lively_net()
    other = with_head(net)
    images = picture(1, 64, 64), picture(2, 64, 64)
    for one, two in zip(net(*images, OPTICAL, OPTICAL), other(*images, OPTICAL, OPTICAL), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(other.encode(images[0], OPTICAL).landcover, net.encode(images[0], OPTICAL).landcover)
    told = other.encode(images[0], OPTICAL, words=True)
    assert not torch.equal(told.landcover, net.encode(images[0], OPTICAL).landcover)
    assert torch.equal(told.coarse, net.encode(images[0], OPTICAL).coarse)


def test_checkpoints_carry_it_and_older_ones_lack_it(tmp_path):
    net = with_head(lively_net())
    save_checkpoint(tmp_path / "new.safetensors", net, {"landcover": {"seen": ["a"]}})
    save_checkpoint(tmp_path / "old.safetensors", with_landcover(net, None), {})
    new, info = load_checkpoint(tmp_path / "new.safetensors")
    old, _ = load_checkpoint(tmp_path / "old.safetensors")
    assert info["landcover"]["seen"] == ["a"] and old.landcover is None and old.config == SMALL
    assert new.config.landcover == CONFIG
    torch.testing.assert_close(new.landcover.words, net.landcover.words, atol=1e-3, rtol=0)
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name


@pytest.mark.parametrize("told", [{"seen": "river"}, {"seen": [3]}, ["river"]])
def test_what_is_told_of_the_words_is_checked(told, tmp_path):
    save_checkpoint(tmp_path / "bad.safetensors", lively_net(), {"landcover": told})
    with pytest.raises(ValueError, match="landcover"):
        load_checkpoint(tmp_path / "bad.safetensors")


def test_steering_masks_what_is_ignored_and_weighs_the_rest():
    cover = torch.tensor([[0.7, 0.2, 0.0], [0.1, 0.3, 0.0], [0.0, 0.4, 1.0]]).view(1, 3, 1, 3)
    features = ImageFeatures(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 4, 12), cover, None)
    yes, no = torch.tensor([True, False, False]), torch.tensor([False, False, False])
    found = Steering(yes, no).applied(features)
    assert found.mask.tolist() == [[[False, True, True]]]
    torch.testing.assert_close(found.weight, torch.tensor([[[0.3, 0.8, 1.0]]]))
    found = Steering(no, torch.tensor([False, False, True])).applied(features)
    assert found.mask.all()
    torch.testing.assert_close(found.weight, torch.tensor([[[OTHERS, OTHERS + (1 - OTHERS) * 0.4, 1.0]]]))
    assert torch.equal(found.rows(slice(0, 1)).weight, found.weight)
    assert found.window(slice(0, 1), slice(1, 3)).weight.shape == (1, 1, 2)


@torch.no_grad()
def test_ground_is_read_alike_at_the_border_and_in_the_middle():
    net = lively_net()
    even = torch.ones(1, 1, 128, 128)
    spread = [
        (part - part[:, :, 8:9, 8:9]).abs().mean()
        for part in (net.msfl(even, OPTICAL).coarse, read_ground(net.msfl, even, OPTICAL)[:, :32])
    ]
    assert spread[1] < 0.1 * spread[0]


@torch.no_grad()
def test_ground_of_a_batch_is_that_of_each_and_fits_the_cells():
    net = lively_net()
    images = standardise(torch.cat([picture(k, 40, 72) for k in range(2)]))
    both = read_ground(net.msfl, images, torch.eye(2))
    assert both.shape == (2, 32 + BRIGHTNESS, 6, 10)
    for k in range(2):
        alone = read_ground(net.msfl, images[k : k + 1], torch.eye(2)[k : k + 1])
        torch.testing.assert_close(both[k : k + 1], alone, atol=1e-5, rtol=1e-5)
    told = with_head(net).encode(images, torch.eye(2), words=True)
    assert told.landcover.shape[2:] == told.coarse.shape[2:] == (6, 10)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 48), (40, 72)])
def test_features_that_do_not_tell_the_border_are_read_as_they_are(size):
    net = with_head(with_padding(lively_net(), "replicate"))
    images = standardise(picture(5, *size))
    found = net.encode(images, OPTICAL, words=True)
    wanted = net.landcover(read_ground(net.msfl, standardise(images), OPTICAL), OPTICAL, found.mask)
    torch.testing.assert_close(found.landcover, wanted, atol=1e-5, rtol=1e-5)


def test_brightness_is_told_in_the_image_s_own_terms():
    image = torch.full((2, 1, 64, 64), 1.0)
    image[:, :, :, :16] = -2.0
    image[:, :, 32, 32] = 3.0
    mean, spread, least, greatest, above, dark = brightness(image).unbind(1)
    torch.testing.assert_close(mean[:, :, :2], torch.full((2, 8, 2), -2.0))
    assert (spread[:, :, :2] == 0).all() and spread[0, 4, 4] > 0.2 and greatest[0, 4, 4] == 3 and least[0, 4, 4] == 1
    assert (dark[:, :, :1] == 1).all() and (dark[:, :, 3:] == 0).all()
    assert (above[:, :, :2] < 0).all() and (above[:, :, 3:] > 0).all()


def test_nodata_says_nothing_of_brightness():
    image, mask = torch.randn(1, 1, 64, 64).clamp(-3, 3), torch.ones(1, 1, 64, 64)
    mask[..., 40:] = 0  # 20 px beyond the blur's reach are left to compare
    other = image.clone()
    other[..., 40:] = -3.5
    one, two = (brightness(part * mask, mask) for part in (image, other))
    torch.testing.assert_close(one, two)
    assert two[:, 2, :, :5].min() > -3.5 and torch.isfinite(two).all()
    assert torch.isfinite(brightness(image, torch.zeros_like(mask))).all()


def test_the_level_lies_between_two_brightnesses():
    image = torch.cat([torch.full((1, 1, 8, 6), -1.0), torch.full((1, 1, 8, 2), 2.0)], 3)
    shown = torch.ones_like(image)
    assert -1 < float(otsu_level(image, shown)) < 2
    shown[..., :6] = 0
    shown[..., 5] = 1
    assert -1 < float(otsu_level(image, shown)) < 2


@torch.no_grad()
@pytest.mark.parametrize("bright", [False, True])
def test_steering_is_by_the_map_that_is_drawn(bright):
    net = with_landcover(lively_net(), replace(CONFIG, brightness=bright), seed=3)
    net.landcover.set_text(F.normalize(torch.randn(4, 16), dim=1))
    image = picture(1, 64, 48)
    drawn = net.encode(image, OPTICAL, words=True)
    net.steering = Steering(torch.tensor([True, False, False, False]), torch.zeros(4, dtype=torch.bool))
    steered = net.encode(image, OPTICAL)
    assert torch.equal(steered.landcover, drawn.landcover) and torch.equal(steered.coarse, drawn.coarse)
    torch.testing.assert_close(steered.weight, 1 - drawn.landcover[:, 0])


def test_heads_that_never_read_brightness_still_load(tmp_path):
    config = TARConfig.from_dict({**SMALL.to_dict(), "landcover": {"text_dim": 16, "classes": 4, "windows": [3]}})
    assert config.landcover is not None and not config.landcover.brightness
    net = with_landcover(lively_net(), config.landcover)
    save_checkpoint(tmp_path / "old.safetensors", net, {})
    found, _ = load_checkpoint(tmp_path / "old.safetensors")
    assert found.landcover.enter[0].num_features == 32
