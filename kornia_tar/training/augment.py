"""Batched warps and photometry on the training device, and the truth that the warps imply.

Each image of a pair is cut from the aligned source by its own warp, so no cell sits where it sat (the identity
shortcut, see RECIPE in the model card): a turn of the whole scene over the full circle, then a rotation, scale, shear
and translation *between* the two, as strong as ``difficulty`` says. Matrices map pixels of the crop to pixels of the
source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.conventions import CELL
from kornia_tar.training.data import Pairs


@dataclass(frozen=True)
class Deformation:
    """Largest deformation between the two images of a training pair."""

    rotation: float = 50.0  # degrees, either way
    scale: float = 1.6  # factor, either way, log-uniform
    translation: float = 0.30  # of the crop's side
    shear: float = 0.08
    perspective: float = 0.03  # change of scale over half the crop
    same_modality: float = 0.2  # share of optical–optical and SAR–SAR pairs
    pseudo_sar: float = 0.05  # share of pairs whose SAR is drawn from the optical image
    framed: float = 0.75  # share of pairs with image0 a whole, upright frame and image1 that frame warped
    near: float = 0.25  # share of pairs deformed by a fifth only, as a second pass meets them
    cropped: float = 0.35  # share of images with nodata around a turned square, which says nothing of the other image

    def finished(self) -> Deformation:
        """The end of a run: what a matcher meets in its first pass after a rotation start, and in its second."""
        return Deformation(45.0, 1.5, 0.15, 0.04, 0.01, 0.2, 0.0, framed=1.0, near=0.35, cropped=self.cropped)

    def eased(self, ease: float) -> Deformation:
        """An easier start: ``ease`` 0 is this, 1 is nearly upright with more pairs of one modality."""
        mix = lambda hard, easy: hard + (easy - hard) * ease  # noqa: E731
        return Deformation(
            mix(self.rotation, 10.0), mix(self.scale, 1.1), self.translation, mix(self.shear, 0.0),
            mix(self.perspective, 0.0), mix(self.same_modality, 0.35), self.pseudo_sar, self.framed, self.near,
            self.cropped,
        )  # fmt: skip


class Batch(NamedTuple):
    """A training batch; B pairs of S×S crops."""

    image0: Tensor  # (B, 1, S, S) float
    image1: Tensor
    mask0: Tensor  # (B, 1, S, S), 1 = what the network is told to be valid
    mask1: Tensor
    modality0: Tensor  # (B, 2) one-hot
    modality1: Tensor
    real0: Tensor  # (B,) bool, the image is not a pseudo-SAR
    real1: Tensor
    matrix: Tensor  # (B, 3, 3) image0 → image1
    valid0: Tensor  # (B, N) bool, the cell's centre shows the source
    valid1: Tensor
    scene: Tensor  # (B,) index of the scene's name in the text bank, or -1


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator, device: torch.device) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


def draw_warps(
    batch: int, size: int, source: int, d: Deformation, generator: Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Draw the two warps of each pair, (2, B, 3, 3), crop pixels → source pixels, and (B,) bool: which are framed.

    A framed pair is what registration meets: image0 lies whole and upright in the source, image1 is warped against it.
    Otherwise the warp between the two is shared half and half, around a turn of both over the full circle.
    """
    r = lambda low, high, *s: uniform((batch, *s), low, high, generator, device)  # noqa: E731
    framed = r(0, 1) < d.framed
    pick = lambda a, b: torch.where(framed.view(-1, *[1] * (b.ndim - 1)), a, b)  # noqa: E731
    scene = r(0, 2 * math.pi)
    scene = pick((scene / (math.pi / 2)).floor() * (math.pi / 2), scene)
    strength = torch.where(r(0, 1) < d.near, 0.2, 1.0)
    between = strength * torch.deg2rad(r(-d.rotation, d.rotation))
    largest = math.log(min(1.25, source / size))  # a frame must fit into the source
    zoom = pick(r(math.log(1 / 1.4), largest), r(math.log(1 / 1.25), math.log(1.25))).exp()  # common to both
    ratio = (strength * r(-math.log(d.scale), math.log(d.scale))).exp()
    flip = torch.where(r(0, 1) < 0.5, -1.0, 1.0)
    room = pick(source - 1 - (size - 1) * zoom, torch.full_like(zoom, source - size))
    middle = (source - 1) / 2 + r(-1, 1, 2) * room[:, None] * 0.5
    shift = r(-1, 1, 2) * (d.translation * size * strength * zoom)[:, None]
    warps = []
    for sign in (-0.5, 0.5):
        part = pick(torch.full_like(zoom, sign + 0.5), torch.full_like(zoom, sign))  # of the warp between the two
        angle, scale = scene + part * between, zoom * ratio**part
        cos, sin = scale * angle.cos(), scale * angle.sin()
        linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        free = (part != 0).float() * strength  # of shear and perspective; a frame has none
        shear = torch.eye(2, device=device) + free[:, None, None] * r(-d.shear, d.shear, 2, 2)
        linear = linear @ shear
        linear = torch.stack([linear[..., 0] * flip[:, None], linear[..., 1]], -1)
        # Around the crop's middle: linear map and perspective divide, then move the middle to its place in the source.
        matrix = torch.eye(3, device=device).repeat(batch, 1, 1)
        matrix[:, :2, :2] = linear
        matrix[:, 2, :2] = free[:, None] * r(-d.perspective, d.perspective, 2) / (size / 2)
        to_middle = torch.eye(3, device=device)
        to_middle[:2, 2] = -(size - 1) / 2
        translate = torch.eye(3, device=device).repeat(batch, 1, 1)
        translate[:, :2, 2] = middle + part[:, None] * shift
        warps.append(translate @ matrix @ to_middle)
    return torch.stack(warps), framed


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Map (…, N, 2) points by (…, 3, 3) matrices; always in fp32, also under autocast: this is the truth."""
    with torch.autocast(points.device.type, enabled=False):
        points = points.float()
        mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.float().transpose(-1, -2)
        return mapped[..., :2] / mapped[..., 2:].clamp_min(1e-6)


def grid_points(rows: int, columns: int, step: float, offset: float, device: torch.device) -> Tensor:
    """(rows·columns, 2) points (x, y) at ``offset + step·k``."""
    y, x = torch.meshgrid(
        torch.arange(rows, device=device) * step + offset, torch.arange(columns, device=device) * step + offset,
        indexing="ij",
    )  # fmt: skip
    return torch.stack([x.flatten(), y.flatten()], -1)


def warp(source: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Cut crops: (B, C, S, S) source, (B, 3, 3) crop → source, to (B, C, size, size); zero outside the source."""
    side = source.shape[-1]
    points = apply(matrix, grid_points(size, size, 1.0, 0.0, source.device).expand(len(source), -1, -1))
    grid = (points * 2 / (side - 1) - 1).view(len(source), size, size, 2)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def turned_square(pixels: Tensor, size: int, generator: Generator) -> Tensor:
    """Where (B, S², 2) pixels lie in a square of random place, side and turn, one per image: (B, 1, S, S) bool."""
    r = lambda low, high, *s: uniform((len(pixels), *s), low, high, generator, pixels.device)  # noqa: E731
    angle, half = r(0, 2 * math.pi), size * r(0.35, 0.7)
    offset = pixels - ((size - 1) / 2 + size * r(-0.25, 0.25, 1, 2))
    axis = torch.stack([angle.cos(), angle.sin()], -1)
    along, across = (
        (offset * axis[:, None]).sum(-1),
        (offset * axis.flip(-1)[:, None] * axis.new_tensor([-1, 1])).sum(-1),
    )
    inside = torch.maximum(along.abs(), across.abs()) <= half[:, None]
    return inside.view(len(pixels), 1, size, size)


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma per image, (B, 1, H, W), (B,) px, by a 5×5 separable kernel."""
    taps = torch.arange(-2, 3, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    x = image.transpose(0, 1)  # (1, B, H, W): one group per image
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=len(image))
    x = F.conv2d(F.pad(x, (0, 0, 2, 2), mode="replicate"), kernel[:, None, :, None], groups=len(image))
    return x.transpose(0, 1)


def optical_photometry(image: Tensor, generator: Generator) -> Tensor:
    """Gamma, inversion, XoFTR's non-monotone cosine map, blur and noise on (B, 1, H, W) in [0, 1]."""
    B, device = len(image), image.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    x = image.clamp(1e-4, 1) ** u(-0.5, 0.5).exp()
    x = torch.where(u() < 0.1, 1 - x, x)
    cosine = 0.5 + 0.5 * torch.cos(x * math.pi * u(0.7, 1.6) + u(-math.pi, math.pi))
    x = torch.where(u() < 0.12, cosine, x)
    x = blur(x, u(0.0, 1.0).flatten() * (u().flatten() < 0.4))
    return x + 0.03 * u() * torch.randn(x.shape, generator=generator, device=device)


def sar_photometry(image: Tensor, generator: Generator) -> Tensor:
    """Gamma, gain of speckle (log-normal approximation of multi-look gamma), blur on (B, 1, H, W) in [0, 1]."""
    B, device = len(image), image.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    x = image.clamp(1e-4, 1) ** u(-0.4, 0.4).exp()
    speckle = torch.exp(0.35 * u() * (u() < 0.4) * torch.randn(x.shape, generator=generator, device=device))
    return blur(x * speckle, u(0.0, 1.0).flatten() * (u().flatten() < 0.4))


def pseudo_sar(image: Tensor, generator: Generator) -> Tensor:
    """A radar-like picture of an optical one: edges, a non-monotone map of grey, strong speckle."""
    B, device = len(image), image.device
    u = lambda low=0.0, high=1.0: uniform((B, 1, 1, 1), low, high, generator, device)  # noqa: E731
    dx, dy = image.diff(dim=-1, append=image[..., -1:]), image.diff(dim=-2, append=image[..., -1:, :])
    edges = (dx.square() + dy.square()).sqrt()
    tone = 0.5 + 0.5 * torch.cos(image * math.pi * u(0.7, 1.6) + u(-math.pi, math.pi))
    speckle = torch.exp(0.4 * torch.randn(image.shape, generator=generator, device=device))
    return (tone * u(0.2, 0.7) + edges * u(1.0, 3.0)) * speckle


def make_batch(pairs: Pairs, index: Tensor, size: int, d: Deformation, generator: Generator) -> Batch:
    """Draw warps and photometry for the pairs in ``index``; deterministic given the generator's state.

    Args:
        pairs: all pairs.
        index: (B,) long.
        size: side of the crops, a multiple of 16.
        d: how strong.
        generator: on the pairs' device.
    """
    device, B, source = pairs.sar.device, len(index), pairs.sar.shape[-1]
    optical, sar = pairs.optical[index].float() / 255, pairs.sar[index].float() / 255
    luminance = torch.tensor([0.299, 0.587, 0.114], device=device).expand(B, 3)
    mix = -torch.log(torch.rand(B, 3, generator=generator, device=device).clamp_min(1e-6))
    mix = mix / mix.sum(1, keepdim=True)
    mix = torch.where(torch.rand(B, 1, generator=generator, device=device) < 0.5, mix, luminance)
    optical = (optical * mix[:, :, None, None]).sum(1, keepdim=True)

    roll = torch.rand(B, generator=generator, device=device)
    same, pseudo = roll < d.same_modality, (roll > 1 - d.pseudo_sar) | ~pairs.has_sar[index]
    swap = torch.rand(B, generator=generator, device=device) < 0.5
    is_sar0, is_sar1 = swap, torch.where(same, swap, ~swap)
    warps, framed = draw_warps(B, size, source, d, generator, device)
    cells = grid_points(size // CELL, size // CELL, CELL, (CELL - 1) / 2, device)

    to1 = torch.linalg.inv(warps[1]) @ warps[0]
    # A quarter of the framed pairs end where image0 ends, as a warped image does; the others go on, as a satellite's
    # does. Often, and the edge of the data would become the best landmark of all, which no real pair has.
    cut = (torch.rand(B, 1, 1, 1, generator=generator, device=device) < 0.25) & framed[:, None, None, None]
    pixels = grid_points(size, size, 1.0, 0.0, device).expand(B, -1, -1)

    images, masks, valids = [], [], []
    for k, (matrix, is_sar) in enumerate(zip(warps, (is_sar0, is_sar1), strict=True)):
        base = torch.where((is_sar & ~pseudo)[:, None, None, None], sar, optical)
        crop = warp(torch.cat([base, torch.ones_like(base)], 1), matrix, size)
        image, inside = crop[:, :1], (crop[:, 1:] > 0.999).float()
        if k:
            back = apply(torch.linalg.inv(to1), pixels)
            in_frame = ((back >= 0) & (back <= size - 1)).all(-1).view(B, 1, size, size)
            inside = inside * (in_frame | ~cut)
        cropped = torch.rand(B, 1, 1, 1, generator=generator, device=device) < d.cropped
        inside = inside * (turned_square(pixels, size, generator) | ~cropped)
        s = is_sar[:, None, None, None]
        drawn = torch.where((is_sar & pseudo)[:, None, None, None], pseudo_sar(image, generator), image)
        image = torch.where(s, sar_photometry(drawn.clamp(0, 1), generator), optical_photometry(drawn, generator))
        # Half of the images are told their nodata, half show it as black, as a user without a mask has it.
        told = torch.rand(B, 1, 1, 1, generator=generator, device=device) < 0.5
        images.append(image * inside)
        masks.append(torch.where(told, inside, torch.ones_like(inside)))
        at = apply(matrix, cells.expand(B, -1, -1))
        mostly = F.avg_pool2d(inside, CELL).flatten(1) >= 0.5  # as TARNet.describe decides from a mask
        valids.append(((at >= 0) & (at <= source - 1)).all(-1) & mostly)
    one_hot = lambda is_sar: torch.stack([~is_sar, is_sar], 1).float()  # noqa: E731
    return Batch(
        images[0], images[1], masks[0], masks[1], one_hot(is_sar0), one_hot(is_sar1),
        ~(pseudo & is_sar0), ~(pseudo & is_sar1), to1, valids[0], valids[1],
        pairs.scene[index],
    )  # fmt: skip
