"""The contract of TARMatcher: what goes in, what comes out, what never happens."""

from __future__ import annotations

import kornia.feature as KF
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    SMALL,
    assert_same_matches,
    check_contract,
    needs_weights,
    pair,
    paired,
    picture,
    small_matcher,
)

from kornia_tar import TARMatcher
from kornia_tar.network.net import with_second_look
from kornia_tar.raster.synthetic import draw_scene


@pytest.fixture(scope="module")
def matcher() -> TARMatcher:
    return small_matcher()


@torch.no_grad()
@pytest.mark.parametrize("channels", [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("sizes", [(64, 64, 64, 64), (32, 32, 32, 32), (33, 47, 71, 50), (40, 120, 96, 56)])
def test_shapes_and_types_for_any_size_and_channels(matcher, sizes, channels):
    data = {"image0": picture(1, *sizes[:2], 1, channels[0]), "image1": picture(2, *sizes[2:], 1, channels[1])}
    out = matcher(data)
    check_contract(out, data)
    assert len(out["confidence"]) > 0
    assert (out["batch_indexes"] == 0).all()


@torch.no_grad()
def test_batches_tell_their_pairs_apart(matcher):
    data = pair(batch=3)
    out = matcher(data)
    check_contract(out, data)
    assert out["batch_indexes"].unique().tolist() == [0, 1, 2]


@torch.no_grad()
def test_grey_is_what_three_equal_channels_are(matcher):
    data = pair()
    out = matcher(data)
    wide = matcher({key: image.expand(-1, 3, -1, -1) for key, image in data.items()})
    assert_same_matches(paired(out), paired(wide))


@torch.no_grad()
@pytest.mark.parametrize("hidden", ["image0", "image1", "both"])
def test_fully_masked_image_gives_no_match(matcher, hidden):
    data = pair()
    for k in (0, 1):
        if hidden in (f"image{k}", "both"):
            data[f"mask{k}"] = torch.zeros(1, *data[f"image{k}"].shape[2:])
    out = matcher(data)
    check_contract(out, data)
    assert len(out["confidence"]) == 0


@torch.no_grad()
def test_fully_masked_image_leaves_the_rest_of_the_batch(matcher):
    data = pair(batch=2)
    data["mask0"] = torch.ones(2, 64, 80)
    data["mask0"][0] = 0
    out = matcher(data)
    assert out["batch_indexes"].unique().tolist() == [1]


@torch.no_grad()
def test_threshold_of_one_gives_empty_results_of_the_right_shape():
    data = pair()
    out = small_matcher(threshold=1.0)(data)
    check_contract(out, data)
    assert len(out["confidence"]) == 0


@torch.no_grad()
def test_threshold_keeps_the_confident_ones(matcher):
    data = pair(batch=2)
    every = matcher(data)["confidence"]
    cut = float(every.median())
    out = small_matcher(threshold=cut)(data)["confidence"]
    assert (out >= cut).all()
    assert 0 < len(out) == int((every >= cut).sum()) < len(every)


@torch.no_grad()
def test_max_keypoints_is_a_budget_of_each_pair(matcher):
    data = pair(batch=2)
    every, out = matcher(data), small_matcher(max_keypoints=3)(data)
    check_contract(out, data)
    for b in (0, 1):
        best = every["confidence"][every["batch_indexes"] == b].sort(descending=True).values[:3]
        mine = out["confidence"][out["batch_indexes"] == b].sort(descending=True).values
        torch.testing.assert_close(mine, best)


@torch.no_grad()
def test_batch_equals_a_loop_of_singles(matcher):
    data = pair(50, 66, 64, 45, batch=3)
    data["mask0"] = torch.ones(3, 50, 66)
    data["mask0"][1, :, 30:] = 0
    data["modality0"] = ["optical", "sar", "optical"]
    whole = matcher(data)
    for b in range(3):
        single = matcher({"image0": data["image0"][b : b + 1], "image1": data["image1"][b : b + 1],
                          "mask0": data["mask0"][b : b + 1], "modality0": data["modality0"][b]})  # fmt: skip
        mine = {k: v[whole["batch_indexes"] == b] for k, v in whole.items() if "lafs" not in k}
        mine["batch_indexes"] = torch.zeros_like(mine["batch_indexes"])
        assert_same_matches(paired(single), paired(mine))


@torch.no_grad()
@pytest.mark.parametrize("told", [True, False])
def test_swapping_the_inputs_swaps_the_output(matcher, told):
    data = pair(56, 80, 70, 64, batch=2)
    data["mask0"] = torch.ones(2, 1, 56, 80)
    data["mask0"][..., :20] = 0
    if told:
        data |= {"modality0": "optical", "modality1": ["sar", "optical"]}
    swapped = {key[:-1] + str(1 - int(key[-1])): value for key, value in data.items()}
    one, two = matcher(data), matcher(swapped)
    two["keypoints0"], two["keypoints1"] = two["keypoints1"], two["keypoints0"]
    assert_same_matches(paired(one), paired(two))


@torch.no_grad()
@pytest.mark.parametrize("three_dimensional", [True, False])
def test_masks_kill_matches_under_them(matcher, three_dimensional):
    data = pair(96, 96, 96, 96)
    edge = 43  # not on a cell's border
    mask0, mask1 = torch.ones(1, 1, 96, 96), torch.ones(1, 1, 96, 96)
    mask0[..., :edge] = 0
    mask1[..., 96 - edge :, :] = 0
    if three_dimensional:
        mask0, mask1 = mask0[:, 0], mask1[:, 0] > 0
    out = matcher(data | {"mask0": mask0, "mask1": mask1})
    check_contract(out, data)
    assert len(out["confidence"]) > 0
    assert (out["keypoints0"][:, 0].round() >= edge).all()
    assert (out["keypoints1"][:, 1].round() < 96 - edge).all()


@torch.no_grad()
def test_pixels_under_the_mask_do_not_matter(matcher):
    data = pair()
    data["mask1"] = torch.ones(1, 72, 64)
    data["mask1"][:, 40:] = 0
    other = {**data, "image1": torch.where(data["mask1"][:, None] > 0, data["image1"], torch.rand(1, 1, 72, 64) * 9)}
    torch.testing.assert_close(matcher(data), matcher(other), rtol=0, atol=0)


@torch.no_grad()
def test_a_mask_of_ones_changes_nothing(matcher):
    data = pair(64, 64, 64, 64)
    ones = torch.ones(1, 64, 64)
    assert_same_matches(paired(matcher(data)), paired(matcher(data | {"mask0": ones, "mask1": ones})))


@torch.no_grad()
def test_brightness_and_contrast_do_not_matter(matcher):
    data = pair()
    assert_same_matches(paired(matcher(data)), paired(matcher(data | {"image0": 0.2 + 0.5 * data["image0"]})), 2e-2)


@torch.no_grad()
def test_repeats_are_equal_to_the_bit(matcher):
    data = pair(batch=2)
    torch.testing.assert_close(matcher(data), matcher(data), rtol=0, atol=0)


@torch.no_grad()
def test_flat_images_are_no_error(matcher):
    data = {"image0": torch.zeros(1, 1, 48, 48), "image1": torch.full((1, 1, 48, 48), 0.7)}
    check_contract(matcher(data), data)


@torch.no_grad()
def test_told_modality_is_used_and_lists_tell_each_image(matcher):
    image = picture(3, 64, 64)
    data = {"image0": image.expand(2, -1, -1, -1), "image1": picture(4, 64, 64).expand(2, -1, -1, -1)}
    out = matcher(data | {"modality0": ["optical", "sar"], "modality1": "sar"})
    parts = [{k: v[out["batch_indexes"] == b] for k, v in out.items() if "lafs" not in k} for b in (0, 1)]
    for part, name in zip(parts, ("optical", "sar"), strict=True):
        single = matcher({"image0": image, "image1": data["image1"][:1], "modality0": name, "modality1": "sar"})
        part["batch_indexes"] = torch.zeros_like(part["batch_indexes"])
        assert_same_matches(paired(part), paired(single))
    optical, sar = (paired(part)[:, 1:] for part in parts)
    assert optical.shape != sar.shape or not torch.allclose(optical, sar, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_returns_float32(dtype):
    try:
        F.conv2d(torch.zeros(1, 1, 4, 4, dtype=dtype), torch.zeros(1, 1, 3, 3, dtype=dtype))
    except RuntimeError:
        pytest.skip(f"no {dtype} convolution on this CPU")
    half = small_matcher().to(dtype)
    data = pair()
    data["mask0"] = torch.ones(1, 64, 80)
    data["mask0"][:, :9] = 0
    for given in (data, data | {"image0": data["image0"].to(dtype)}, data | {"modality0": "sar"}):
        out = half(given)
        check_contract(out, data)
        assert len(out["confidence"]) > 0


@torch.no_grad()
@needs_weights
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype):
    scene = draw_scene(1, 256)
    data = {"image0": torch.from_numpy(scene.optical[:128, :128, 1].copy())[None, None] / 255,
            "image1": torch.from_numpy(scene.optical[4:132, 8:136, 1].copy())[None, None] / 255}  # fmt: skip
    full, half = TARMatcher()(data), TARMatcher().to(dtype)(data)
    ends = [torch.cat([out["keypoints0"], out["keypoints1"]], 1) for out in (full, half)]
    nearest = torch.cdist(ends[0], ends[1], p=float("inf")).min(1).values
    assert len(ends[0]) > 50
    assert nearest.median() < 0.25
    assert (nearest < 2).float().mean() > 0.9


@torch.no_grad()
@pytest.mark.slow  # to import the compiler takes longer than all other tests here
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_gives_what_eager_gives(backend):
    torch._dynamo.reset()
    matcher = small_matcher(turns=1, scales=1)  # other poses compile the same parts again, at other sizes
    data = pair(48, 48, 48, 48) | {"modality0": "optical", "modality1": "sar"}
    compiled = torch.compile(matcher, backend=backend)
    assert_same_matches(paired(matcher(data)), paired(compiled(data)))
    torch._dynamo.reset()


def test_gradients_reach_every_module():
    matcher = small_matcher().train()
    data = pair(batch=2)
    out = matcher(data | {"modality0": "optical", "modality1": "sar"})
    (out["keypoints0"].sum() + out["keypoints1"].square().sum() + out["confidence"].sum() + out["std"].sum()).backward()
    net = matcher.net
    for name, parameter in {
        "optical stem": net.msfl.stems["optical"][0].conv.weight,
        "SAR stem": net.msfl.stems["sar"][0].conv.weight,
        "1/16": net.msfl.stage16[0].conv.weight,
        "fine": net.msfl.merge2.kernel3,
        "text gate": net.tafe.gate,
        "text query": net.tafe.query.weight,
        "self-attention": net.cfdm.self_attention[0].query.weight,
        "cross-attention": net.cfdm.cross_attention[0].key_value.weight,
        "coarse descriptor": net.cfdm.descriptor.weight,
        "temperature": net.cfdm.log_temperature,
        "fine head": net.cfdm.fine_head.out.weight,
    }.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_stands_where_loftr_stands(matcher):
    loftr = KF.LoFTR(pretrained=None).eval()
    data = {"image0": picture(1, 64, 64), "image1": picture(2, 64, 64)}
    assert isinstance(matcher, KF.LocalFeatureMatcher)
    assert isinstance(matcher, torch.nn.Module)
    theirs, ours = loftr(dict(data)), matcher(dict(data))
    assert set(theirs) <= set(ours)
    for key, value in theirs.items():
        assert ours[key].ndim == value.ndim and ours[key].shape[1:] == value.shape[1:], key
    assert set(data) == {"image0", "image1"}


def test_new_matcher_is_in_eval_mode_and_input_is_not_changed(matcher):
    data = pair()
    before = {key: value.clone() for key, value in data.items()}
    with torch.no_grad():
        matcher(data)
    assert not TARMatcher(pretrained=None, config=SMALL).training
    torch.testing.assert_close(data, before, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("key", ["image0", "image1"])
def test_double_in_is_double_out(matcher, key):
    data = pair()
    out = matcher(data | {key: data[key].double()})
    assert {value.dtype for value in out.values()} == {torch.float64, torch.int64}
    assert_same_matches(paired(out), paired(matcher(data)))


@torch.no_grad()
def test_a_network_in_double_answers_in_double():
    double, single = (small_matcher(turns=1, scales=1) for _ in range(2))
    for matcher in (double, single):
        matcher.net, matcher.looks = with_second_look(matcher.net), 2
    data = pair()
    out = double.double()({key: image.double() for key, image in data.items()})
    assert {value.dtype for value in out.values()} == {torch.float64, torch.int64}
    assert_same_matches(paired({key: value.float() for key, value in out.items()}), paired(single(data)), 1e-2)


@torch.no_grad()
def test_training_mode_leaves_the_statistics_of_the_weights():
    matcher = small_matcher()
    whole = torch.nn.Sequential(torch.nn.BatchNorm2d(1), matcher).train()
    before = {name: value.clone() for name, value in matcher.named_buffers()}
    matcher(pair())
    assert matcher.training and whole[0].training
    torch.testing.assert_close(dict(matcher.named_buffers()), before, rtol=0, atol=0)
    matcher.net.train()  # asked for by name
    matcher(pair())
    after = dict(matcher.named_buffers())
    assert any("running_mean" in name and not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.5}, "threshold.*1.5"),
        ({"threshold": float("nan")}, "threshold.*nan"),
        ({"max_keypoints": 0}, "max_keypoints.*0"),
        ({"turns": 3}, "turns.*1 or 4.*3"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        TARMatcher(pretrained=None, config=SMALL, **options)


def test_unknown_weights_name_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match="no weights named 'optical-lidar'"):
        TARMatcher(pretrained="optical-lidar")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        TARMatcher(pretrained="nowhere.safetensors")
    for name in ("outdoor", "indoor"):
        with pytest.raises(FileNotFoundError, match=rf"'{name}' \(that is LoFTR's\): shipped are optical-sar"):
            TARMatcher(pretrained=name)
    with pytest.raises(TypeError, match="config must be a TARConfig, got dict: LoFTR's"):
        TARMatcher(pretrained=None, config=KF.loftr.loftr.default_cfg)
    with pytest.raises(ValueError, match="pretrained or config"):
        TARMatcher(pretrained="optical-sar", config=SMALL)


@torch.no_grad()
def test_fused_matcher_matches_as_before():
    data = pair(50, 64, 64, 64)
    matcher = small_matcher()
    before = matcher(data)
    assert matcher.fuse() is matcher
    assert_same_matches(paired(before), paired(matcher(data)), 1e-2)
    matcher.fuse()  # a second time is harmless
    assert not any("norm" in name and "running" in name for name, _ in matcher.named_buffers())
