"""CFDM: coarse-to-fine dense matching.

From the paper (abstract): text-enhanced high-level features match coarsely and robustly, low-level features refine.
Ours: self- and cross-attention at 1/8 (full softmax, 2-D RoPE in self-attention), dual-softmax over cosine
similarities, mutual nearest cells; then a window correlation at 1/2 gives a sub-pixel offset with a predicted scale
(a likelihood, as in RBE-Flow, instead of L1) and the probability that the match is right at all.

Everything is symmetric in the two images. A coarse match joins the centres of cell i and cell j. The fine stage
estimates ``e1 = T(c_i) - c_j`` in image1 and ``e0 = T⁻¹(c_j) - c_i`` in image0 with the same weights, and moves
*both* ends half way: for any affine T, ``T(c_i + e0 / 2) = c_j + e1 / 2`` exactly, so swapping the images swaps the
result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import CELL
from kornia_tar.network.fine import FineHead, Offset
from kornia_tar.network.layers import Attention, rotary_angles

NODATA = -1e4  # logit of what must not be matched; finite in every float type


@dataclass(frozen=True)
class CFDMConfig:
    """Sizes of CFDM."""

    heads: int = 4
    layers: int = 1  # pairs of self- and cross-attention
    window: int = 10  # half-resolution pixels on a side, even: offsets up to ±8 px, and a little beyond
    hidden: int = 64  # of the fine head


class Coarse(NamedTuple):
    """Outcome of the coarse stage; N and M are the numbers of cells, row by row."""

    tokens0: Tensor  # (B, N, C)
    tokens1: Tensor  # (B, M, C)
    scores: Tensor  # (B, N, M), scaled cosine similarities; below NODATA / 2 where a cell is masked
    masked: bool = True  # whether any cell may be

    def log_probability(self) -> Tensor:
        """(B, N, M) log of the dual-softmax probability."""
        top = self.scores.detach().amax((1, 2), keepdim=True)
        near = (self.scores - top).exp_()  # once for both sums; cosines are some 50 apart, and far from underflow
        rows, columns = (top + near.sum(dim, keepdim=True).clamp_min(1e-37).log() for dim in (2, 1))
        del near
        log_p = torch.add(-rows, self.scores, alpha=2)
        log_p = log_p - columns if log_p.requires_grad else log_p.sub_(columns)
        # A row of nothing but nodata is still a distribution: take its probability away.
        return log_p.masked_fill(self.scores < NODATA / 2, NODATA) if self.masked else log_p


class Cells(NamedTuple):
    """K coarse matches."""

    batch: Tensor  # (K,) long
    cell0: Tensor  # (K,) long
    cell1: Tensor  # (K,) long
    log_probability: Tensor  # (K,)


class CFDM(nn.Module):
    """Coarse-to-fine matcher over MSFL's (TAFE-enhanced) features.

    Args:
        dim: channels of the coarse features.
        fine_dim: channels of the 1/2 features.
        config: sizes.
    """

    def __init__(self, dim: int, fine_dim: int, config: CFDMConfig = CFDMConfig()) -> None:
        super().__init__()
        self.config = config
        if config.window < CELL // 2 or config.window % 2:
            raise ValueError(f"a window of {config.window} does not centre on a cell: need an even number from 4 on")
        if config.heads < 1 or dim % (4 * config.heads):
            raise ValueError(f"{dim} channels do not divide into {config.heads} heads of a multiple of 4")
        self.attend = True  # False skips the attention layers
        self.self_attention = nn.ModuleList(Attention(dim, config.heads) for _ in range(config.layers))
        self.cross_attention = nn.ModuleList(Attention(dim, config.heads) for _ in range(config.layers))
        self.descriptor = nn.Linear(dim, dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.fine_descriptor = nn.Conv2d(fine_dim, fine_dim, 1)
        self.fine_head = FineHead(dim, config.window, config.hidden)

    def coarse(self, x0: Tensor, x1: Tensor, mask0: Tensor | None = None, mask1: Tensor | None = None) -> Coarse:
        """Let the two images look at themselves and at each other, then compare all cells.

        Args:
            x0: (B, C, H0/8, W0/8) features.
            x1: (B, C, H1/8, W1/8) features.
            mask0: (B, H0/8, W0/8) bool, True where a cell may match, or None.
            mask1: likewise of image1.

        Returns:
            :class:`Coarse`.
        """
        grid0, grid1 = (x0.shape[2], x0.shape[3]), (x1.shape[2], x1.shape[3])
        t0, t1 = x0.flatten(2).transpose(1, 2), x1.flatten(2).transpose(1, 2)  # (B, N, C), (B, M, C)
        m0, m1 = (None if m is None else NODATA * (~m.flatten(1)).float() for m in (mask0, mask1))
        width = t0.shape[-1] // self.config.heads
        rope0 = rotary_angles(grid0, width, t0.device)
        rope1 = rotary_angles(grid1, width, t1.device)
        for within, across in zip(self.self_attention, self.cross_attention, strict=True):
            if not self.attend:
                break
            t0, t1 = within(t0, t0, rope0, m0), within(t1, t1, rope1, m1)
            t0, t1 = across(t0, t1, None, m1), across(t1, t0, None, m0)
        d0, d1 = (F.normalize(self.descriptor(t).float(), dim=-1) for t in (t0, t1))
        with torch.autocast(d0.device.type, enabled=False):  # a probability over thousands of cells needs fp32
            scores = self.log_temperature.exp().float() * torch.einsum("bnc,bmc->bnm", d0, d1)
        if m0 is not None:
            scores = scores + m0[:, :, None]
        if m1 is not None:
            scores = scores + m1[:, None, :]
        return Coarse(t0, t1, scores, m0 is not None or m1 is not None)

    def open_gates(self, gate: float = 0.2) -> None:
        """Let attention join a training that began without it: closed gates open too slowly by themselves."""
        self.attend = True
        for layer in (*self.self_attention, *self.cross_attention):
            nn.init.constant_(layer.gate, gate)
            nn.init.constant_(layer.mlp_gate, gate)

    def refine(self, cells: Cells, coarse: Coarse, fine0: Tensor, fine1: Tensor) -> tuple[Offset, Offset]:
        """Look closer at each coarse match from both sides.

        Args:
            cells: K matches.
            coarse: what the coarse stage returned.
            fine0: (B, C2, H0/2, W0/2).
            fine1: (B, C2, H1/2, W1/2).

        Returns:
            the offset found in image0 and the one found in image1.
        """
        t0 = coarse.tokens0[cells.batch, cells.cell0]
        t1 = coarse.tokens1[cells.batch, cells.cell1]
        d0, d1 = self.fine_descriptors(fine0), self.fine_descriptors(fine1)
        w0 = self.windows(d0, cells.batch, cells.cell0)
        w1 = self.windows(d1, cells.batch, cells.cell1)
        in0 = self.fine_head(w1, w0, t1, t0, cells.log_probability)
        in1 = self.fine_head(w0, w1, t0, t1, cells.log_probability)
        return in0, in1

    def displacement_maps(self, fine0: Tensor, fine1: Tensor) -> tuple[Tensor, Tensor]:
        """Where every cell's centre lies around the same cell's in the other image, by the fine features alone.

        Args:
            fine0: (B, C2, H/2, W/2).
            fine1: (B, C2, H/2, W/2).

        Returns:
            twice (B, (W - 1)², H/8, W/8) probabilities over displacements of ``PLACE_STEP`` px, row by row, the middle
            is zero: of image0's cells in image1, and the other way round.
        """
        d0, d1 = self.fine_descriptors(fine0), self.fine_descriptors(fine1)
        dense = self.fine_head.dense_logits
        return dense(d0, d1).softmax(1), dense(d1, d0).softmax(1)

    def fine_descriptors(self, fine: Tensor) -> Tensor:
        """(B, C2, H/2, W/2) features → unit-norm descriptors."""
        return F.normalize(self.fine_descriptor(fine), dim=1)

    def windows(self, fine: Tensor, batch: Tensor, cell: Tensor) -> Tensor:
        """Cut the window around each cell's centre out of the fine map: (K, W, W, C2), zero outside the image."""
        size, step = self.config.window, CELL // 2
        margin = (size - step) // 2
        fine = F.pad(fine, (margin,) * 4)
        B, C, H, W = fine.shape
        columns = (W - 2 * margin) // step
        near = torch.arange(size, device=fine.device)
        row = (cell // columns * step)[:, None] + near  # (K, W)
        column = (cell % columns * step)[:, None] + near
        index = batch[:, None, None] * (H * W) + row[:, :, None] * W + column[:, None, :]
        return fine.permute(0, 2, 3, 1).reshape(B * H * W, C)[index.flatten()].view(*index.shape, C)


def mutual_nearest(log_probability: Tensor, threshold: float) -> Cells:
    """Cells that choose each other, with at least ``threshold`` dual-softmax probability.

    Of equal choices the first one counts, by cell of image1, then of image0: each cell is matched once at most.

    Args:
        log_probability: (B, N, M).
        threshold: in [0, 1].

    Returns:
        :class:`Cells`, ordered by batch, then by cell of image0.
    """
    best0, to1 = log_probability.max(dim=2)  # (B, N)
    best1 = log_probability.amax(dim=1)  # (B, M)
    keep = best0 == best1.gather(1, to1)
    keep &= best0 >= max(math.log(threshold) if threshold > 0 else -math.inf, NODATA / 2)
    batch, cell0 = keep.nonzero(as_tuple=True)
    cell1 = to1[batch, cell0]
    chosen, order = batch * log_probability.shape[2] + cell1, torch.arange(len(batch), device=batch.device)
    first = order.new_full((best1.numel(),), len(order)).scatter_reduce_(0, chosen, order, "amin")
    alone = first[chosen] == order  # of cells that are alike the first one is chosen
    batch, cell0, cell1 = batch[alone], cell0[alone], cell1[alone]
    return Cells(batch, cell0, cell1, best0[batch, cell0])


def cell_centres(cell: Tensor, columns: int) -> Tensor:
    """Pixel centre (x, y) of each coarse cell, pixel centres at integers: (K,) → (K, 2) float32."""
    return CELL * torch.stack([cell % columns, cell // columns], dim=-1).float() + (CELL - 1) / 2
