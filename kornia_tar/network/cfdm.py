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
from kornia_tar.network.layers import NODATA, Attention, rotary_angles

SCORES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 28}  # worked on at a time: 4 MiB, which caches hold; elsewhere 1 GiB
WINDOWS_AT_ONCE = {"cpu": 256, "cuda": 4096}  # of the fine stage


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
    descriptors0: Tensor  # (B, N, C) float32, unit norm
    descriptors1: Tensor  # (B, M, C)
    temperature: Tensor  # () float32, by which cosines are multiplied
    mask0: Tensor | None = None  # (B, N) additive logits, NODATA where a cell may not match; None: all may
    mask1: Tensor | None = None  # (B, M)

    def scores(self, rows: slice = slice(None)) -> Tensor:
        """Compare cells of image0 with all of image1: (B, rows, M) scaled cosines, below NODATA / 2 where masked."""
        with torch.autocast(self.descriptors0.device.type, enabled=False):  # a probability over thousands needs fp32
            scores = self.temperature * torch.einsum("bnc,bmc->bnm", self.descriptors0[:, rows], self.descriptors1)
        if self.mask0 is not None:
            scores = scores + self.mask0[:, rows, None]
        if self.mask1 is not None:
            scores = scores + self.mask1[:, None, :]
        return scores

    @property
    def masked(self) -> bool:
        """Whether any cell may not match."""
        return self.mask0 is not None or self.mask1 is not None


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

    def look_within(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the cells of an image look at each other, which comes before they look at another image.

        Args:
            x: (B, C, h, w) features.
            mask: (B, h, w) bool, True where a cell may match, or None.

        Returns:
            (B, N, C) tokens, of which :meth:`coarse` takes several times what it needs once.
        """
        tokens = x.flatten(2).transpose(1, 2)
        return self._within(0, tokens, x, additive(mask)) if self.attend and len(self.self_attention) else tokens

    def coarse(
        self, x0: Tensor, x1: Tensor, mask0: Tensor | None = None, mask1: Tensor | None = None,
        tokens0: Tensor | None = None, tokens1: Tensor | None = None,
    ) -> Coarse:  # fmt: skip
        """Let the two images look at themselves and at each other, then compare all cells.

        Args:
            x0: (B, C, H0/8, W0/8) features.
            x1: (B, C, H1/8, W1/8) features.
            mask0: (B, H0/8, W0/8) bool, True where a cell may match, or None.
            mask1: likewise of image1.
            tokens0: (B, N, C) what :meth:`look_within` made of ``x0`` and ``mask0``, where it was asked before.
            tokens1: likewise of image1.

        Returns:
            :class:`Coarse`.
        """
        m0, m1 = additive(mask0), additive(mask1)
        grid0, grid1 = ((x.shape[2], x.shape[3]) for x in (x0, x1))
        t0 = self.look_within(x0, mask0) if tokens0 is None else tokens0
        t1 = self.look_within(x1, mask1) if tokens1 is None else tokens1
        for k, across in enumerate(self.cross_attention):
            if not self.attend:
                break
            if k:
                t0, t1 = self._within(k, t0, x0, m0), self._within(k, t1, x1, m1)
            t0, t1 = across(t0, t1, grid1, None, m1), across(t1, t0, grid0, None, m0)
        d0, d1 = (F.normalize(self.descriptor(t).float(), dim=-1) for t in (t0, t1))
        return Coarse(t0, t1, d0, d1, self.log_temperature.exp().float(), m0, m1)

    def _within(self, layer: int, tokens: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one layer of self-attention to the tokens (B, N, C) of an image with the features ``x``."""
        grid = x.shape[2], x.shape[3]
        rope = rotary_angles(grid, x.shape[1] // self.config.heads, x.device)
        attended: Tensor = self.self_attention[layer](tokens, tokens, grid, rope, mask)
        return attended

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
        d0, d1 = (self.framed(self.fine_descriptors(fine)) for fine in (fine0, fine1))
        parts: tuple[list[Offset], list[Offset]] = [], []
        at_once = of_device(WINDOWS_AT_ONCE, fine0.device)
        for part in zip(*(t.split(at_once) for t in cells), strict=True):
            batch, cell0, cell1, log_p = part
            t0, t1 = coarse.tokens0[batch, cell0], coarse.tokens1[batch, cell1]
            w0, w1 = self.windows(d0, batch, cell0), self.windows(d1, batch, cell1)
            parts[0].append(self.fine_head(w1, w0, t1, t0, log_p))
            parts[1].append(self.fine_head(w0, w1, t0, t1, log_p))
        in0, in1 = (Offset(*(torch.cat(t) for t in zip(*side, strict=True))) for side in parts)
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

    def framed(self, fine: Tensor) -> Tensor:
        """Surround a fine map (B, C2, H, W) with the zeros that windows at its border see: (B, H', W', C2)."""
        return F.pad(fine, ((self.config.window - CELL // 2) // 2,) * 4).permute(0, 2, 3, 1).contiguous()

    def windows(self, framed: Tensor, batch: Tensor, cell: Tensor) -> Tensor:
        """Cut the window around each cell's centre out of the :meth:`framed` fine map: (K, W, W, C2)."""
        size, step = self.config.window, CELL // 2
        B, H, W, C = framed.shape
        columns = (W - size + step) // step
        near = torch.arange(size, device=framed.device)
        row = (cell // columns * step)[:, None] + near  # (K, W)
        column = (cell % columns * step)[:, None] + near
        index = batch[:, None, None] * (H * W) + row[:, :, None] * W + column[:, None, :]
        return framed.view(B * H * W, C)[index.flatten()].view(*index.shape, C)


def additive(mask: Tensor | None) -> Tensor | None:
    """Turn a mask (B, h, w) bool into logits (B, N): 0 where a cell may match, NODATA where it may not."""
    return None if mask is None else NODATA * (~mask.flatten(1)).float()


def of_device(sizes: dict[str, int], device: torch.device) -> int:
    """Return the entry of a device's type, that of "cuda" for those that have none."""
    return sizes.get(device.type, sizes["cuda"])


def log_sums(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the exponentials of scores (B, N, M) over rows and over columns, as logarithms: (B, N, 1), (B, 1, M)."""
    top = scores.detach().amax((1, 2), keepdim=True)
    near = (scores - top).exp_()  # once for both sums; cosines are some 50 apart, and far from underflow
    over1, over0 = (top + near.sum(dim, keepdim=True).clamp_min(1e-37).log() for dim in (2, 1))
    return over1, over0


def dual_softmax(scores: Tensor, sums: tuple[Tensor, Tensor] | None = None, masked: bool = True) -> Tensor:
    """Multiply the softmax over rows by that over columns, in logarithms: (B, N, M).

    Args:
        scores: (B, N, M).
        sums: of all scores, where these are but some of the rows, as :func:`log_sums` gives them.
        masked: whether any score is NODATA.
    """
    rows, columns = log_sums(scores) if sums is None else sums
    log_p = torch.add(-rows, scores, alpha=2)
    log_p = log_p - columns if log_p.requires_grad else log_p.sub_(columns)
    # A row of nothing but nodata is still a distribution: take its probability away.
    return log_p.masked_fill(scores < NODATA / 2, NODATA) if masked else log_p


def nearest_cells(coarse: Coarse, threshold: float, at_once: int | None = None) -> Cells:
    """Find the mutual nearest cells by the dual softmax of all scores, of which some rows are worked on at a time.

    Args:
        coarse: what the coarse stage returned.
        threshold: see :func:`mutual_nearest`.
        at_once: scores to work on; by default what suits the device. Where these are all, they are computed once, else
            twice, which takes less time than to keep what no cache holds.
    """
    size, count, other = (*coarse.tokens0.shape[:2], coarse.tokens1.shape[1])
    step = max(1, (at_once or of_device(SCORES_AT_ONCE, coarse.tokens0.device)) // max(1, size * other))
    blocks = [slice(start, start + step) for start in range(0, count, step)]
    if len(blocks) == 1:
        return mutual_nearest(dual_softmax(coarse.scores(), masked=coarse.masked), threshold)
    # What is kept is allocated first: between blocks it would leave holes that no block fits into.
    rows = coarse.descriptors0.new_empty(size, count, 1)
    best0, to1 = torch.empty_like(rows[..., 0]), torch.empty_like(rows[..., 0], dtype=torch.long)
    columns, best1 = (coarse.descriptors0.new_full(shape, -math.inf) for shape in ((size, 1, other), (size, other)))
    for block in blocks:
        rows[:, block], more = log_sums(coarse.scores(block))
        columns = torch.logaddexp(columns, more)
    for block in blocks:
        log_p = dual_softmax(coarse.scores(block), (rows[:, block], columns), coarse.masked)
        best0[:, block], to1[:, block] = log_p.max(2)
        best1 = torch.maximum(best1, log_p.amax(1))
        del log_p  # before the next block is made
    return _mutual(best0, to1, best1, threshold)


def mutual_nearest(log_probability: Tensor, threshold: float) -> Cells:
    """Cells that choose each other, with at least ``threshold`` dual-softmax probability.

    Of equal choices the first one counts, by cell of image1, then of image0: each cell is matched once at most.

    Args:
        log_probability: (B, N, M).
        threshold: in [0, 1].

    Returns:
        :class:`Cells`, ordered by batch, then by cell of image0.
    """
    return _mutual(*log_probability.max(dim=2), log_probability.amax(dim=1), threshold)


def _mutual(best0: Tensor, to1: Tensor, best1: Tensor, threshold: float) -> Cells:
    """Join cells by each one's best score, (B, N) and (B, M), and by which cell image0's choose, (B, N)."""
    keep = best0 == best1.gather(1, to1)
    keep &= best0 >= max(math.log(threshold) if threshold > 0 else -math.inf, NODATA / 2)
    count = to1.shape[1]
    order = torch.arange(count, device=to1.device).expand_as(to1)
    first = to1.new_full(best1.shape, count).scatter_reduce_(1, to1, order.masked_fill(~keep, count), "amin")
    keep &= first.gather(1, to1) == order  # of cells that are alike the first one is chosen
    batch, cell0 = keep.nonzero(as_tuple=True)
    return Cells(batch, cell0, to1[batch, cell0], best0[batch, cell0])


def cell_centres(cell: Tensor, columns: int) -> Tensor:
    """Pixel centre (x, y) of each coarse cell, pixel centres at integers: (K,) → (K, 2) float32."""
    return CELL * torch.stack([cell % columns, cell // columns], dim=-1).float() + (CELL - 1) / 2
