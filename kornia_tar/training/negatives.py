"""Pictures that match nothing: noise of many kinds and flat ground, in the place of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.training.draws import blur, uniform

SCALES = 4, 8, 16, 32  # px between the nodes of coloured noise


def draw_nothing(batch: int, size: int, generator: Generator, device: torch.device) -> Tensor:
    """Draw pictures without content, (batch, 1, size, size), around [0, 1].

    In equal shares: white noise; coloured noise, a random mixture of octaves; speckle, one look or a few, on even or
    on cloudy ground; flat ground, of one grey or with a slope, with next to no noise.
    """
    shape = (batch, 1, size, size)
    u = lambda low=0.0, high=1.0: uniform((batch, 1, 1, 1), low, high, generator, device)  # noqa: E731
    white = torch.randn(shape, generator=generator, device=device)
    clouds = torch.zeros(shape, device=device)
    for step in SCALES:
        nodes = torch.randn(batch, 1, size // step + 2, size // step + 2, generator=generator, device=device)
        clouds = clouds + u(0.0, 1.0) * F.interpolate(nodes, size=(size, size), mode="bicubic")
    looks = -torch.rand(shape, generator=generator, device=device).clamp_min(1e-4).log()
    looks = blur(looks, u(0.0, 1.2).flatten()) ** u(0.3, 1.0)
    ramp = torch.linspace(-0.5, 0.5, size, device=device)
    flat = u(0.1, 0.9) + (u() < 0.4) * (u(-0.5, 0.5) * ramp + u(-0.5, 0.5) * ramp[:, None]) + 0.01 * u() * white
    kinds = torch.stack([
        0.5 + u(0.02, 0.3) * blur(white, u(0.0, 1.0).flatten() * (u().flatten() < 0.5)),
        0.5 + u(0.05, 0.3) * (clouds + u(0.0, 0.3) * white),
        u(0.2, 0.7) * looks * torch.exp(u(0.0, 0.7) * (u() < 0.5) * clouds),
        flat,
    ])  # fmt: skip
    kind = (u() * len(kinds)).long()
    return kinds.gather(0, kind.expand(shape)[None])[0].clamp(0, 1)
