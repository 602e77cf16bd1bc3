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
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import CELL
from kornia_tar.network.cfdm import CFDM, cell_centres
from kornia_tar.network.field import Field, ridge_solve
from kornia_tar.network.fine import PLACE_STEP, parabola_peak
from kornia_tar.network.points import vector

RELAXATION = 1.5  # of the consensus' steps, which by themselves are too short
OUTLIER_RATIO = 0.1  # ε: share of cells whose maps tell nothing; it bounds what one cell can say against the others


@dataclass(frozen=True)
class SecondLookConfig:
    """Sizes of the field and of the refinement head."""

    hidden: int = 96  # channels of the head
    tokens: int = 32  # channels to which either image's coarse features are projected
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)  # of the residual blocks, in cells
    votes: tuple[float, ...] = (1.5, 4.0)  # sigmas of the neighbourhoods that vote, in cells
    widths: tuple[float, ...] = (6, 6, 5, 5, 4, 4, 3.5, 3.5, 3, 3, 2.5, 2.5, 2.5, 2.5)  # px, consensus, step by step
    around: float = 8.0  # sigma, in cells, in which cells may differ together from the consensus of all
    spacing: int = 16  # px between the field's nodes
    reach: float = 40.0  # px, sigma of the kernel of the local affine maps
    ridge: float = 2.0  # matches' worth of pull towards the global affine map
    seeds: int = 48  # most confident matches that propose similarities, two by two


class DisplacementPosterior(NamedTuple):
    """What a look says of each cell of one image, in that image's frame."""

    logits: Tensor  # (B, S², h, w) over displacements, row by row as in :class:`kornia_tar.network.cfdm.FineHead`
    shift: Tensor  # (B, 2, h, w) px, x then y: the cell's centre lies there in the warped other image
    log_scale: Tensor  # (B, h, w) log of the Laplace scale, px
    match_logit: Tensor  # (B, h, w) of "within 3 px"
    valid: Tensor  # (B, h, w) bool, both images show the cell


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
    d0, d1 = (cfdm.fine_descriptors(fine) for fine in (own, other))
    ahead, back = cfdm.fine_head.dense_logits(d0, d1), cfdm.fine_head.dense_logits(d1, d0).flip(1)
    return torch.stack([ahead, back], 1)


def log_likelihood_gain(logits: Tensor) -> Tensor:
    """Turn logits over displacements (dimension 2) into nats gained over knowing nothing, bounded for outliers."""
    probability = logits.softmax(2) * logits.shape[2]
    return torch.log((1 - OUTLIER_RATIO) * probability + OUTLIER_RATIO)


def average_cells(values: Tensor, valid: Tensor, sigma: float) -> Tensor:
    """Average maps (B, K, h, w) over the valid cells (B, 1, h, w) around each cell under a Gaussian: (B, K, h, w)."""
    kernels = []
    for length in values.shape[2:]:
        place = torch.arange(length, device=values.device, dtype=values.dtype)
        kernels.append((-(place[:, None] - place).square() / (2 * sigma**2)).exp())
    total = torch.einsum("yh,bkhw,xw->bkyx", kernels[0], values * valid, kernels[1])
    count = torch.einsum("yh,bkhw,xw->bkyx", kernels[0], valid, kernels[1])
    return total / count.clamp_min(1e-3)


@torch.no_grad()
def consensus(
    probability: Tensor, valid: Tensor, positions: Tensor, widths: tuple[float, ...], around: float
) -> tuple[Tensor, Tensor]:
    """Find the smooth displacement that all cells' maps together make most likely.

    Expectation–maximisation of ``Σ log((1 - ε) (p_k * N_σ)(δ_k) + ε u)``: each cell's map times a normal distribution
    around the common displacement gives its mean and how much it belongs; a fit to the means gives the next one. An
    affine map at first, under a narrowing σ; in the end neighbourhoods may leave it together.

    Args:
        probability: (B, S², h, w) over displacements.
        valid: (B, 1, h, w), 1 where a cell shows both images.
        positions: (S², 2) px.
        widths: σ of each step, px.
        around: sigma of the neighbourhoods, in cells.

    Returns:
        displacement (B, 2, h, w) px, and how much each cell belongs (B, 1, h, w), in [0, 1].
    """
    B, _, rows, columns = probability.shape
    p = probability.flatten(2).transpose(1, 2)  # (B, N, S²)
    place = cell_centres(torch.arange(rows * columns, device=p.device), columns)
    middle = CELL * vector(p, columns, rows) / 2 - 0.5
    unit = torch.cat([(place - middle) / middle.max(), torch.ones_like(place[:, :1])], 1).expand(B, -1, -1)
    shown = valid.flatten(2)[:, 0]  # (B, N)
    shift, belongs = p.new_zeros(B, rows * columns, 2), shown
    length = positions.square().sum(-1)

    def expect(shift: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        away = shift.square().sum(-1, keepdim=True) + length - 2 * shift @ positions.T  # (B, N, S²), squared
        near = away.mul_(-0.5 / sigma**2).exp_()
        joint = p * near
        mass = joint.sum(-1)
        known, unknown = (1 - OUTLIER_RATIO) * mass, OUTLIER_RATIO * near.mean(-1)
        return joint @ positions / mass[..., None].clamp_min(1e-6), shown * known / (known + unknown + 1e-9)

    ridge = vector(p, 4.0, 4.0, 1.0)
    reach = float(PLACE_STEP * (math.isqrt(len(positions)) // 2))  # px, as far as maps tell
    for sigma in widths:
        mean, belongs = expect(shift, sigma)
        step = unit @ ridge_solve(unit, mean - shift, belongs, ridge)
        shift = (shift + RELAXATION * step).clamp(-reach, reach)
    grid = lambda t: t.transpose(1, 2).unflatten(2, (rows, columns))  # noqa: E731
    for _ in range(3):
        mean, belongs = expect(shift, widths[-1])
        ones = torch.ones_like(valid)
        pulled = average_cells(grid(belongs[..., None] * (mean - shift)), ones, around)
        step = pulled / (average_cells(grid(belongs[..., None]), ones, around) + 0.1)
        shift = (shift + step.flatten(2).transpose(1, 2)).clamp(-reach, reach)
    return grid(shift), grid(belongs[..., None])


class ResidualBlock(nn.Module):
    """Norm, dilated 3×3 convolution, GELU, 1×1 convolution, added to what came in."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.spread = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, C, h, w), (B, 1, h, w) → (B, C, h, w); invalid cells say nothing to others."""
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.mix(F.gelu(self.spread(y * valid)))


class SecondLook(nn.Module):
    """Refinement head: correlation maps of all cells in, one posterior a cell out.

    Untrained it returns the maps, their neighbours' votes and the consensus, added.

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
        self.vote_weight = nn.Parameter(torch.tensor([1.0, *(2.0 for _ in config.votes)]))
        self.prior_weight = nn.Parameter(torch.tensor(2.0))
        seen = (3 + len(config.votes)) * displacements + 3 * config.tokens + 5
        self.enter = nn.Conv2d(seen, config.hidden, 1)
        self.blocks = nn.ModuleList(ResidualBlock(config.hidden, d) for d in config.dilations)
        self.context = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Conv2d(config.hidden, displacements + 5, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    positions: Tensor  # (S², 2) px

    def forward(
        self, maps: Tensor, own: Tensor, other: Tensor, trust: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> DisplacementPosterior:
        """Read all cells' maps together.

        Args:
            maps: (B, 2, S², h, w) logits from :func:`correlate`.
            own: (B, C, h, w) coarse features of the image whose cells are asked.
            other: (B, C, h, w) coarse features of the other image, resampled.
            trust: (B, 1, h, w) confidence around each cell from :class:`Field`.
            valid: (B, h, w) bool.
            weight: (B, h, w) in [0, 1], how much each cell's vote counts; None: all alike.

        Returns:
            :class:`DisplacementPosterior`.
        """
        shown = valid[:, None].float() if weight is None else (valid * weight)[:, None].float()
        with torch.autocast(maps.device.type, enabled=False):
            gain = log_likelihood_gain(maps) * shown[:, None]  # (B, 2, S², h, w)
            mean = gain.mean(1)
            votes = [mean, *(average_cells(mean, shown, sigma) for sigma in self.config.votes)]
            base = sum(w * v for w, v in zip(self.vote_weight.float(), votes, strict=True))
            positions, config = self.positions.float(), self.config
            common, belongs = consensus(maps.softmax(2).mean(1), shown, positions, config.widths, config.around)
            away = (positions[:, :, None, None] - common[:, None]).square().sum(2)  # (B, S², h, w)
            prior = -away / (2 * config.widths[-1] ** 2)
            base = base + self.prior_weight.float() * prior
        a, b = (F.normalize(self.token(t), dim=1) for t in (own, other))
        known = torch.log1p(trust.float()).to(a.dtype)
        maps_seen = [gain.flatten(1, 2), *votes[1:], prior.exp(), common / 4, belongs, shown]
        seen = [*(t.to(a.dtype) for t in maps_seen), 3 * a, 3 * b, 9 * a * b, known]
        shown = shown.to(a.dtype)
        x = self.enter(torch.cat(seen, 1))
        for k, block in enumerate(self.blocks):
            if k == len(self.blocks) // 2:  # what the whole image says of itself
                # Sums of half precision over a few thousand cells would be infinite.
                mean = (x.float() * shown.float()).sum((2, 3)) / shown.float().sum((2, 3)).clamp_min(1)
                x = x + self.context(mean.to(x.dtype))[..., None, None]
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
    batch, cell = found.valid.flatten(1).nonzero(as_tuple=True)
    own, other, confidence, std = (t[batch, cell] for t in answers(found, field))
    return CellMatches(own, other, confidence, std, batch)


def answers(found: DisplacementPosterior, field: Field) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Say of every cell, valid or not, what :func:`match_cells` lists of the valid ones.

    Returns:
        (B, N, 2) px of their own image, (B, N, 2) px of the other, (B, N) confidence, (B, N) px standard deviation.
    """
    B, _, rows, columns = found.logits.shape
    centres = cell_centres(torch.arange(rows * columns, device=found.logits.device), columns).expand(B, -1, -1)
    there = field(centres + found.shift.flatten(2).transpose(1, 2))  # (B, N, 2)
    std = math.sqrt(2) * found.log_scale.exp().flatten(1) * field.scale()[:, None]
    return centres, there, found.match_logit.sigmoid().flatten(1), std
