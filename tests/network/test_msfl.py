"""MSFL: scales, centring, fusing, modality."""

from __future__ import annotations

import pytest
import torch
from helpers import SMALL, lively_net, picture

from kornia_tar.conventions import MODALITIES
from kornia_tar.network.layers import Down, RepConv
from kornia_tar.network.msfl import MSFL, standardise
from kornia_tar.network.net import modality_weights, with_padding


@pytest.fixture(scope="module")
def msfl() -> MSFL:
    return lively_net().msfl


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (16, 112)])
def test_features_at_an_eighth_a_quarter_and_a_half(msfl, size):
    height, width = size
    features = msfl(standardise(picture(0, height, width, 2)), torch.eye(2))
    assert features.coarse.shape == (2, 32, height // 8, width // 8)
    assert features.middle.shape == (2, 16, height // 4, width // 4)
    assert features.fine.shape == (2, 8, height // 2, width // 2)


@torch.no_grad()
@pytest.mark.parametrize("axis", [-1, -2])
def test_every_scale_is_exactly_centred(axis):
    """With mirror-symmetric kernels a mirrored image has mirrored features: no scale is a part of a pixel off."""
    torch.manual_seed(0)
    msfl = MSFL(SMALL.msfl).double().eval()
    for parameter in msfl.parameters():
        if parameter.ndim == 4:
            parameter.copy_((parameter + parameter.flip(axis)) / 2)
    image = standardise(picture(1, 64, 80).double())
    weights = torch.tensor([[0.3, 0.7]], dtype=torch.double)
    for mirrored, straight in zip(msfl(image.flip(axis), weights), msfl(image, weights), strict=True):
        torch.testing.assert_close(mirrored.flip(axis), straight)


@torch.no_grad()
def test_fused_features_equal_the_unfused(msfl):
    fused = lively_net().fuse().msfl
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in msfl.parameters())
    image = standardise(picture(2, 64, 64, 2))
    for weights in (torch.eye(2), torch.full((2, 2), 0.5)):
        torch.testing.assert_close(fused(image, weights), msfl(image, weights), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("block", [RepConv(6), Down(6, 6)])
def test_fused_block_equals_the_unfused_after_training_statistics(block):
    torch.manual_seed(0)
    block.train()
    for _ in range(5):
        block(torch.randn(4, 6, 16, 16) * 3 + 1)
    torch.nn.init.normal_(block.norm.weight)
    torch.nn.init.normal_(block.norm.bias)
    x = torch.randn(2, 6, 16, 16)
    expected = block.eval()(x)
    block.fuse()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_told_modality_costs_and_uses_one_stem(msfl):
    image = standardise(picture(3, 32, 32, 2))
    mixed = msfl.stem(image, torch.eye(2))
    for k, name in enumerate(MODALITIES):
        torch.testing.assert_close(mixed[k : k + 1], msfl.stems[name](image[k : k + 1]))
    soft = msfl.stem(image, torch.tensor([[0.25, 0.75]]).expand(2, -1))
    torch.testing.assert_close(soft, 0.25 * msfl.stems["optical"](image) + 0.75 * msfl.stems["sar"](image))


@torch.no_grad()
def test_inferred_modality_is_a_probability(msfl):
    inferred = msfl.infer_modality(standardise(picture(4, 48, 32, 3)))
    assert inferred.shape == (3, 2)
    torch.testing.assert_close(inferred.sum(1), torch.ones(3))
    torch.testing.assert_close(modality_weights(["sar", "optical"]), torch.tensor([[0.0, 1], [1, 0]]))


def test_standardise_sees_valid_pixels_only():
    image = picture(5, 32, 32)
    mask = torch.ones_like(image)
    mask[..., :10] = 0
    out = standardise(torch.where(mask > 0, image, 1e3), mask)
    valid = out[mask > 0]
    assert abs(float(valid.mean())) < 1e-4 and float(valid.std()) == pytest.approx(1, abs=1e-2)
    assert (out[mask == 0] == 0).all()
    assert standardise(torch.full((1, 1, 32, 32), 0.3)).abs().max() < 1e-2
    assert not standardise(image, torch.zeros_like(image)).any()


def test_standardise_cuts_bright_targets():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 5, 5] = 1
    assert standardise(image).max() == 4
    assert standardise(image.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("fuse", [False, True])
def test_features_do_not_tell_where_the_border_is_that_is_repeated(fuse):
    zeros = lively_net()
    repeated = with_padding(zeros, "replicate")
    if fuse:
        zeros, repeated = zeros.fuse(), repeated.fuse()
    even, weights = torch.ones(1, 1, 64, 96), modality_weights(["optical"])
    for told, tells_not in zip(zeros.msfl(even, weights), repeated.msfl(even, weights), strict=True):
        middle = tells_not[:, :, 3:4, 3:4]
        torch.testing.assert_close(tells_not, middle.expand_as(tells_not), rtol=1e-4, atol=1e-4)
        assert (told - told[:, :, 3:4, 3:4]).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 32), (64, 48)])
def test_ground_is_what_repeated_borders_give_of_the_same_tensors(size):
    net = lively_net()
    image, weights = standardise(picture(3, *size, 2)), torch.tensor([[1.0, 0.0], [0.4, 0.6]])
    wanted = with_padding(net, "replicate").msfl(image, weights).coarse
    torch.testing.assert_close(net.msfl.ground(image, weights), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(with_padding(net, "replicate").msfl.ground(image, weights), wanted, rtol=1e-4, atol=1e-4)
