"""Features of one image stand in its place, also when they were kept in a file."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_matches, paired, picture, small_matcher
from safetensors.torch import load_file, save_file

from kornia_tar import TARMatcher


@pytest.fixture(scope="module")
def matcher() -> TARMatcher:
    return small_matcher()


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (70, 52)])
def test_features_match_as_their_images_do(matcher, size, masked, tmp_path):
    images = [picture(1, *size), picture(2, 64, 96)]
    mask = torch.ones(1, *size)
    mask[..., :20] = 0
    told = {"modality0": "sar"} | ({"mask0": mask} if masked else {})
    whole = matcher({"image0": images[0], "image1": images[1], **told})
    first = matcher.extract_features(images[0], mask if masked else None, "sar")
    save_file(first, tmp_path / "first.safetensors")
    for features in (first, load_file(tmp_path / "first.safetensors")):
        assert_same_matches(paired(matcher({"features0": features, "image1": images[1]})), paired(whole))
    frames = matcher.encode(images[0], mask if masked else None, "sar"), matcher.encode(images[1])
    assert_same_matches(paired(matcher.match(*frames)), paired(whole))
    back = matcher({"image0": images[1], "features1": first})
    back["keypoints0"], back["keypoints1"] = back["keypoints1"], back["keypoints0"]
    assert_same_matches(paired(back), paired(whole))


@torch.no_grad()
@pytest.mark.parametrize("keys", ["0", "1", "01"])
def test_features_in_double_are_answered_in_double(keys):
    double = small_matcher().double()
    data = {f"image{k}": picture(1 + k, 64, 64) for k in (0, 1)}  # in float32
    for k in keys:
        data[f"features{k}"] = double.extract_features(data.pop(f"image{k}").double())
    assert {value.dtype for value in double(data).values()} == {torch.float64, torch.int64}


@torch.no_grad()
def test_wrong_features_are_named(matcher):
    image = picture(2, 64, 64)
    features = matcher.extract_features(image)
    with pytest.raises(ValueError, match="features0 and image0, modality0 are given"):
        matcher({"features0": features, "image0": image, "modality0": "sar", "image1": image})
    with pytest.raises(TypeError, match="features1 has no image, modality, landcover"):
        matcher({"image0": image, "features1": {key: features[key] for key in ("coarse", "fine")}})
    with pytest.raises(TypeError, match="features1 must be what extract_features returned, got Tensor"):
        matcher({"image0": image, "features1": image})
    with pytest.raises(ValueError, match=r"features0: coarse do not fit an image of shape \(1, 1, 64, 64\)"):
        matcher({"features0": features | {"coarse": features["coarse"][..., :-1]}, "image1": image})


@torch.no_grad()
def test_features_and_land_cover_can_be_looked_at(matcher):
    image = picture(5, 64, 96, 2, 3)
    features = matcher.extract_features(image)
    assert features["coarse"].shape == (2, 32, 8, 12)
    assert features["fine"].shape == (2, 8, 32, 48)
    cover = matcher.landcover(image, "optical")
    assert cover.shape == (2, 4, 8, 12)
    torch.testing.assert_close(cover.sum(1), torch.ones(2, 8, 12))
