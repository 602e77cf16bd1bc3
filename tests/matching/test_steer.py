"""Words that steer: which they are, that off is off, and what they do to matches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import picture, small_matcher

from kornia_tar import GuidedMatcher
from kornia_tar.network.net import with_landcover, with_second_look
from kornia_tar.network.tafe import LandCoverConfig
from kornia_tar.text import GROUPS, TextBank, find_words

NAMES = ["forest", "river", "pond", "port"]


def steered(seed: int = 0, **options):
    matcher = small_matcher(seed, turns=1)
    config = LandCoverConfig(text_dim=16, classes=4, width=8, hidden=16, windows=(3,))
    matcher.net = with_landcover(with_second_look(matcher.net), config, seed=3)
    matcher.net.landcover.set_text(F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), dim=1))
    matcher.info = {"text": {"encoder": "e", "names": NAMES}, "landcover": {"seen": NAMES[:3]}}
    matcher.looks = 2
    return matcher.steer(**options)


@pytest.fixture
def data():
    return {"image0": picture(1, 64, 80), "image1": picture(2, 64, 80), "modality0": "optical", "modality1": "sar"}


def test_a_group_means_those_of_its_words_that_the_text_has():
    assert find_words(["water"], NAMES) == ("river", "pond", "port")
    assert find_words(["flood", "forest"], NAMES) == ("forest", "river", "pond")
    assert find_words([], NAMES) == ()
    assert find_words(["water"], ["water", "dam"]) == ("water",)
    for words in GROUPS.values():
        assert len(set(words)) == len(words) >= 2


@pytest.mark.parametrize(("asked", "told"), [("moon", "no 'moon'"), ("road", "no word of the group 'road'")])
def test_what_the_text_lacks_is_told_with_what_it_has(asked, told):
    with pytest.raises(ValueError, match=f"{told}.*forest, river, pond, port.*groups are water"):
        find_words([asked], NAMES)


@torch.no_grad()
def test_off_is_off(data):
    plain, again = steered(), steered(ignore=["water"]).steer()
    one, two = plain(data), again(data)
    assert again.net.steering is None and all(torch.equal(one[key], two[key]) for key in one)


@torch.no_grad()
def test_ignored_cells_have_no_match(data):
    matcher = steered()
    everywhere = matcher.landcover(data["image0"], "optical")
    matcher.net.landcover.log_scale.add_(2.0)  # surer of its words
    cover = matcher.landcover(data["image0"], "optical")[0]
    assert cover.amax() > 0.5 and not torch.equal(cover[None], everywhere)
    word = int((cover > 0.5).flatten(1).sum(1).argmax())
    matcher.steer(ignore=[NAMES[word]])
    out = matcher.match(matcher.encode(data["image0"], modality="optical"), matcher.encode(data["image1"]))
    features = matcher.encode(data["image0"], modality="optical").features
    assert torch.equal(features.mask[0, :8, :10], cover[word, :8, :10] < 0.5)
    assert len(out["confidence"]) < len(steered()(data)["confidence"])


@torch.no_grad()
def test_preferring_changes_the_field_but_masks_nothing(data):
    plain, more = steered(), steered(prefer=["forest"])
    assert more.encode(data["image0"], modality="optical").features.mask.all()
    one, two = plain(data), more(data)
    assert not torch.equal(one["keypoints1"], two["keypoints1"])


@torch.no_grad()
def test_features_that_were_kept_are_steered_too(data):
    matcher = steered(ignore=["river"], prefer=["forest"])
    kept = {f"features{k}": matcher.extract_features(data[f"image{k}"], modality=data[f"modality{k}"]) for k in (0, 1)}
    one, two = matcher(data), matcher(kept)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"ignore": "water"}, TypeError, "list"),
        ({"ignore": ["cloud"]}, ValueError, "no 'cloud'.*forest"),
        ({"ignore": ["water"], "prefer": ["pond"]}, ValueError, "both ignored and preferred"),
    ],
)
def test_words_that_cannot_steer_are_told(options, error, told):
    with pytest.raises(error, match=told):
        steered(**options)


def test_weights_without_a_head_cannot_be_steered():
    matcher = small_matcher()
    matcher.info["text"] = {"names": NAMES}
    with pytest.raises(ValueError, match=r"no land-cover head.*--only words"):
        matcher.steer(ignore=["river"])
    with pytest.raises(ValueError, match="no land-cover head"):
        GuidedMatcher(pretrained=None, ignore=["river"])
    assert matcher.seen_names is None and steered().seen_names == ("forest", "river", "pond")


def test_other_words_steer_by_their_own_names():
    matcher = steered(ignore=["water"])
    bank = TextBank(("lake", "dam"), torch.randn(2, 16), "e")
    matcher.set_text_prior(bank)
    assert matcher.net.steering.ignore.tolist() == [True, False] and len(matcher.net.landcover.words) == 2
    with pytest.raises(ValueError, match="group 'water'"):
        matcher.set_text_prior(TextBank(("dam",), torch.randn(1, 16), "e"))
