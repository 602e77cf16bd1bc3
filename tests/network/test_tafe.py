"""TAFE: text is added through a gate, and what acts can be looked at."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kornia_tar.network.tafe import TAFE, TAFEConfig


@pytest.fixture
def tafe() -> TAFE:
    torch.manual_seed(0)
    tafe = TAFE(32, TAFEConfig(text_dim=16, classes=4)).eval()
    tafe.set_text(F.normalize(torch.randn(4, 16), dim=1))
    return tafe


@torch.no_grad()
def test_a_new_gate_leaves_the_features_alone(tafe):
    x = torch.randn(2, 32, 6, 5)
    torch.testing.assert_close(tafe(x).features, x, rtol=0, atol=0)
    tafe.gate.fill_(0.5)
    assert (tafe(x).features - x).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("classes", [1, 4, 9])
def test_land_cover_is_a_probability_over_the_names(tafe, classes):
    tafe.set_text(torch.randn(classes, 16))
    cover = tafe(torch.randn(2, 32, 6, 5)).landcover
    assert cover.shape == (2, classes, 6, 5)
    torch.testing.assert_close(cover.sum(1), torch.ones(2, 6, 5))
    assert (cover >= 0).all()


@torch.no_grad()
def test_land_cover_finds_the_name_that_a_pixel_looks_like(tafe):
    tafe.query.weight.copy_(torch.eye(32)[:, :, None, None])
    pixels = tafe.tokens[[2, 0, 3, 1]].t().reshape(1, 32, 2, 2)
    assert tafe(pixels).landcover.argmax(1).flatten().tolist() == [2, 0, 3, 1]
    brighter = tafe(5 * pixels).landcover
    torch.testing.assert_close(brighter, tafe(pixels).landcover)  # cosine: the length of a feature does not matter


@torch.no_grad()
def test_stored_tokens_do_what_their_text_does(tafe):
    text, x = torch.randn(4, 16), torch.randn(1, 32, 4, 4)
    tafe.gate.normal_()
    given = tafe(x, text)
    tafe.set_text(text)
    torch.testing.assert_close(tafe(x), given)


@torch.no_grad()
def test_order_of_the_names_does_not_change_the_features(tafe):
    text, x = torch.randn(4, 16), torch.randn(1, 32, 4, 4)
    tafe.gate.normal_()
    order = [3, 1, 0, 2]
    one, two = tafe(x, text), tafe(x, text[order])
    torch.testing.assert_close(one.features, two.features)
    torch.testing.assert_close(one.landcover[:, order], two.landcover)


@pytest.mark.parametrize("shape", [(4, 15), (4, 512), (16,), (1, 4, 16)])
def test_text_of_another_width_is_refused(tafe, shape):
    before = tafe.tokens.clone()
    with pytest.raises(ValueError, match=r"\(K, 16\)") as caught:
        tafe.set_text(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    torch.testing.assert_close(tafe.tokens, before)


@torch.no_grad()
def test_no_names_switch_text_off():
    tafe = TAFE(32, TAFEConfig(text_dim=16, classes=0))
    torch.nn.init.ones_(tafe.gate)
    x = torch.randn(2, 32, 6, 5)
    enhanced = tafe(x)
    torch.testing.assert_close(enhanced.features, x, rtol=0, atol=0)
    assert enhanced.landcover.shape == (2, 0, 6, 5)


def test_tokens_travel_with_the_weights(tafe):
    assert "tokens" in tafe.state_dict()
    assert not tafe.tokens.requires_grad
