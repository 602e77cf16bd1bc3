"""Radar drawn from optical images: its speckle, its tones, and which way its walls lean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from kornia_tar.training.pseudo_sar import (
    REACH,
    backscatter,
    box_mean,
    detect,
    fine_pseudo_sar,
    line_kernel,
    quantiles,
    walls_and_shadows,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_a_picture_in_the_protocols_range(pairs):
    image = pairs.optical.float() / 255
    out = fine_pseudo_sar(image, seeded())
    assert out.shape == (4, 1, 128, 128) and float(out.min()) == 0 and float(out.max()) == 1
    share = (out == 1).float().mean((1, 2, 3))
    assert (share > 0.005).all() and (share < 0.06).all()  # the 2–98 % stretch
    assert torch.equal(out, fine_pseudo_sar(image, seeded())) and not torch.equal(
        out, fine_pseudo_sar(image, seeded(1))
    )
    assert fine_pseudo_sar(image[:, :1], seeded()).shape == out.shape  # grey images too
    assert fine_pseudo_sar(image[:1, :, :50, :70], seeded()).shape == (1, 1, 50, 70)


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_an_even_image_gives_speckle_alone(grey):
    out = fine_pseudo_sar(torch.full((8, 3, 64, 64), grey), seeded())
    assert out.isfinite().all() and (out.std((1, 2, 3)) > 0.1).all()


def test_speckle_has_one_look_or_a_few(monkeypatch):
    """An exponential power has a logarithm of skewness -1.14, whatever compresses it; of a few looks it goes to 0."""
    wide = torch.tensor(0.0), torch.tensor(1e3)
    monkeypatch.setattr("kornia_tar.training.pseudo_sar.quantiles", lambda image, q: wide)
    seen = detect(torch.ones(64, 1, 96, 96), torch.zeros(64, 1, 96, 96), seeded()).log().flatten(1)
    seen = seen - seen.mean(1, keepdim=True)
    skewness = seen.pow(3).mean(1) / seen.square().mean(1) ** 1.5
    one_look = (skewness + 1.14).abs() < 0.12
    assert 0.3 < one_look.float().mean() < 0.7
    assert (skewness < 0.2).all() and (skewness > -1.3).all() and (skewness > -0.8).any()


def test_speckle_is_correlated_over_the_resolution_cell_alone():
    out = detect(torch.ones(32, 1, 96, 96), torch.zeros(32, 1, 96, 96), seeded())
    centred = out - out.mean((2, 3), keepdim=True)
    power = centred.square().mean((1, 2, 3))
    next_to = (centred[..., 1:] * centred[..., :-1]).mean((1, 2, 3)) / power
    away = (centred[..., 6:] * centred[..., :-6]).mean((1, 2, 3)) / power
    assert float(next_to.max()) > 0.3 and float(next_to.mean()) > 0.1
    assert float(away.abs().max()) < 0.06


def test_smooth_dark_grey_ground_is_darker_than_rough_ground():
    image = torch.full((24, 3, 64, 64), 0.15)
    image[..., 32:] = 0.15 + 0.25 * torch.rand(24, 1, 64, 32, generator=seeded())
    power, roughness = backscatter(image, torch.ones(24, 1, 64, 64), seeded())
    left, right = (power[..., part].log10().mean((1, 2, 3)) for part in (slice(4, 28), slice(36, 60)))
    assert (right > left).float().mean() > 0.85 and float((right - left).mean()) > 0.5  # bels
    assert float(roughness[..., 4:28].max()) < 1e-3 < float(roughness[..., 36:60].min())


def test_walls_face_the_sensor_and_shadows_lie_behind():
    image = torch.full((40, 1, 64, 64), 0.2)
    image[..., 24:40, 24:40] = 0.9
    wall, shadow = walls_and_shadows(image, torch.ones_like(image), torch.zeros(40), seeded())  # sensor at the left
    columns = torch.arange(64.0)
    place = lambda x: (x[:, 0].sum(1) * columns).sum(1) / x[:, 0].sum((1, 2)).clamp_min(1e-6)  # noqa: E731
    bright_roof = place(wall) < place(shadow)  # a quarter take the dark for the raised
    assert 0.55 < bright_roof.float().mean() < 0.95
    at_wall, at_shadow = place(wall)[bright_roof], place(shadow)[bright_roof]
    assert (at_wall < 25.5).all() and (at_wall > 23.5 - REACH).all()
    assert (at_shadow > 38.5).all() and (at_shadow < 40.5 + 2 * REACH).all()
    assert float(shadow.max()) <= 1 and float(wall.min()) >= 0


def test_the_edge_of_the_data_is_no_wall():
    image, inside = torch.zeros(8, 3, 64, 64), torch.zeros(8, 1, 64, 64)
    image[..., :40] = 0.8
    inside[..., :40] = 1
    inner = (box_mean(inside, 7) > 0.999).float()
    wall, shadow = walls_and_shadows(image[:, :1], inner, torch.zeros(8), seeded())
    assert not wall.any() and not shadow.any()
    assert fine_pseudo_sar(image, seeded(), inside).isfinite().all()


@pytest.mark.parametrize("towards", [True, False])
def test_lines_go_one_way(towards):
    kernel = line_kernel(torch.tensor([0.0, math.pi / 2]), torch.tensor([4.0, 4.0]), towards)
    impulse = torch.zeros(1, 1, 21, 21)
    impulse[..., 10, 10] = 1
    right, down = torch.nn.functional.conv2d(impulse, kernel, padding=REACH)[0]
    sign = -1 if towards else 1
    for k in range(-8, 9):
        on = 0 <= sign * k <= 4
        assert (float(right[10, 10 + k]) > 0.4) == on and (float(down[10 + k, 10]) > 0.4) == on
    assert float(right[7].max()) == 0


def test_box_mean_and_quantiles_by_hand():
    image = torch.rand(2, 3, 9, 11, generator=seeded())
    expected = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(image, (2,) * 4, mode="replicate"), 5, 1)
    torch.testing.assert_close(box_mean(image, 5), expected)
    ramp = torch.linspace(0, 1, 64 * 64)[torch.randperm(64 * 64, generator=seeded())].view(1, 1, 64, 64)
    low, high = quantiles(ramp, (0.1, 0.9))
    assert float(low) == pytest.approx(0.1, abs=0.06) and float(high) == pytest.approx(0.9, abs=0.06)
