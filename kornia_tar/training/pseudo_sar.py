"""A radar-like picture drawn from an optical one, for images that have no SAR partner.

Two kinds. :func:`coarse_pseudo_sar` is for pixels of 10 m: edges, a non-monotone map of grey, log-normal speckle.
:func:`fine_pseudo_sar` is for pixels of 0.3 to 3 m, where a radar shows single walls, and follows how such an image
comes about (Oliver and Quegan, *Understanding Synthetic Aperture Radar Images*, 2004; Auer, Hinz and Bamler,
*Ray-tracing simulation techniques for understanding high-resolution SAR images*, IEEE TGRS 48(3), 2010):

1. Tone: what is smooth and grey (asphalt, water) mirrors the pulse away and is dark, what is rough or coloured
   (vegetation, soil) scatters it back; beyond that, brightness says little, so a random map of it is added.
2. Geometry: one range direction per image. A raised thing's edge that faces the sensor is a bright wall that leans
   towards the sensor (layover); the edge behind casts a shadow away from it.
3. Point scatterers, where there is structure.
4. Speckle: a circular complex Gaussian field with that mean power, seen through the sensor's point response. Its power
   is exponential in every pixel and correlated over the resolution cell; averaging neighbours gives few looks (gamma).
5. A power between amplitude and decibel, and the 2–98 % stretch of the protocol.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.training.draws import blur, uniform

REACH = 5  # px, the longest layover and half the longest shadow; larger kernels are 25 times as slow on a CPU
EDGE_QUANTILE = 0.85  # of the slopes along range: what is steeper is a wall


def coarse_pseudo_sar(image: Tensor, generator: Generator) -> Tensor:
    """Draw radar of 10 m pixels from (B, 1, H, W) in [0, 1]: edges, a non-monotone map of grey, strong speckle."""
    B, device = len(image), image.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    dx, dy = image.diff(dim=-1, append=image[..., -1:]), image.diff(dim=-2, append=image[..., -1:, :])
    edges = (dx.square() + dy.square()).sqrt()
    tone = 0.5 + 0.5 * torch.cos(image * math.pi * u(0.7, 1.6) + u(-math.pi, math.pi))
    speckle = torch.exp(0.4 * torch.randn(image.shape, generator=generator, device=device))
    return (tone * u(0.2, 0.7) + edges * u(1.0, 3.0)) * speckle


def fine_pseudo_sar(image: Tensor, generator: Generator, inside: Tensor | None = None) -> Tensor:
    """Draw radar of 0.3 to 3 m pixels from an optical image.

    Args:
        image: (B, 1 or 3, H, W) in [0, 1].
        generator: on the image's device.
        inside: (B, 1, H, W), 1 where the image shows data: its border is no wall. None: everywhere.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    grey = image.mean(1, keepdim=True)
    inside = torch.ones_like(grey) if inside is None else inside.to(grey.dtype)
    inner = (box_mean(inside, 7) > 0.999).to(grey.dtype)
    range_angle = uniform((len(image),), 0, 2 * math.pi, generator, image.device)
    power, roughness = backscatter(image, inner, generator)
    wall, shadow = walls_and_shadows(grey, inner, range_angle, generator)
    power = power * (1 - 0.97 * shadow) + wall
    return detect(power, points(roughness * inner, generator), generator)


def backscatter(image: Tensor, inner: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mean radar power of flat ground, and the optical image's roughness.

    Args:
        image: (B, 1 or 3, H, W) in [0, 1].
        inner: (B, 1, H, W), 0 near where the data end.
        generator: on the image's device.

    Returns:
        power, 1 for middling ground, and the standard deviation of grey around each pixel; both (B, 1, H, W).
    """
    B, device = len(image), image.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    grey = image.mean(1, keepdim=True)
    moments = box_mean(torch.cat([grey, grey.square()], 1), 5)
    tone = moments[:, :1]
    roughness = (moments[:, 1:] - tone.square()).clamp_min(0).sqrt() * inner
    smooth = torch.sigmoid((u(0.02, 0.05) - roughness) / 0.012)
    colour = box_mean(image.amax(1, keepdim=True) - image.amin(1, keepdim=True), 5)
    clumps = F.interpolate(
        torch.randn(B, 1, -(-grey.shape[2] // 3), -(-grey.shape[3] // 3), generator=generator, device=device),
        size=grey.shape[2:], mode="bilinear",
    )  # fmt: skip
    decibel = u(1.0, 3.0) * torch.log2(roughness.clamp_min(0.005) / 0.03).clamp(-2, 2)
    decibel = decibel + u(0.0, 10.0) * (torch.tanh(colour / 0.12) - 0.5) * (colour.amax((1, 2, 3), keepdim=True) > 0.05)
    decibel = decibel - u(2.0, 10.0) * smooth * torch.sigmoid((u(0.15, 0.4) - tone) / 0.05)  # water, asphalt
    decibel = decibel + u(1.0, 5.0) * torch.cos(tone * math.pi * u(1.0, 3.0) + u(-math.pi, math.pi))
    decibel = decibel + u(0.3, 1.5) * clumps * (1 - smooth)
    return 10 ** (decibel / 10), roughness


def walls_and_shadows(grey: Tensor, inner: Tensor, range_angle: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Bright walls that lean towards the sensor, and shadows away from it.

    Args:
        grey: (B, 1, H, W) in [0, 1].
        inner: (B, 1, H, W), 0 near where the data end.
        range_angle: (B,) radian, from x to y; the direction away from the sensor.
        generator: on the image's device.

    Returns:
        power of the walls and depth of the shadows in [0, 1], both (B, 1, H, W).
    """
    B, device = len(grey), grey.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    x = blur(grey, u(0.5, 1.0).flatten())
    dx = F.pad((x[..., 2:] - x[..., :-2]) / 2, (1, 1, 0, 0))
    dy = F.pad((x[..., 2:, :] - x[..., :-2, :]) / 2, (0, 0, 1, 1))
    cos, sin = (f(range_angle).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    # Raised things are mostly the brighter ones (roofs); in a quarter of the images the darker ones (trees).
    slope = (dx * cos + dy * sin) * torch.where(u() < 0.75, 1.0, -1.0) * inner
    steep = quantiles(slope.abs(), (EDGE_QUANTILE,))[0].clamp_min(0.02)
    # Along a wall all slopes have one sign; leaves and waves have both, side by side.
    slope = slope * (box_mean(slope, 5).abs() / box_mean(slope.abs(), 5).clamp_min(1e-4)).clamp(0, 1)
    near, far = (((sign * slope - steep) / steep).clamp(0, 2) for sign in (1, -1))
    # Not every wall is a mirror: the bright ones come in pieces.
    piece = torch.rand(B, 1, -(-grey.shape[2] // 8), -(-grey.shape[3] // 8), generator=generator, device=device)
    near = near * F.interpolate(-piece.clamp_min(1e-4).log(), size=grey.shape[2:], mode="bilinear")
    lines = torch.cat([line_kernel(range_angle, u(0.5, 4.0).flatten(), True),
                       line_kernel(range_angle, u(0.5, float(REACH)).flatten(), False)], 1)  # (B, 2, K, K)  # fmt: skip
    sources = torch.cat([near, far], 1).flatten(0, 1)[None]  # (1, 2B, H, W)
    drawn = F.conv2d(sources, lines.flatten(0, 1)[:, None], padding=REACH, groups=2 * B)[0].unflatten(0, (B, 2))
    wall, shadow = drawn[:, :1], drawn[:, 1:] * u(0.5, 2.0)
    twice = F.conv2d(shadow.transpose(0, 1), lines[:, 1:], padding=REACH, groups=B).transpose(0, 1)
    return 10 ** u(0.0, 1.5) * wall, torch.where(u() < 0.5, twice, shadow).clamp_max(1)


def box_mean(image: Tensor, side: int) -> Tensor:
    """Mean over ``side`` × ``side`` pixels, odd, of (B, C, H, W): shifted copies, added, take a tenth of pooling."""
    height, width = image.shape[2:]
    x = F.pad(image, (side // 2,) * 4, mode="replicate")
    x = sum((x[..., k : k + width] for k in range(1, side)), x[..., :width])
    return sum((x[..., k : k + height, :] for k in range(1, side)), x[..., :height, :]) / side**2


def line_kernel(angle: Tensor, length: Tensor, towards: bool) -> Tensor:
    """Kernels that smear along a direction.

    Args:
        angle: (B,) radian.
        length: (B,) px, of the line.
        towards: smear against the direction, to where one comes from; else along it.

    Returns:
        (B, 1, K, K) for cross-correlation, K = 2·REACH + 1; a line of about one pixel's width, 1 on it.
    """
    steps = torch.arange(-REACH, REACH + 1, device=angle.device, dtype=torch.float32)
    x, y = steps[None, None, :], steps[None, :, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = x * cos + y * sin, (y * cos - x * sin).abs()
    along = along if towards else -along  # what a pixel shows comes from the kernel's place
    on = (1.2 - across).clamp(0, 1) * (length[:, None, None] + 0.5 - along).clamp(0, 1) * (along + 0.5).clamp(0, 1)
    return on[:, None]


def points(roughness: Tensor, generator: Generator) -> Tensor:
    """Amplitudes of point scatterers (corners, poles, cars), (B, 1, H, W), mostly 0; more where it is rough."""
    B, device = len(roughness), roughness.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    density = 10 ** u(-4.0, -2.0) * roughness / roughness.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
    draw = torch.rand(roughness.shape, generator=generator, device=device)
    strength = -(draw / density.clamp_min(1e-9)).clamp(1e-4, 1).log()  # exponential where the point is drawn, else 0
    return u(2.0, 8.0) * strength


def detect(power: Tensor, point: Tensor, generator: Generator) -> Tensor:
    """What the sensor delivers of a scene.

    Args:
        power: (B, 1, H, W) mean power.
        point: (B, 1, H, W) amplitudes of point scatterers.
        generator: on their device.

    Returns:
        (B, 1, H, W) in [0, 1]: speckled, of one look in half of the images, compressed and stretched.
    """
    B, device = len(power), power.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    noise = torch.randn(B, 2, *power.shape[2:], generator=generator, device=device)
    field = (power / 2).sqrt() * noise
    field = torch.cat([field[:, :1] + point, field[:, 1:]], 1)
    response = u(0.3, 0.65).flatten().repeat_interleave(2)
    field = blur(field.flatten(0, 1)[:, None], response)[:, 0].unflatten(0, (B, 2))
    seen = field.square().sum(1, keepdim=True)
    seen = blur(seen, u(0.35, 0.75).flatten() * (u().flatten() < 0.5))  # a few looks
    seen = seen.clamp_min(1e-6) ** u(0.25, 0.5)
    low, high = quantiles(seen, (0.02, 0.98))
    return ((seen - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def quantiles(image: Tensor, q: tuple[float, ...]) -> list[Tensor]:
    """Quantiles of each image, (B, 1, 1, 1) each, by every sixteenth pixel of (B, 1, H, W)."""
    ordered = image[..., ::4, ::4].flatten(1).sort(dim=1).values
    return [ordered[:, round(part * (ordered.shape[1] - 1))].view(-1, 1, 1, 1) for part in q]
