"""Batched warps and photometry on the training device, and the truth that the warps imply.

Each image of a pair is cut from the aligned source by its own warp, so no cell sits where it sat (the identity
shortcut, see RECIPE in the model card): a turn of the whole scene over the full circle, then a rotation, scale, shear
and translation *between* the two, as strong as ``difficulty`` says. Matrices map pixels of the crop to pixels of the
source.

Some pairs are *negatives*: they show two places, or nothing at all, and have no truth. Some carry graphics, which agree
where the ground does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.conventions import CELL, LUMINANCE
from kornia_tar.network.points import transform_points
from kornia_tar.training.data import Pairs
from kornia_tar.training.draws import blur, grid_points, share_of, uniform
from kornia_tar.training.graphics import covered_cells, draw_graphics
from kornia_tar.training.negatives import draw_nothing
from kornia_tar.training.pseudo_sar import coarse_pseudo_sar, fine_pseudo_sar

COARSE = 0.5  # share of drawn SAR that looks like 10 m where the pair has a SAR image, all of 10 m
COARSE_ALONE = 0.1  # the same where it has none: optical images alone are of 0.5 to 5 m


@dataclass(frozen=True)
class Deformation:
    """Largest deformation between the two images of a training pair, and what else a pair may be."""

    rotation: float = 50.0  # degrees, either way
    scale: float = 2.0  # factor, either way, log-uniform
    translation: float = 0.30  # of the crop's side
    shear: float = 0.08
    perspective: float = 0.03  # change of scale over half the crop
    same_modality: float = 0.2  # share of optical–optical and SAR–SAR pairs
    pseudo_sar: float = 0.05  # share of pairs whose SAR is drawn from the optical image, though they have one
    framed: float = 0.75  # share of pairs with image0 a whole, upright frame and image1 that frame warped
    near: float = 0.25  # share of pairs deformed by a fifth only, as a second pass meets them
    cropped: float = 0.35  # share of images with nodata around a turned square, which says nothing of the other image
    any_turn: float = 0.15  # share of pairs, of those not near, turned against each other by any angle of the circle
    negative: float = 0.1  # share of pairs without truth: half of two places, half with an image of nothing
    graphics: float = 0.12  # share of pairs with graphics drawn on both images at the same pixels

    def finished(self, any_turn: float = 0.0) -> Deformation:
        """The end of a run: what a matcher meets in its first pass after a rotation start, and in its second.

        Args:
            any_turn: as the field; 0 because a matcher that tries several turns first has the right one then.
        """
        return replace(
            self, rotation=45.0, scale=1.5, translation=0.15, shear=0.04, perspective=0.01, same_modality=0.2,
            pseudo_sar=0.0, framed=1.0, near=0.35, any_turn=any_turn,
        )  # fmt: skip

    def eased(self, ease: float) -> Deformation:
        """An easier start: ``ease`` 0 is this, 1 is nearly upright with more pairs of one modality, no negatives."""
        mix = lambda hard, easy: hard + (easy - hard) * ease  # noqa: E731
        return replace(
            self, rotation=mix(self.rotation, 10.0), scale=mix(self.scale, 1.1), shear=mix(self.shear, 0.0),
            perspective=mix(self.perspective, 0.0), same_modality=mix(self.same_modality, 0.35),
            any_turn=mix(self.any_turn, 0.0), negative=mix(self.negative, 0.0), graphics=mix(self.graphics, 0.0),
        )  # fmt: skip


class Batch(NamedTuple):
    """A training batch; B pairs of S×S crops."""

    image0: Tensor  # (B, 1, S, S) float
    image1: Tensor
    mask0: Tensor  # (B, 1, S, S), 1 = what the network is told to be valid
    mask1: Tensor
    modality0: Tensor  # (B, 2) one-hot
    modality1: Tensor
    real0: Tensor  # (B,) bool, the image is what its modality says: neither a pseudo-SAR nor noise
    real1: Tensor
    matrix: Tensor  # (B, 3, 3) image0 → image1
    valid0: Tensor  # (B, N) bool, the cell's centre shows the source
    valid1: Tensor
    scene: Tensor  # (B,) index of the scene's name in the text bank, or -1
    negative: Tensor  # (B,) bool, the pair has no truth: all of valid0 and valid1 is False


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
    near = r(0, 1) < d.near
    strength = torch.where(near, 0.2, 1.0)
    between = strength * torch.deg2rad(r(-d.rotation, d.rotation))
    between = torch.where((r(0, 1) < d.any_turn) & ~near, r(-math.pi, math.pi), between)
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


def warp(source: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Cut crops: (B, C, S, S) source, (B, 3, 3) crop → source, to (B, C, size, size); zero outside the source."""
    side = source.shape[-1]
    points = transform_points(matrix, grid_points(size, size, 1.0, 0.0, source.device).expand(len(source), -1, -1))
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
    chance = lambda share: torch.rand(B, generator=generator, device=device) < share  # noqa: E731
    wide = lambda flags: flags[:, None, None, None]  # noqa: E731

    negative, which, side = share_of(B, d.negative, generator, device), chance(0.5), chance(1.0 / 3)
    # Of two places: image1 is another pair's. That it shows the same place (a flood before and after) happens once in
    # thousands of draws.
    apart = negative & which & (index.roll(1) != index)
    nothing = negative & ~apart
    nothing0, nothing1 = nothing & ~side, nothing & (side | chance(0.5))
    indices = index, torch.where(apart, index.roll(1), index)

    luminance = torch.tensor(LUMINANCE, device=device).expand(B, 3)
    mix = -torch.log(torch.rand(B, 3, generator=generator, device=device).clamp_min(1e-6))
    mix = mix / mix.sum(1, keepdim=True)
    mix = torch.where(chance(0.5)[:, None], mix, luminance)
    optical = torch.bmm(mix[:, None] / 255, pairs.optical[index].float().flatten(2)).view(B, 1, source, source)
    sar = pairs.sar[index].float() / 255

    roll = torch.rand(B, generator=generator, device=device)
    same, drawn = roll < d.same_modality, roll > 1 - d.pseudo_sar
    swap = chance(0.5)
    is_sar = swap, torch.where(same, swap, ~swap)
    pseudo = [s & (drawn | ~pairs.has_sar[i]) for s, i in zip(is_sar, indices, strict=True)]
    warps, framed = draw_warps(B, size, source, d, generator, device)
    cells = grid_points(size // CELL, size // CELL, CELL, (CELL - 1) / 2, device)

    to1 = torch.linalg.inv(warps[1]) @ warps[0]
    # A quarter of the framed pairs end where image0 ends, as a warped image does; the others go on, as a satellite's
    # does. Often, and the edge of the data would become the best landmark of all, which no real pair has.
    cut = wide(chance(0.25) & framed)
    pixels = grid_points(size, size, 1.0, 0.0, device).expand(B, -1, -1)

    images, masks, valids = [], [], []
    for k, (matrix, i, empty) in enumerate(zip(warps, indices, (nothing0, nothing1), strict=True)):
        if k:
            optical, sar = (torch.where(wide(apart), x.roll(1, 0), x) for x in (optical, sar))
        base = torch.where(wide(is_sar[k] & ~pseudo[k]), sar, optical)
        crop = warp(torch.cat([base, torch.ones_like(base)], 1), matrix, size)
        image, shown = crop[:, :1], (crop[:, 1:] > 0.999).float()
        inside = shown
        if k:
            back = transform_points(torch.linalg.inv(to1), pixels)
            in_frame = ((back >= 0) & (back <= size - 1)).all(-1).view(B, 1, size, size)
            inside = inside * (in_frame | ~cut)
        inside = inside * (turned_square(pixels, size, generator) | ~wide(chance(d.cropped)))
        rows = pseudo[k].nonzero().flatten()
        if len(rows):  # from the colours, whatever grey the optical image has
            colour = warp(pairs.optical[i[rows]].float() / 255, matrix[rows], size)
            coarse = torch.rand(len(rows), generator=generator, device=device)
            coarse = coarse < torch.where(pairs.has_sar[i[rows]], COARSE, COARSE_ALONE)
            fine = fine_pseudo_sar(colour, generator, shown[rows])
            radar = torch.where(wide(coarse), coarse_pseudo_sar(image[rows], generator), fine)
            image = image.index_copy(0, rows, radar)
        image = torch.where(
            wide(is_sar[k]), sar_photometry(image.clamp(0, 1), generator), optical_photometry(image, generator)
        )
        rows = empty.nonzero().flatten()
        if len(rows):
            image = image.index_copy(0, rows, draw_nothing(len(rows), size, generator, device))
        # Half of the images are told their nodata, half show it as black, as a user without a mask has it.
        images.append(image * inside)
        masks.append(torch.where(wide(chance(0.5)), inside, torch.ones_like(inside)))
        at = transform_points(matrix, cells.expand(B, -1, -1))
        mostly = F.avg_pool2d(inside, CELL).flatten(1) >= 0.5  # as TARNet.encode decides from a mask
        valids.append(((at >= 0) & (at <= source - 1)).all(-1) & mostly & ~negative[:, None])

    rows = share_of(B, d.graphics, generator, device).nonzero().flatten()
    if len(rows):
        graphics = draw_graphics(len(rows), size, generator, device)
        seen = ~covered_cells(graphics.cover, CELL)
        for k in (0, 1):
            images[k] = images[k].index_copy(0, rows, graphics.on(images[k][rows], k)) * masks[k]
            valids[k] = valids[k].index_copy(0, rows, valids[k][rows] & seen)
    one_hot = lambda is_sar: torch.stack([~is_sar, is_sar], 1).float()  # noqa: E731
    return Batch(
        images[0], images[1], masks[0], masks[1], one_hot(is_sar[0]), one_hot(is_sar[1]),
        ~(pseudo[0] | nothing0), ~(pseudo[1] | nothing1), to1, valids[0], valids[1],
        torch.where(negative, -1, pairs.scene[index]), negative,
    )  # fmt: skip
