"""CFDM's fine stage: correlate a window at 1/2, and read a sub-pixel offset, its scale and the match's worth."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import CELL

PLACE_STEP = 2  # pixels between the fine stage's displacements


class Offset(NamedTuple):
    """One direction of the fine stage, seen from the window's image."""

    window: Tensor  # (K, (W - 1)²) logits over displacements
    shift: Tensor  # (K, 2) px, x then y
    log_scale: Tensor  # (K,), log of the Laplace scale in px
    logit: Tensor  # (K,), of "this match is right"


class FineHead(nn.Module):
    """Slide one image's centre over the other's window; read offset, its scale and the match's worth."""

    positions: Tensor

    def __init__(self, dim: int, window: int, hidden: int) -> None:
        super().__init__()
        steps = PLACE_STEP * (torch.arange(window - 1) - (window - 2) / 2)  # px
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("positions", torch.stack([x.flatten(), y.flatten()], dim=-1), persistent=False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.template, self.search = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.correlation = nn.Linear(len(self.positions) + 3, hidden)
        self.read = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.out = nn.Linear(hidden, 5)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, 0.0)

    def logits(self, template: Tensor, window: Tensor) -> Tensor:
        """(K, W, W, C2), (K, W, W, C2) → (K, (W - 1)²) float32 over the displacements in ``positions``."""
        with torch.autocast(template.device.type, enabled=False):
            return self.log_temperature.exp().float() * correlate_template(template.float(), window.float())

    def dense_logits(self, template: Tensor, search: Tensor) -> Tensor:
        """(B, C2, H/2, W/2) twice → (B, (W - 1)², H/8, W/8): :meth:`logits` of every cell around the same cell."""
        size = math.isqrt(len(self.positions)) + 1
        with torch.autocast(template.device.type, enabled=False):
            return self.log_temperature.exp().float() * correlate_cells(template.float(), search.float(), size)

    def forward(self, template: Tensor, window: Tensor, t_ask: Tensor, t_answer: Tensor, log_p: Tensor) -> Offset:
        """Find the template's centre in the other image's window.

        Args:
            template: (K, W, W, C2) window of the asking image; its middle 2×2 is the template.
            window: (K, W, W, C2) window that answers.
            t_ask: (K, C) coarse token of the asking cell.
            t_answer: (K, C) coarse token of the answering cell.
            log_p: (K,) log of the coarse probability.

        Returns:
            :class:`Offset` in the answering image.
        """
        with torch.autocast(template.device.type, enabled=False):
            logits = self.logits(template, window)
            probability = logits.softmax(dim=-1)
            expected = probability @ self.positions.float()
            peak = parabola_peak(logits)
        # Peaks lean towards the raster of 2 px; how much, depends on where between its points they lie.
        phase = torch.sin(math.pi * peak)
        seen = torch.cat([probability, log_p[:, None].float() / 10, phase], dim=-1).to(t_ask.dtype)
        hidden = self.read(self.correlation(seen) + self.template(t_ask) + self.search(t_answer))
        dx, dy, log_scale, logit, blend = self.out(hidden).float().unbind(-1)
        # The expectation is the better guess where the window is in doubt, its peak where it is sure.
        shift = torch.lerp(expected, peak, blend.sigmoid()[:, None]) + torch.stack([dx, dy], dim=-1)
        return Offset(logits, shift, log_scale.clamp(-4.0, 4.0), logit)


def correlate_template(template: Tensor, window: Tensor) -> Tensor:
    """Mean cosine of the template's middle 2×2 with every 2×2 of the window.

    A cell's centre lies on a corner of four half-resolution pixels. Comparing all four keeps the detail that their mean
    would blur, and puts "not moved" on the raster of displacements.

    Args:
        template: (K, W, W, C) unit-norm descriptors, W even.
        window: (K, W, W, C) unit-norm descriptors.

    Returns:
        (K, (W - 1)²), displacements row by row, the middle one is zero.
    """
    first = template.shape[1] // 2 - 1
    middle = template[:, first : first + 2, first : first + 2].flatten(1, 2)  # (K, 4, C)
    return _mean_cosine(middle, window).flatten(1)


def correlate_cells(template: Tensor, search: Tensor, size: int, rows: int | None = None) -> Tensor:
    """Correlate every cell with the window around the same cell of the other image, as :func:`correlate_template`.

    Windows overlap, and those of a whole image do not fit into a processor's cache: on a CPU a row of cells at a time.
    An accelerator takes all at once, for it waits longer for work than it works.

    Args:
        template: (B, C, 4h, 4w) unit-norm descriptors, half-resolution pixels.
        search: (B, C, 4h, 4w) of the other image; zero outside.
        size: side of the window W, even.
        rows: of cells at a time; None for what suits the device.

    Returns:
        (B, (W - 1)², h, w), displacements row by row, the middle one is zero.
    """
    step = CELL // 2
    margin, first = (size - step) // 2, step // 2 - 1
    cells = template.permute(0, 2, 3, 1).unflatten(2, (-1, step)).unflatten(1, (-1, step))  # (B, h, 4, w, 4, C)
    middle = cells[:, :, first : first + 2, :, first : first + 2].transpose(2, 3).flatten(3, 4)  # (B, h, w, 4, C)
    padded = F.pad(search, (margin,) * 4).permute(0, 2, 3, 1)  # (B, 4h + 2m, 4w + 2m, C)
    count = rows or (1 if template.device.type == "cpu" and not torch.compiler.is_exporting() else cells.shape[1])
    parts = []
    for row in range(0, cells.shape[1], count):
        asked = middle[:, row : row + count]  # (B, r, w, 4, C)
        strip = padded[:, row * step : (row + asked.shape[1] - 1) * step + size]
        window = strip_windows(strip, size, step)
        parts.append(_mean_cosine(asked.flatten(0, 2), window.flatten(0, 2)).unflatten(0, asked.shape[:3]))
    return torch.cat(parts, 1).flatten(3).permute(0, 3, 1, 2)


def strip_windows(strip: Tensor, size: int, step: int) -> Tensor:
    """Cut a strip (B, H, W, C) into windows of ``size``, ``step`` apart: (B, rows, columns, size, size, C)."""
    if not torch.compiler.is_exporting():
        return strip.unfold(1, size, step).unfold(2, size, step).permute(0, 1, 2, 4, 5, 3)
    counts = [(length - size) // step + 1 for length in strip.shape[1:3]]  # an unfold becomes a node a window
    places = [(step * torch.arange(n)[:, None] + torch.arange(size)).flatten().to(strip.device) for n in counts]
    cut = strip.index_select(1, places[0]).index_select(2, places[1])
    return cut.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)


def _mean_cosine(middle: Tensor, window: Tensor) -> Tensor:
    """(K, 4, C) pixels of a 2×2 template, (K, W, W, C) → (K, W - 1, W - 1)."""
    size = window.shape[1] - 1
    cosine = torch.bmm(window.flatten(1, 2), middle.transpose(1, 2)).unflatten(1, window.shape[1:3])  # (K, W, W, 4)
    parts = (cosine[:, y : y + size, x : x + size, 2 * y + x] for y in (0, 1) for x in (0, 1))
    return sum(parts) / 4  # type: ignore[return-value]


def parabola_peak(logits: Tensor) -> Tensor:
    """The highest displacement, refined along each axis by the parabola through it and its neighbours.

    Args:
        logits: (K, S²) over displacements of 2 px, row by row, S odd.

    Returns:
        (K, 2) px, x then y.
    """
    size = math.isqrt(logits.shape[1])
    best = logits.argmax(dim=1)
    y, x = best // size, best % size
    at = lambda y, x: logits.gather(1, (y * size + x)[:, None])[:, 0]  # noqa: E731
    # On the border the missing neighbour is mirrored: the peak stays where it is.
    sides = [(torch.where(p > 0, p - 1, p + 1), torch.where(p < size - 1, p + 1, p - 1)) for p in (x, y)]
    lines = (at(y, sides[0][0]), at(y, sides[0][1])), (at(sides[1][0], x), at(sides[1][1], x))
    steps = []
    for before, after in lines:
        curvature = (before + after - 2 * at(y, x)).clamp_max(-1e-3)
        steps.append(((before - after) / (2 * curvature)).clamp(-0.5, 0.5))
    return PLACE_STEP * (torch.stack([x + steps[0], y + steps[1]], dim=-1) - size // 2)
