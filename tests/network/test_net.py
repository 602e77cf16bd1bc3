"""TARNet: the three modules together, and their config."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import SMALL, lively_net, picture

from kornia_tar.network.cfdm import CFDMConfig
from kornia_tar.network.msfl import MSFLConfig
from kornia_tar.network.net import SIZES, TARConfig, TARNet
from kornia_tar.network.tafe import TAFEConfig


def test_config_survives_its_dictionary():
    config = TARConfig(MSFLConfig(widths=(8, 16, 24, 32)), TAFEConfig(classes=0), CFDMConfig(layers=3))
    assert TARConfig.from_dict(config.to_dict()) == config
    as_json = {
        k: {n: list(v) if isinstance(v, tuple) else v for n, v in p.items()} for k, p in config.to_dict().items()
    }
    assert TARConfig.from_dict(as_json) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.msfl = MSFLConfig()  # type: ignore[misc]
    wrong = config.to_dict()
    wrong["cfdm"]["wings"] = 2
    with pytest.raises(TypeError, match="wings"):
        TARConfig.from_dict(wrong)


@pytest.mark.parametrize(("size", "millions"), [("XXS", 0.8), ("XS", 3.0), ("S", 5.3), ("M", 10.9)])
def test_sizes_are_what_the_help_says(size, millions):
    with torch.device("meta"):
        net = TARNet(SIZES[size])
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 95)])
def test_cells_of_the_padding_may_not_match(size):
    height, width = size
    described = lively_net().encode(picture(0, height, width), None)
    rows, columns = -(-height // 16) * 2, -(-width // 16) * 2
    assert described.coarse.shape[2:] == (rows, columns)
    assert described.fine.shape[2:] == (4 * rows, 4 * columns)
    if described.mask is None:
        assert (rows * 8, columns * 8) == size
    else:
        expected = torch.zeros(rows, columns, dtype=torch.bool)
        expected[: round(height / 8 - 1e-9), : round(width / 8 - 1e-9)] = True  # at least half of the cell is there
        centre_in = (8 * torch.arange(rows) + 3.5 < height)[:, None] & (8 * torch.arange(columns) + 3.5 < width)
        assert (described.mask[0] <= centre_in).all()
        assert described.mask[0, : height // 8, : width // 8].all()


@torch.no_grad()
def test_a_quarter_of_a_cell_is_not_enough():
    mask = torch.ones(1, 1, 64, 64)
    mask[..., :6] = 0  # leaves 2 of 8 columns of the first cells
    mask[..., 60:, :] = 0  # leaves 4 of 8 rows of the last
    described = lively_net().encode(picture(0, 64, 64), None, mask)
    assert described.mask is not None
    assert not described.mask[0, :, 0].any()
    assert described.mask[0, :, 1:].all()


@torch.no_grad()
def test_fused_network_gives_the_same_matches():
    net = lively_net(seed=3)
    image0, image1 = picture(1, 64, 96), picture(2, 80, 64)
    before = net(image0, image1)
    after = net.fuse()(image0, image1)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_text_given_now_equals_text_stored():
    net = lively_net()
    text = torch.randn(4, 16)
    given = net.encode(picture(0, 32, 32), None, text=text)
    net.tafe.set_text(text)
    torch.testing.assert_close(net.encode(picture(0, 32, 32), None), given)


@torch.no_grad()
def test_network_without_text():
    config = dataclasses.replace(SMALL, tafe=TAFEConfig(text_dim=16, classes=0))
    net = TARNet(config).eval()
    matches = net(picture(0, 64, 64), picture(1, 64, 64))
    assert len(matches.points0) and net.encode(picture(0, 32, 32), None).landcover.shape == (1, 0, 4, 4)
