"""Exchanging the text that steers a matcher."""

from __future__ import annotations

import pytest
import torch
from helpers import KEYS, check_contract, pair, paired, picture, small_matcher

from kornia_tar import TARMatcher
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.text import RandomPrior, TextBank, embed_classes

NAMES = ("Forest", "River", "Farmland", "Residential")


def bank(encoder: str = "trained encoder", dim: int = 16, names: tuple[str, ...] = NAMES) -> TextBank:
    generator = torch.Generator().manual_seed(7)
    return TextBank(names, torch.randn(len(names), dim, generator=generator), encoder, ("a photo of {}",))


@pytest.fixture
def trained(tmp_path) -> TARMatcher:
    """A matcher from a checkpoint that says which text it was trained with."""
    info = {"text": {"encoder": "trained encoder", "names": list(NAMES), "templates": ["a photo of {}"]}}
    save_checkpoint(tmp_path / "weights.safetensors", small_matcher().net, info)
    return TARMatcher(tmp_path / "weights.safetensors", threshold=0.0)


def test_checkpoint_tells_its_names(trained):
    assert trained.text_names == NAMES


def test_bank_of_the_same_encoder_may_bring_other_names(trained):
    more = bank(names=(*NAMES, "Desert"))
    assert trained.set_text_prior(more) is trained
    assert trained.text_names == more.names
    assert trained.landcover(picture(1, 64, 64)).shape[1] == 5
    trained.set_text_prior(more, names=["River", "Desert"])
    assert trained.text_names == ("River", "Desert")
    assert trained.net.tafe.tokens.shape == (2, 32)
    assert set(trained(pair())) == KEYS


def test_bank_of_another_encoder_is_refused_unless_told_otherwise(trained, tmp_path):
    other = bank("other encoder")
    before = trained.net.tafe.tokens.clone()
    with pytest.raises(ValueError, match=r"'trained encoder'.*'other encoder'.*give features of 'trained enc") as told:
        trained.set_text_prior(other)
    assert "strict" not in str(told.value)  # which no command has
    other.save(tmp_path / "bank.npz")
    with pytest.raises(ValueError, match=r"'trained encoder'.*'other encoder'"):
        trained.set_text_prior("bank", path=tmp_path / "bank.npz")
    torch.testing.assert_close(trained.net.tafe.tokens, before)
    trained.set_text_prior(other, strict=False)
    assert not torch.equal(trained.net.tafe.tokens, before)
    with pytest.raises(ValueError, match="'trained encoder'"):  # what it was trained with is not forgotten
        trained.set_text_prior(other)


def test_bank_from_a_file(trained, tmp_path):
    bank(names=NAMES[:3]).save(tmp_path / "bank.safetensors")
    trained.set_text_prior("bank", path=tmp_path / "bank.safetensors")
    assert trained.text_names == NAMES[:3]
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        trained.set_text_prior("bank", path=tmp_path / "absent.npz")


def test_random_vectors_are_another_encoder(trained):
    with pytest.raises(ValueError, match="random"):
        trained.set_text_prior("random", dim=16)
    trained.set_text_prior("random", dim=16, strict=False)
    assert trained.text_names == NAMES
    with pytest.raises(TypeError, match="dim"):
        trained.set_text_prior(RandomPrior(16), dim=16, strict=False)


def test_wrong_width_and_unknown_prior_are_named(trained):
    with pytest.raises(ValueError, match=r"\(K, 16\).*\(4, 24\)"):
        trained.set_text_prior(bank(dim=24))
    with pytest.raises(ValueError, match="horoscope"):
        trained.set_text_prior("horoscope")
    with pytest.raises(ValueError, match="Moon"):
        trained.set_text_prior(bank(), names=["Moon"])


@torch.no_grad()
def test_none_switches_text_off(trained):
    data = pair()
    with_text = trained(data)
    trained.set_text_prior("none")
    assert trained.text_names == ()
    assert trained.landcover(data["image0"]).shape == (1, 0, 8, 10)
    without = trained(data)
    check_contract(without, data)
    assert len(with_text["confidence"]) and not torch.equal(paired(with_text), paired(without))


def test_after_none_the_trained_encoder_is_still_welcome_and_no_other(trained):
    trained.set_text_prior("none").set_text_prior(bank())
    assert trained.text_names == NAMES
    assert trained.net.tafe.tokens.shape == (4, 32)
    with pytest.raises(ValueError, match=r"'trained encoder'.*'other encoder'"):
        trained.set_text_prior("none").set_text_prior(bank("other encoder"))


@torch.no_grad()
def test_matcher_with_another_text_survives_a_checkpoint(trained, tmp_path):
    data = pair()
    for prior in (bank(names=NAMES[:2]), "none"):
        trained.set_text_prior(prior)
        save_checkpoint(tmp_path / "again.safetensors", trained.net, trained.info)
        again = TARMatcher(tmp_path / "again.safetensors", threshold=0.0)
        assert again.text_names == trained.text_names
        assert again.net.tafe.tokens.shape == trained.net.tafe.tokens.shape
        check_contract(again(data), data)


def test_new_names_for_an_encoder(trained):
    prior = RandomPrior(16)
    trained.set_text_prior(prior, names=["Lake", "Road"], templates=["radar image of {}"], strict=False)
    expected = embed_classes(prior, ["Lake", "Road"], ["radar image of {}"])
    assert trained.text_names == ("Lake", "Road")
    assert trained.info["text"]["encoder"] == expected.encoder
