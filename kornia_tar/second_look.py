"""Second look: warp by the first matches, compare again, let neighbouring cells agree.

The first look matches cell by cell, across any rotation that it was trained for, and is right to some 5 px. Its matches
together say much more than each alone. So a robust fit turns them into a smooth field of local affine maps, each image
is resampled into the other's frame through the field and encoded again, and now that the two nearly lie on each other
every cell's fine descriptors are correlated with the other image over displacements of up to ±8 px. Between optical and
SAR most cells are in doubt: a road pins a cell across, not along itself. The refinement head therefore sees each cell's
map beside the averages of its neighbours' and a wide neighbourhood of all of them, and answers with a posterior over
displacements, an offset with a Laplace scale, and the logit of being right.

This happens in both frames, image1 in image0's and image0 in image1's, by the same functions: swapping the images swaps
the result. Further looks fit the field to the previous look's matches and repeat.

The paper publishes one pass; this is ours, after the iterated warp refinement of CRFT and RAFT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.cfdm import CELL, CFDM, PLACE_STEP, cell_centres, parabola_peak

VOTERS = 512  # most confident matches that judge proposals; all of them would cost memory
OUTLIER_RATIO = 0.1  # share of cells whose maps tell nothing; it bounds what one cell can say against the others


@dataclass(frozen=True)
class SecondLookConfig:
    """Sizes of the field and of the refinement head."""

    hidden: int = 96  # channels of the head
    tokens: int = 32  # channels to which either image's coarse features are projected
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)  # of the residual blocks, in cells
    votes: tuple[float, ...] = (1.5, 4.0)  # sigmas of the neighbourhoods that vote, in cells
    spacing: int = 16  # px between the field's nodes
    reach: float = 40.0  # px, sigma of the kernel of the local affine maps
    ridge: float = 2.0  # matches' worth of pull towards the global affine map
    seeds: int = 48  # most confident matches that propose similarities, two by two


class Field(NamedTuple):
    """A smooth map of one image's pixels into the other's: an affine map, and what nodes add to it."""

    matrix: Tensor  # (B, 2, 3)
    residual: Tensor  # (B, 2, R, C) px, at nodes ``spacing`` px apart, bilinear between them
    trust: Tensor  # (B, 1, R, C), confidence of the matches around each node, summed; 0 where nothing is known
    spacing: int

    def sample(self, values: Tensor, points: Tensor) -> Tensor:
        """Interpolate node values (B, K, R, C) at points (B, N, 2) px; constant beyond the outer nodes: (B, N, K)."""
        extent = points.new_tensor([values.shape[3], values.shape[2]]) * self.spacing
        grid = (2 * (points + 0.5) / extent - 1)[:, None]  # (B, 1, N, 2)
        found = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found[:, :, 0].transpose(1, 2)

    def __call__(self, points: Tensor) -> Tensor:
        """Map (B, N, 2) px."""
        return transform(self.matrix, points) + self.sample(self.residual, points)

    def scale(self) -> Tensor:
        """(B,) px of the other image per px of this one."""
        return self.matrix[:, :, :2].det().abs().clamp_min(1e-6).sqrt()

    def detach(self) -> Field:
        """The same field as a constant."""
        return Field(self.matrix.detach(), self.residual.detach(), self.trust.detach(), self.spacing)


class DisplacementPosterior(NamedTuple):
    """What a look says of each cell of one image, in that image's frame."""

    logits: Tensor  # (B, S², h, w) over displacements, row by row as in :class:`kornia_tar.cfdm.FineHead`
    shift: Tensor  # (B, 2, h, w) px, x then y: the cell's centre lies there in the warped other image
    log_scale: Tensor  # (B, h, w) log of the Laplace scale, px
    match_logit: Tensor  # (B, h, w) of "within 3 px"
    valid: Tensor  # (B, h, w) bool, both images show the cell


# ---------------------------------------------------------------- field


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points (B, N, 2) by affine matrices (B, 2, 3); no matrix product, which autocast would round."""
    return (points[:, :, None] * matrix[:, None, :, :2]).sum(-1) + matrix[:, None, :, 2]


def pad_matches(batch: Tensor, values: Sequence[Tensor], size: int, capacity: int) -> list[Tensor]:
    """Arrange lists of all pairs' matches as one zero-padded row a pair: (N, …) → (B, capacity, …).

    Args:
        batch: (N,) pair of each match, ascending.
        values: tensors that begin with N.
        size: number of pairs B.
        capacity: at least as large as the longest list.
    """
    slot = torch.arange(len(batch), device=batch.device) - torch.searchsorted(batch, batch)
    padded = [v.float().new_zeros(size, capacity, *v.shape[1:]) for v in values]
    return [p.index_put((batch, slot), v.float()) for p, v in zip(padded, values, strict=True)]


def propose_similarity(points0: Tensor, points1: Tensor, weight: Tensor, seeds: int, sigma: float = 6.0) -> Tensor:
    """Find the similarity that most confidence agrees with, of those through two of the most confident matches.

    Errors count as the geometric mean of both images' pixels, so the images may change places.

    Args:
        points0: (B, N, 2) px.
        points1: (B, N, 2) px.
        weight: (B, N), 0 where padded.
        seeds: how many matches propose.
        sigma: px, what still counts as agreement.

    Returns:
        (B, 2, 3) image0 → image1; the identity where no two matches propose anything.
    """
    points0, points1, weight = points0.detach(), points1.detach(), weight.detach()
    z0, z1 = torch.view_as_complex(points0.contiguous()), torch.view_as_complex(points1.contiguous())
    weight, order = weight.topk(min(VOTERS, weight.shape[1]), dim=1)
    z0, z1 = z0.gather(1, order), z1.gather(1, order)
    first, second = torch.triu_indices(seeds, seeds, 1, device=weight.device).clamp_max(weight.shape[1] - 1)
    run = z0[:, second] - z0[:, first]  # (B, P)
    usable = (run.abs() > 2 * CELL) & (weight[:, first] > 0) & (weight[:, second] > 0)
    turn = (z1[:, second] - z1[:, first]) / torch.where(usable, run, torch.ones_like(run))
    usable &= (turn.abs() > 0.2) & (turn.abs() < 5)
    turn = torch.where(usable, turn, torch.ones_like(turn))
    move = (z1[:, second] + z1[:, first] - turn * (z0[:, second] + z0[:, first])) / 2
    a, t = torch.view_as_real(turn)[..., None, :], torch.view_as_real(move)[..., None, :]  # (B, P, 1, 2)
    x, y = points0.gather(1, order[..., None].expand(-1, -1, 2))[:, None].unbind(-1)  # (B, 1, N)
    u, v = points1.gather(1, order[..., None].expand(-1, -1, 2))[:, None].unbind(-1)
    error = (a[..., 0] * x - a[..., 1] * y + (t[..., 0] - u)).square()
    error += (a[..., 1] * x + a[..., 0] * y + (t[..., 1] - v)).square()
    agreed = error.mul_(-0.5 / (sigma**2 * turn.abs()[..., None])).exp_()  # (B, P, N)
    score = (agreed @ weight[..., None])[..., 0] * usable  # (B, P)
    best = score.argmax(1, keepdim=True)
    found = score.gather(1, best)[:, 0] > 0
    a, t = (torch.view_as_real(value.gather(1, best)[:, 0]) for value in (turn, move))  # (B, 2)
    matrix = torch.stack([a[:, 0], -a[:, 1], t[:, 0], a[:, 1], a[:, 0], t[:, 1]], -1).view(-1, 2, 3)
    return torch.where(found[:, None, None], matrix, torch.eye(2, 3, device=matrix.device))


def inverted(matrix: Tensor) -> Tensor:
    """Invert affine matrices (B, 2, 3)."""
    linear = torch.linalg.inv(matrix[:, :, :2])
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], 2)


def fit_field(
    points0: Tensor, points1: Tensor, weight: Tensor, start: Tensor, size: tuple[int, int], config: SecondLookConfig
) -> Field:
    """Fit a smooth field of local affine maps to matches, some of which are wrong.

    From the start, an affine map by iteratively reweighted least squares (Welsch's weights, narrowing), then at each node a local affine map by least squares under a Gaussian kernel, pulled towards the global
    one: parallax is followed where matches support it, and elsewhere nothing is invented. Differentiable in the points
    and weights through the last affine fit and the local ones.

    Args:
        points0: (B, N, 2) px in the image whose pixels are mapped.
        points1: (B, N, 2) px in the other image.
        weight: (B, N) confidence, 0 where padded.
        start: (B, 2, 3) to begin from, see :func:`propose_similarity`.
        size: (H, W) of the image whose pixels are mapped.
        config: the field's sizes.

    Returns:
        the field; the start with no trust where there are no matches.
    """
    B, side = len(points0), max(size) / 2
    middle = points0.new_tensor([size[1] - 1, size[0] - 1]) / 2
    design = torch.cat([(points0 - middle) / side, torch.ones_like(points0[..., :1])], -1)  # (B, N, 3)
    unit = points0.new_tensor([[1 / side, 0, 0], [0, 1 / side, 0], [*(-middle / side).tolist(), 1]])
    matrix = start
    for sigma in (8.0, 6.0, 5.0, 4.0, 4.0):
        matrix = matrix.detach()
        left = points1 - transform(matrix, points0)  # (B, N, 2)
        scale = matrix[:, :, :2].det().abs().clamp_min(0.04).sqrt()[:, None]
        inlier = weight * (-left.detach().square().sum(-1) / (2 * sigma**2 * scale)).exp()
        update = ridge_solve(design, left, inlier, 0.1 * torch.ones_like(design[0, 0]))  # (B, 3, 2)
        matrix = matrix + (unit @ update).transpose(1, 2)
    left = points1 - transform(matrix, points0)
    inlier = weight * (-left.detach().square().sum(-1) / (2 * 6.0**2 * scale)).exp()

    rows, columns = (-(-length // config.spacing) for length in size)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    nodes = torch.stack([x.flatten(), y.flatten()], -1).to(points0) * config.spacing + (config.spacing - 1) / 2
    offset = (points0[:, None] - nodes[:, None]) / config.reach  # (B, R·C, N, 2)
    near = inlier[:, None] * (-offset.square().sum(-1) / 2).exp()  # (B, R·C, N)
    local = torch.cat([offset, torch.ones_like(offset[..., :1])], -1)
    ridge = config.ridge * points0.new_tensor([1.0, 1.0, 1.0])
    residual = ridge_solve(local, left[:, None], near, ridge)[..., 2, :]  # (B, R·C, 2), at the node itself
    residual = residual.transpose(1, 2).reshape(B, 2, rows, columns)
    return Field(matrix, residual, near.sum(-1).view(B, 1, rows, columns), config.spacing)


def ridge_solve(design: Tensor, target: Tensor, weight: Tensor, ridge: Tensor) -> Tensor:
    """Weighted least squares with a ridge: (…, N, 3), (…, N, 2), (…, N), (3,) → (…, 3, 2)."""
    weighted = (design * weight[..., None]).transpose(-1, -2)  # (…, 3, N)
    return torch.linalg.solve(weighted @ design + ridge.diag(), weighted @ target)


# ---------------------------------------------------------------- resampling and correlation


def resample(image: Tensor, mask: Tensor | None, field: Field, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sample an image into the frame of the other through a field.

    Where the image is finer than the frame, four samples a pixel are averaged, so that speckle does not alias.

    Args:
        image: (B, 1, H1, W1).
        mask: (B, 1, H1, W1), 1 = valid, or None.
        field: frame → image.
        size: (H, W) of the frame.

    Returns:
        the image (B, 1, H, W), 0 where it shows nothing, and its mask likewise.
    """
    y, x = torch.meshgrid(*(torch.arange(length, device=image.device, dtype=torch.float32) for length in size),
                          indexing="ij")  # fmt: skip
    pixels = torch.stack([x.flatten(), y.flatten()], -1).expand(len(image), -1, -1)
    extent = pixels.new_tensor([image.shape[3], image.shape[2]])
    grid = 2 * (field(pixels) + 0.5) / extent - 1  # (B, H·W, 2)
    valid = torch.ones_like(image) if mask is None else mask.to(image.dtype)
    source = torch.cat([image * valid, valid], 1).float()
    spread = 0.25 * (2 * (field.scale() - 1)).clamp(0, 1)  # px of the frame; 0 from equal scales on
    corners = spread.new_tensor([[-1, -1], [1, -1], [-1, 1], [1, 1]]) @ field.matrix[:, :, :2].transpose(1, 2)
    samples = [
        F.grid_sample(source, (grid + (2 * spread[:, None] * corner / extent)[:, None]).view(-1, *size, 2),
                      mode="bilinear", padding_mode="zeros", align_corners=False)
        for corner in corners.unbind(1)
    ]  # fmt: skip
    warped = sum(samples) / 4  # type: ignore[assignment]
    inside = (warped[:, 1:] > 0.999).to(image.dtype)
    return warped[:, :1].to(image.dtype) * inside, inside


def correlate(cfdm: CFDM, own: Tensor, other: Tensor) -> Tensor:
    """Correlate the fine features of two images that nearly lie on each other, cell by cell.

    Args:
        cfdm: whose fine descriptors and temperature are used.
        own: (B, C2, 4h, 4w) fine features.
        other: (B, C2, 4h, 4w).

    Returns:
        (B, 2, S², h, w) float32 logits over displacements of ``own``'s cells into ``other``: from the windows of
        ``other``, and from those of ``own``, displacements reversed.
    """
    B, rows, columns = len(own), own.shape[2] * 2 // CELL, own.shape[3] * 2 // CELL
    cell = torch.arange(rows * columns, device=own.device).repeat(B)
    batch = torch.arange(B, device=own.device).repeat_interleave(rows * columns)
    w0, w1 = (cfdm.windows(cfdm.fine_descriptors(fine).float(), batch, cell) for fine in (own, other))
    ahead, back = cfdm.fine_head.logits(w0, w1), cfdm.fine_head.logits(w1, w0).flip(-1)
    return torch.stack([ahead, back], 1).view(B, rows, columns, 2, -1).permute(0, 3, 4, 1, 2)


def log_likelihood_gain(logits: Tensor) -> Tensor:
    """Turn logits over displacements (dimension 2) into nats gained over knowing nothing, bounded for outliers."""
    probability = logits.softmax(2) * logits.shape[2]
    return torch.log((1 - OUTLIER_RATIO) * probability + OUTLIER_RATIO)


def average_cells(values: Tensor, valid: Tensor, sigma: float) -> Tensor:
    """Average maps over the valid cells around each cell under a Gaussian: (B, K, h, w), (B, 1, h, w) → (B, K, h, w)."""
    kernels = []
    for length in values.shape[2:]:
        place = torch.arange(length, device=values.device, dtype=values.dtype)
        kernels.append((-(place[:, None] - place).square() / (2 * sigma**2)).exp())
    total = torch.einsum("yh,bkhw,xw->bkyx", kernels[0], values * valid, kernels[1])
    count = torch.einsum("yh,bkhw,xw->bkyx", kernels[0], valid, kernels[1])
    return total / count.clamp_min(1e-3)


# ---------------------------------------------------------------- refinement head


class ResidualBlock(nn.Module):
    """Norm, dilated 3×3 convolution, GELU, 1×1 convolution, added to what came in."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.spread = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, C, h, w), (B, 1, h, w) → (B, C, h, w); invalid cells say nothing to others."""
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.mix(F.gelu(self.spread(y * valid)))


class SecondLook(nn.Module):
    """Refinement head: correlation maps of all cells in, one posterior a cell out.

    Untrained it returns the maps plus their neighbours' votes.

    Args:
        dim: channels of the coarse features.
        displacements: S², length of a map.
        config: sizes.
    """

    def __init__(self, dim: int, displacements: int, config: SecondLookConfig = SecondLookConfig()) -> None:
        super().__init__()
        self.config = config
        steps = PLACE_STEP * (torch.arange(math.isqrt(displacements)) - (math.isqrt(displacements) - 1) / 2)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("positions", torch.stack([x.flatten(), y.flatten()], dim=-1), persistent=False)
        self.token = nn.Conv2d(dim, config.tokens, 1)
        self.vote_weight = nn.Parameter(torch.tensor([1.0, *(4.0 for _ in config.votes)]))
        seen = (2 + len(config.votes)) * displacements + 3 * config.tokens + 2
        self.enter = nn.Conv2d(seen, config.hidden, 1)
        self.blocks = nn.ModuleList(ResidualBlock(config.hidden, d) for d in config.dilations)
        self.context = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Conv2d(config.hidden, displacements + 5, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    positions: Tensor  # (S², 2) px

    def forward(self, maps: Tensor, own: Tensor, other: Tensor, trust: Tensor, valid: Tensor) -> DisplacementPosterior:
        """Read all cells' maps together.

        Args:
            maps: (B, 2, S², h, w) logits from :func:`correlate`.
            own: (B, C, h, w) coarse features of the image whose cells are asked.
            other: (B, C, h, w) coarse features of the other image, resampled.
            trust: (B, 1, h, w) confidence around each cell from :class:`Field`.
            valid: (B, h, w) bool.

        Returns:
            :class:`DisplacementPosterior`.
        """
        shown = valid[:, None].float()
        with torch.autocast(maps.device.type, enabled=False):
            gain = log_likelihood_gain(maps) * shown[:, None]  # (B, 2, S², h, w)
            mean = gain.mean(1)
            votes = [mean, *(average_cells(mean, shown, sigma) for sigma in self.config.votes)]
            base = sum(w * v for w, v in zip(self.vote_weight.float(), votes, strict=True))
        a, b = (F.normalize(self.token(t), dim=1) for t in (own, other))
        known = torch.log1p(trust.float()).to(a.dtype)
        seen = [gain.flatten(1, 2).to(a.dtype), *(v.to(a.dtype) for v in votes[1:]), 3 * a, 3 * b, 9 * a * b, known,
                shown.to(a.dtype)]  # fmt: skip
        shown = shown.to(a.dtype)
        x = self.enter(torch.cat(seen, 1))
        for k, block in enumerate(self.blocks):
            if k == len(self.blocks) // 2:  # what the whole image says of itself
                x = x + self.context((x * shown).sum((2, 3)) / shown.sum((2, 3)).clamp_min(1))[..., None, None]
            x = block(x, shown)
        y = self.out(F.gelu(x)).float()
        S2 = maps.shape[2]
        with torch.autocast(y.device.type, enabled=False):
            logits = base + y[:, :S2]
            flat = logits.permute(0, 2, 3, 1).reshape(-1, S2)
            expected, peak = flat.softmax(1) @ self.positions.float(), parabola_peak(flat)
            blend = y[:, S2 + 4].sigmoid().flatten()[:, None]
            shift = torch.lerp(expected, peak, blend).view(*y[:, 0].shape, 2).permute(0, 3, 1, 2) + y[:, S2 : S2 + 2]
        return DisplacementPosterior(logits, shift, y[:, S2 + 2].clamp(-4.0, 4.0), y[:, S2 + 3], valid)


def cell_trust(field: Field, rows: int, columns: int) -> Tensor:
    """Sample a field's trust at the cells' centres: (B, 1, rows, columns)."""
    centres = cell_centres(torch.arange(rows * columns, device=field.trust.device), columns)
    centres = centres.expand(len(field.trust), -1, -1)
    return field.sample(field.trust, centres).transpose(1, 2).unflatten(2, (rows, columns))


class CellMatches(NamedTuple):
    """Where each valid cell of one image lies in the other; M matches of the whole batch, by pair, then cell."""

    own: Tensor  # (M, 2) px, cell centres
    other: Tensor  # (M, 2) px
    confidence: Tensor  # (M,)
    std: Tensor  # (M,) px of the other image
    batch: Tensor  # (M,) long


def match_cells(found: DisplacementPosterior, field: Field) -> CellMatches:
    """Carry a look's answers from its frame into the other image."""
    B, _, rows, columns = found.logits.shape
    centres = cell_centres(torch.arange(rows * columns, device=found.logits.device), columns).expand(B, -1, -1)
    there = field(centres + found.shift.flatten(2).transpose(1, 2))  # (B, N, 2)
    batch, cell = found.valid.flatten(1).nonzero(as_tuple=True)
    std = math.sqrt(2) * found.log_scale.exp().flatten(1) * field.scale()[:, None]
    confidence = found.match_logit.sigmoid().flatten(1)
    return CellMatches(centres[batch, cell], there[batch, cell], confidence[batch, cell], std[batch, cell], batch)
