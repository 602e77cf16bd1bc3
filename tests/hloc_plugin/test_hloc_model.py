"""The matcher as hloc calls it."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_matches, needs_weights, picture

from hloc_plugin.model import load_matcher, match, to_cells
from kornia_tar import AcceptanceConfig, GuidedMatcher
from kornia_tar.conventions import turn_back
from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.text import RandomPrior


@pytest.fixture(scope="module")
def matcher(weights):
    return load_matcher({"weights": weights, "match_threshold": 0.0})


def rows(out: dict, first: int = 0) -> torch.Tensor:
    return torch.cat([out[f"keypoints{first}"], out[f"keypoints{1 - first}"], out["scores"][:, None]], 1)


@pytest.mark.parametrize(
    "model",
    [{}, {"rotations": 4}, {"repeatable": True}, {"rotations": 4, "modality": "optical"}, {"modality": "cross"}],
)
@pytest.mark.parametrize("same_size", [False, True])
def test_swapped_images_give_swapped_matches(matcher, model, same_size):
    one, two = picture(1, 64, 96), picture(2, 64, 96) if same_size else picture(2, 72, 64)
    there = match(matcher, {"image0": one, "image1": two}, model)
    back = match(matcher, {"image0": two, "image1": one}, model)
    assert_same_matches(rows(there), rows(back, first=1))


def test_keypoints_lie_on_the_image_turned_or_not(matcher):
    out = match(matcher, {"image0": picture(1, 64, 96), "image1": picture(3, 48, 64)}, {"rotations": 4})
    for k, (height, width) in enumerate(((64, 96), (48, 64))):
        points = out[f"keypoints{k}"]
        assert (points >= -0.5).all() and (points <= torch.tensor([width - 0.5, height - 0.5])).all()


def test_to_cells_keeps_matches_of_an_affine_map_exact():
    affine, shift = torch.tensor([[1.1, 0.1], [-0.1, 0.95]]).double(), torch.tensor([5.0, -3.0]).double()
    centre0 = torch.cartesian_prod(torch.arange(4, 12), torch.arange(4, 12)).double() * 8 + 3.5
    centre1 = ((centre0 @ affine.T + shift - 3.5) / 8).round() * 8 + 3.5
    error1 = centre0 @ affine.T + shift - centre1
    error0 = (centre1 - shift) @ torch.linalg.inv(affine).T - centre0
    (p0, p1), scores = to_cells([centre0 + error0 / 2, centre1 + error1 / 2], torch.rand(len(centre0)))
    torch.testing.assert_close(p0 @ affine.T + shift, p1)
    half = len(scores) // 2
    assert half > 50
    for on_cell in (p0[:half], p1[half:]):
        assert torch.equal((on_cell - 3.5) % 8, torch.zeros_like(on_cell))


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1)])
def test_cross_pairs_have_one_image_of_each_kind(matcher, seeds):
    images = {f"image{k}": picture(seed, 64, 96) for k, seed in enumerate(seeds)}
    optical = [float(matcher.infer_modality(image)[0, 0]) for image in images.values()]
    names = ("optical", "sar") if optical[0] > optical[1] else ("sar", "optical")
    told = matcher({**images, "modality0": names[0], "modality1": names[1]})
    found = match(matcher, images, {"modality": "cross"})
    torch.testing.assert_close(found["keypoints0"], told["keypoints0"])
    torch.testing.assert_close(found["scores"], told["confidence"])


def test_nodata_value_is_not_matched(matcher):
    image = picture(1, 64, 96).clamp(min=0.02)
    image[..., 48:] = 0
    out = match(matcher, {"image0": image, "image1": picture(2, 64, 64)}, {"nodata": 0})
    assert len(out["scores"]) and (out["keypoints0"][:, 0] < 48).all()


def test_budget_and_threshold(weights):
    data = {"image0": picture(1, 64, 96), "image1": picture(2, 64, 96)}
    every = match(load_matcher({"weights": weights, "match_threshold": 0.0}), data, {})["scores"]
    few = match(load_matcher({"weights": weights, "match_threshold": 0.0, "max_num_matches": 5}), data, {})["scores"]
    torch.testing.assert_close(few.sort().values, every.sort().values[-5:])


def test_text_prior_through_the_conf(weights, tmp_path):
    from kornia_tar.text import embed_classes

    assert load_matcher({"weights": weights, "text": "none"}).net.tafe.tokens.shape[0] == 0
    embed_classes(RandomPrior(dim=16), ["water", "forest"]).save(tmp_path / "bank.npz")
    assert load_matcher({"weights": weights, "text": str(tmp_path / "bank.npz")}).text_names == ("water", "forest")
    conf = {"weights": weights, "text": {"prior": "random", "dim": 16, "names": ["road"]}}
    assert load_matcher(conf).text_names == ("road",)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"rotations": 8}, "rotations is 8"),
        ({"modality": "radar"}, "modality is 'radar'"),
        ({"guided": True, "min_probability": 90}, "min_probability must be in"),
    ],
)
def test_wrong_values_are_named(weights, conf, message):
    with pytest.raises(ValueError, match=message):
        load_matcher({"weights": weights, **conf})


def test_unknown_keys_are_told_and_left_aside(weights):
    with pytest.warns(UserWarning, match="max_keypoints"):
        load_matcher({"weights": weights, "max_keypoints": 5})


@needs_weights
@pytest.mark.parametrize("quarters", [0, 1])
def test_known_shift_is_found_at_integer_centres(quarters):
    scene = torch.from_numpy(draw_scene(seed=5, size=144).optical).permute(2, 0, 1)[None].float() / 255
    one, two = scene[..., :128, :128], scene[..., 8:136, 8:136]
    conf = {"rotations": 4}
    out = match(load_matcher(conf), {"image0": one, "image1": two.rot90(quarters, (2, 3))}, conf)
    there = torch.stack(turn_back(*out["keypoints1"].unbind(-1), quarters, 128, 128), -1)
    assert len(there) > 50
    torch.testing.assert_close((there - out["keypoints0"]).median(0).values, torch.full((2,), -8.0), atol=0.3, rtol=0)


def test_guided_matches_are_the_registrars_or_none(weights):
    assert load_matcher({"weights": weights, "guided": True, "rotations": 8}).registrar.search.rotations == 8
    guided = load_matcher({"weights": weights, "guided": True})
    assert isinstance(guided, GuidedMatcher) and guided.registrar.search.rotations == 1
    image = picture(1, 64, 96)
    out = match(guided, {"image0": image, "image1": picture(2, 64, 96)}, {"guided": True})
    assert len(out["keypoints0"]) == len(out["scores"]) == 0  # untrained, and of different places
    assert guided.registrar.acceptance == AcceptanceConfig()
    bold = load_matcher({"weights": weights, "guided": True, "min_probability": 0.5})
    assert bold.registrar.acceptance.min_probability == 0.5
    with pytest.raises(ValueError, match="repeatable"):
        load_matcher({"weights": weights, "guided": True, "repeatable": True})
