"""The second look: what the field makes of matches, what is compared, and the contract with more than one look."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import SMALL, assert_same_matches, check_contract, lively_net, needs_weights, paired, picture
from torch import Tensor

from kornia_tar import TARMatcher
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint
from kornia_tar.network.field import Field, fit_field, pad_matches, propose_similarity, resample, solve
from kornia_tar.network.net import TARConfig, TARNet, with_second_look
from kornia_tar.network.points import transform_affine
from kornia_tar.network.second_look import SecondLook, SecondLookConfig, correlate, log_likelihood_gain
from kornia_tar.training.augment import Deformation, make_batch
from kornia_tar.training.data import Pairs
from kornia_tar.training.losses import LossWeights
from kornia_tar.training.second_look import invert, second_look_loss, true_field

CONFIG = SecondLookConfig(hidden=16, tokens=8, dilations=(1, 2))
AFFINE = torch.tensor([[[0.9, -0.35, 40.0], [0.3, 1.05, -12.0]]])


def look_net(seed: int = 0) -> TARNet:
    """A small network whose second look acts, in eval mode."""
    net = with_second_look(lively_net(seed=seed), config=CONFIG)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.second_look.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def look_matcher(looks: int = 2, **options) -> TARMatcher:
    matcher = TARMatcher(pretrained=None, config=SMALL, threshold=0.0, **options)
    matcher.net, matcher.looks = look_net(), looks
    return matcher.eval()


def moved_pair(height: int = 96, width: int = 112, batch: int = 1, by: tuple[int, int] = (5, -9)) -> dict[str, Tensor]:
    """Two crops of one picture, so that even an untrained network finds true matches; of different sizes."""
    whole = picture(7, height + 40, width + 40, batch)
    return {"image0": whole[..., 20 : 20 + height, 20 : 20 + width],
            "image1": whole[..., 20 + by[1] : 4 + by[1] + height, 20 + by[0] : 36 + by[0] + width]}  # fmt: skip


def wrong_and_right(count: int = 200, wrong: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matches under AFFINE of a 256² image, half of them wrong: points, confidence, and which are right."""
    generator = torch.Generator().manual_seed(3)
    p0 = 255 * torch.rand(1, count, 2, generator=generator)
    right = torch.rand(1, count, generator=generator) > wrong
    noise = 2 * torch.randn(1, count, 2, generator=generator)
    p1 = torch.where(
        right[..., None], transform_affine(AFFINE, p0) + noise, 255 * torch.rand(1, count, 2, generator=generator)
    )
    return p0, p1, 0.3 + 0.4 * torch.rand(1, count, generator=generator), right


def fit(p0: Tensor, p1: Tensor, weight: Tensor, size: tuple[int, int] = (256, 256)) -> Field:
    return fit_field(p0, p1, weight, propose_similarity(p0, p1, weight, 48), size)


def grid(size: int = 256, step: int = 16) -> Tensor:
    y, x = torch.meshgrid(torch.arange(0.0, size, step), torch.arange(0.0, size, step), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)[None]


def test_field_finds_an_affine_map_among_wrong_matches():
    p0, p1, weight, _ = wrong_and_right()
    field = fit(p0, p1, weight)
    error = (field(grid()) - transform_affine(AFFINE, grid())).norm(dim=-1)
    assert error.mean() < 1.0 and error.max() < 3.0


def test_field_follows_parallax_that_one_plane_cannot():
    p0 = grid(256, 10)
    bend = lambda p: torch.stack([6 * torch.sin(p[..., 1] / 50), 4 * torch.cos(p[..., 0] / 60)], -1)  # noqa: E731
    field = fit(p0, transform_affine(AFFINE, p0) + bend(p0), torch.ones(p0.shape[:2]))
    left = (field(grid()) - transform_affine(AFFINE, grid()) - bend(grid())).norm(dim=-1)
    plane = field._replace(residual=torch.zeros_like(field.residual))
    assert left.mean() < 1.2
    assert (plane(grid()) - transform_affine(AFFINE, grid()) - bend(grid())).norm(dim=-1).mean() > 2 * left.mean()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_matches_give_a_finite_field_without_trust(count):
    p0, p1, weight, _ = wrong_and_right(5, wrong=0.0)
    weight[:, count:] = 0
    field = fit(p0, p1, weight)
    assert all(t.isfinite().all() for t in field[:3])
    if count == 0:
        torch.testing.assert_close(field(grid()), grid(), atol=1e-3, rtol=0)
        assert field.trust.max() == 0


def test_field_is_the_same_for_any_order_and_padding():
    p0, p1, weight, _ = wrong_and_right()
    order = torch.randperm(p0.shape[1], generator=torch.Generator().manual_seed(0))
    wide = [F.pad(t[:, order], (0, 0, 0, 30) if t.ndim == 3 else (0, 30)) for t in (p0, p1, weight)]
    torch.testing.assert_close(fit(*wide)(grid()), fit(p0, p1, weight)(grid()), atol=2e-3, rtol=0)


def test_gradients_pass_the_least_squares():
    p0, p1, weight, _ = wrong_and_right(60)
    p1.requires_grad_(), weight.requires_grad_()
    fit(p0, p1, weight)(grid()).square().sum().backward()
    for leaf in (p1, weight):
        assert leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


def test_matches_are_padded_pair_by_pair():
    batch, values = torch.tensor([0, 2, 2]), torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    padded = pad_matches(batch, [values], 3, 2)[0]
    assert padded.tolist() == [[[1, 2], [0, 0]], [[0, 0], [0, 0]], [[3, 4], [5, 6]]]


def test_resampling_by_the_identity_gives_the_image_and_hides_what_is_outside():
    image, mask = picture(1, 64, 80), torch.ones(1, 1, 64, 80)
    mask[..., :8] = 0
    none = torch.zeros(1, 2, 4, 5)
    field = Field(torch.eye(2, 3)[None], none, none[:, :1], 16)
    same, shown = resample(image, mask, field, (64, 80))
    torch.testing.assert_close(same, image * mask, atol=1e-4, rtol=0)
    assert (shown == mask).all()
    moved, shown = resample(image, None, field._replace(matrix=torch.tensor([[[1.0, 0, 10], [0, 1, 0]]])), (64, 80))
    torch.testing.assert_close(moved[..., :70], image[..., 10:], atol=1e-4, rtol=0)
    assert not shown[..., 71:].any() and not moved[..., 71:].any()


def test_resampling_a_finer_image_averages():
    noise = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(1, 2, 4, 4)
    field = Field(torch.tensor([[[2.0, 0, 0.5], [0, 2, 0.5]]]), none, none[:, :1], 16)
    torch.testing.assert_close(resample(noise, None, field, (64, 64))[0], F.avg_pool2d(noise, 2), atol=1e-4, rtol=0)


@torch.no_grad()
def test_both_correlations_speak_of_the_same_displacement():
    net = look_net()
    fine = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = correlate(net.cfdm, fine, fine.roll((-1, 2), (2, 3)))[..., 3:5, 3:5]  # content moves by (4, -2) px
    best = net.second_look.positions[maps.argmax(2)]  # (1, 2, 2, 2, 2)
    assert (best == torch.tensor([4.0, -2.0])).all()


def test_one_cell_can_only_say_so_much():
    gain = log_likelihood_gain(100 * torch.eye(81)[None, :, :, None])
    assert -2.31 < gain.min() < -2.3 and 4.2 < gain.max() < 4.4


@torch.no_grad()
@pytest.mark.parametrize("looks", [2, 3])
def test_swapping_the_inputs_swaps_the_output(looks):
    data = moved_pair(batch=2) | {"modality0": "optical", "modality1": ["sar", "optical"]}
    data["mask0"] = torch.ones(2, 1, 96, 112)
    data["mask0"][..., :20] = 0
    swapped = {key[:-1] + str(1 - int(key[-1])): value for key, value in data.items()}
    one, two = look_matcher(looks)(data), look_matcher(looks)(swapped)
    check_contract(one, data)
    two["keypoints0"], two["keypoints1"] = two["keypoints1"], two["keypoints0"]
    assert_same_matches(paired(one), paired(two), 1e-2)


@torch.no_grad()
def test_batch_equals_a_loop_of_singles():
    matcher, data = look_matcher(), moved_pair(batch=3)
    data["mask0"] = torch.ones(3, 96, 112)
    data["mask0"][1, :, 60:] = 0
    whole = matcher(data)
    for b in range(3):
        single = matcher({key: value[b : b + 1] for key, value in data.items()})
        mine = {k: v[whole["batch_indexes"] == b] for k, v in whole.items() if "lafs" not in k}
        mine["batch_indexes"] = torch.zeros_like(mine["batch_indexes"])
        assert_same_matches(paired(single), paired(mine), 1e-2)


@torch.no_grad()
def test_masks_hide_pixels_and_matches():
    matcher, data = look_matcher(), moved_pair()
    data["mask1"] = torch.ones(1, *data["image1"].shape[2:])
    data["mask1"][:, 50:] = 0
    out = matcher(data)
    assert len(out["confidence"]) > 0 and (out["keypoints1"][:, 1].round() < 50).all()
    other = {**data, "image1": torch.where(data["mask1"][:, None] > 0, data["image1"], 9.0)}
    torch.testing.assert_close(matcher(other), out, rtol=0, atol=0)


@torch.no_grad()
def test_nothing_to_match_is_no_error():
    data = moved_pair(batch=2)
    data["mask0"] = torch.zeros(2, 1, 96, 112)
    out = look_matcher()(data)
    check_contract(out, data)
    assert len(out["confidence"]) == 0
    data["mask0"][0] = 1
    assert look_matcher(3)(data)["batch_indexes"].unique().tolist() == [0]
    flat = {"image0": torch.zeros(1, 1, 48, 33), "image1": torch.full((1, 1, 32, 48), 0.7)}
    check_contract(look_matcher()(flat), flat)


def test_gradients_reach_the_images_the_trunk_and_the_head():
    net, data = look_net(), moved_pair()
    image0, image1 = (data[key].requires_grad_() for key in ("image0", "image1"))
    found = net(image0, image1, torch.eye(2)[:1], torch.eye(2)[:1], looks=2)
    (found.points0.sum() + found.points1.square().sum() + found.confidence.sum() + found.std.sum()).backward()
    look = net.second_look
    for leaf in (image0, image1, net.msfl.stage4[0].conv.weight, net.cfdm.fine_descriptor.weight, look.enter.weight,
                 look.token.weight, look.vote_weight, look.out.weight, look.context.weight):  # fmt: skip
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_returns_float32(dtype):
    data = moved_pair()
    data["mask0"] = torch.ones(1, 96, 112)
    data["mask0"][:, :9] = 0
    out = look_matcher().to(dtype)(data)
    check_contract(out, data)
    assert len(out["confidence"]) > 0


@torch.no_grad()
@needs_weights
def test_one_look_is_what_it_was():
    net, data = lively_net(), moved_pair(128, 128)
    assert net.second_look is None
    for one, two in zip(net(*data.values()), with_second_look(net)(*data.values(), looks=1), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@needs_weights
def test_shipped_weights_look_twice():
    assert TARMatcher().looks == 2 and TARMatcher(looks=1).looks == 1


@torch.no_grad()
@needs_weights
def test_second_look_is_nearer_to_a_known_affine_map():
    net = TARMatcher().net
    image = picture(11, 160, 160)
    truth = torch.tensor([[[0.96, -0.2, 22.0], [0.2, 0.96, -10.0]]])  # image0 → image1
    inverse = torch.linalg.inv(truth[:, :, :2])
    back = torch.cat([inverse, -inverse @ truth[:, :, 2:]], 2)
    none = torch.zeros(1, 2, 10, 10)
    moved, mask = resample(image, None, Field(back, none, none[:, :1], 16), (160, 160))
    optical = torch.eye(2)[:1]
    medians = []
    for looks in (1, 2):
        found = net(image, moved, optical, optical, None, mask, looks=looks)
        medians.append((transform_affine(truth, found.points0[None])[0] - found.points1).norm(dim=-1).median())
    assert medians[1] < 0.5 * medians[0] and medians[1] < 1.0


def test_checkpoint_carries_the_second_look(tmp_path):
    net = look_net()
    save_checkpoint(tmp_path / "a.safetensors", net, {})
    again, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert again.config.second_look == CONFIG
    matcher = TARMatcher(tmp_path / "a.safetensors")
    assert matcher.looks == 2 and TARMatcher(tmp_path / "a.safetensors", looks=1).looks == 1
    assert TARConfig.from_dict({k: v for k, v in SMALL.to_dict().items() if k != "second_look"}) == SMALL


def test_looks_need_a_network_that_has_them():
    with pytest.raises(ValueError, match=r"looks is 2.*no second look"):
        TARMatcher(pretrained=None, config=SMALL, looks=2)
    with pytest.raises(ValueError, match="looks must be at least 1, got 0"):
        TARMatcher(pretrained=None, config=replace(SMALL, second_look=CONFIG), looks=0)


def test_drawn_fields_lie_around_the_truth_and_can_be_inverted():
    matrix = torch.eye(3)[None].clone()
    matrix[0, :2] = AFFINE[0]
    matrix[0, 2, 0] = 2e-4
    exact = true_field(matrix, 128, 16, torch.Generator().manual_seed(0), scale=0.0)
    points = grid(128, 8)
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.transpose(1, 2)
    assert (exact(points) - mapped[..., :2] / mapped[..., 2:])[:, 40:-40].norm(dim=-1).max() < 0.5
    error = true_field(matrix, 128, 16, torch.Generator().manual_seed(0))(points) - exact(points)
    assert 0.1 < error.norm(dim=-1).mean() < 15
    torch.testing.assert_close(invert(exact, exact(points), points + 3), points, atol=0.05, rtol=0)


def test_training_step_is_deterministic_and_reaches_the_head():
    images = (255 * picture(2, 96, 96, 4, 4)).to(torch.uint8)
    pairs = Pairs(images[:, :3], images[:, 3:], ("a", "b", "c", "d"), torch.ones(4), torch.full((4,), -1),
                  torch.ones(4, dtype=torch.bool))  # fmt: skip
    net, losses = look_net(), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        batch = make_batch(pairs, torch.arange(4), 64, Deformation().finished(), generator)
        loss, log = second_look_loss(net, batch, None, LossWeights(), 8, generator, looks=3)
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1] and {"accuracy", "identity", "precision"} < set(log)
    loss.backward()
    for parameter in (net.second_look.enter.weight, net.msfl.stems["sar"][0].conv.weight):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


def test_half_precision_holds_on_many_cells():
    """Sums over ten thousand cells do not fit into half precision."""
    torch.manual_seed(0)
    head = SecondLook(32, 81).eval()
    with torch.no_grad():
        for block in head.blocks:
            block.mix.bias.fill_(10.0)
    rows = columns = 96
    maps, own = torch.randn(1, 2, 81, rows, columns), torch.randn(1, 32, rows, columns).half()
    found = head.half()(maps, own, own, torch.ones(1, 1, rows, columns), torch.ones(1, rows, columns, dtype=torch.bool))
    assert found.shift.isfinite().all() and found.match_logit.isfinite().all()


def test_a_pair_of_matches_proposes_the_same_either_way():
    """Two matches far apart in one image and near in the other propose nothing, whichever comes first."""
    near, far = torch.tensor([[[50.0, 50], [60, 50]]]), torch.tensor([[[40.0, 40], [60, 40]]])
    weight = torch.ones(1, 2)
    for one, two in ((near, far), (far, near)):
        assert torch.equal(propose_similarity(one, two, weight, 4), torch.eye(2, 3)[None])


def test_looks_and_thresholds_that_mean_nothing_are_refused():
    net = lively_net()
    image = picture(0, 64, 64)
    for options in ({"looks": 0}, {"looks": 2, "threshold": 0.5}):
        with pytest.raises(ValueError, match="looks is"):
            net(image, image, **options)


def test_a_field_of_matches_in_one_spot_is_as_exact_as_a_factorisation():
    generator = torch.Generator().manual_seed(0)
    points = 5 * torch.randn(1, 3000, 2, generator=generator) + 100
    away = points @ torch.tensor([[1.1, 0.2], [-0.2, 1.1]]).T + 7
    design = torch.cat([(points - 256) / 256, torch.ones_like(points[..., :1])], -1)
    normal, right = design.mT @ design + 0.1 * torch.eye(3), design.mT @ away
    exact = torch.linalg.solve(normal.double(), right.double())
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]])
    torch.testing.assert_close(corners @ solve(normal, right)[0], corners @ exact[0].float(), atol=0.01, rtol=0)
