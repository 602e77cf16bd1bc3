"""Graphics that lie on both images at the same pixels and match nothing: what a map sheet or a viewer draws on top.

Graticules, frames with collars, labels, scale bars and logos sit in the frame of the *picture*, so that they agree
perfectly where the ground does not. They are drawn after the warps, at one place in both images; the truth stays the
ground's, and a cell that they cover has no partner.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.training.draws import uniform

GLYPH = 6, 8  # dots, the width and height of a glyph with its gap
LETTERS = 10  # the longest label
LABELS = 4  # at most so many in an image


class Graphics(NamedTuple):
    """What is drawn on B pairs of S×S images."""

    cover: Tensor  # (B, 1, S, S) in [0, 1], opacity, the same in both images
    ink0: Tensor  # (B, 1, S, S) grey in [0, 1] where they cover
    ink1: Tensor

    def on(self, image: Tensor, k: int) -> Tensor:
        """Draw on image ``k`` of each pair, (B, 1, S, S)."""
        return image + self.cover * ((self.ink1 if k else self.ink0) - image)


def draw_graphics(batch: int, size: int, generator: Generator, device: torch.device) -> Graphics:
    """Draw a random choice of elements for each of ``batch`` pairs of ``size`` × ``size``; at least one each."""
    u = lambda low=0.0, high=1.0: uniform((batch, 1, 1), low, high, generator, device)  # noqa: E731
    steps = torch.arange(size, device=device, dtype=torch.float32)
    x, y = steps[None, None, :].expand(batch, size, size), steps[None, :, None].expand(batch, size, size)
    sheet = _Sheet(batch, size, generator, device)
    chosen = torch.rand(5, batch, 1, 1, generator=generator, device=device)
    wanted = (chosen < 0.4) | (chosen == chosen.amin(0))

    # A graticule: two families of lines, or crosses where they meet.
    angle, step, thick = u(-0.15, 0.15) * (u() < 0.4), size * u(0.15, 0.5), u(0.5, 1.5)
    cos, sin = angle.cos(), angle.sin()
    offsets = (x * cos + y * sin + size * u()), (y * cos - x * sin + size * u())
    distance = [(along / step - (along / step).round()).abs() * step for along in offsets]
    lines = [stroke(d, thick) for d in distance]
    arm = step * torch.where(u() < 0.3, 0.12, 1.0)
    crosses = torch.maximum(lines[0] * (distance[1] < arm), lines[1] * (distance[0] < arm))
    sheet.paint(crosses * wanted[0], u(0.4, 1.0))

    # A frame: a line around the picture, with a filled collar outside of it on some sides.
    sides = torch.stack([x, size - 1 - x, y, size - 1 - y])
    width = size * torch.rand(4, batch, 1, 1, generator=generator, device=device) * 0.14
    width = width * (torch.rand(4, batch, 1, 1, generator=generator, device=device) < 0.7)
    beyond = (sides - width).amin(0)  # px inside of the frame, negative in the collar
    sheet.paint((beyond < -0.5).float() * wanted[1] * (u() < 0.7), 1.0)
    sheet.paint(stroke(beyond.abs(), u(0.5, 1.5)) * wanted[1], 1.0)
    tick = stroke((x / step - (x / step).round()).abs() * step, thick) * (beyond.abs() < 4)
    sheet.paint(tick * wanted[1] * (u() < 0.5), 1.0)

    # Labels: rows of glyphs, some on a plate.
    for k in range(LABELS):
        shown = wanted[2] * (u() < (1.0 if k == 0 else 0.5))
        dot, letters = u(0.8, 2.0), (u(2, LETTERS + 1)).floor()
        wide, high = letters * GLYPH[0] * dot, GLYPH[1] * dot
        left, top = (size - wide) * u(), (size - high) * u()
        column, row = (x - left) / dot, (y - top) / dot
        plate = (column > -1.5) & (column < letters * GLYPH[0] + 0.5) & (row > -1.5) & (row < GLYPH[1] + 0.5)
        sheet.paint(plate.float() * shown * (u() < 0.4), u(0.5, 1.0))
        sheet.paint(_writing(column, row, letters, generator) * shown, 1.0)

    # A scale bar near the bottom: boxes of two tones in turn.
    long, high = size * u(0.2, 0.5), u(2.0, 6.0)
    along, down = x - (size - long) * u(), y - size * u(0.85, 0.95)
    bar = (along > 0) & (along < long) & (down > 0) & (down < high)
    sheet.paint(bar.float() * wanted[3], 1.0, torch.floor(along / long * u(2, 7).floor()) % 2)

    # A logo: a disc or a square with a pattern, near a corner.
    radius = size * u(0.06, 0.14)
    corner = [torch.where(u() < 0.5, radius * u(1.1, 1.8), size - radius * u(1.1, 1.8)) for _ in range(2)]
    dx, dy = ((p - c) / radius for p, c in zip((x, y), corner, strict=True))
    shape = torch.where(u() < 0.5, (dx.square() + dy.square()).sqrt(), torch.maximum(dx.abs(), dy.abs()))
    pattern = torch.cos(dx * u(1.0, 6.0) + dy * u(-6.0, 6.0) + u(0, math.pi)) + torch.cos(shape * u(1.0, 9.0)) > 0
    sheet.paint((shape < 1).float() * wanted[4], u(0.6, 1.0), pattern.float())
    return sheet.graphics()


def covered_cells(cover: Tensor, cell: int) -> Tensor:
    """Tell which cells graphics cover mostly: (B, 1, S, S) opacity → (B, N) bool, row by row."""
    return F.avg_pool2d((cover > 0.3).float(), cell).flatten(1) > 0.5


def stroke(distance: Tensor, thickness: Tensor) -> Tensor:
    """Opacity of a line at ``distance`` px from its middle, antialiased."""
    return (thickness / 2 + 0.5 - distance).clamp(0, 1)


def _writing(column: Tensor, row: Tensor, letters: Tensor, generator: Generator) -> Tensor:
    """Random glyphs where dots (``column``, ``row``) of a label lie: opacity, (B, S, S)."""
    B, device = len(column), column.device
    strokes = _strokes().to(device)  # (12, 8, 6)
    there = (torch.rand(B, LETTERS, len(strokes), generator=generator, device=device) < 0.55).float()
    glyphs = torch.einsum("blk,krc->brlc", there, strokes).clamp_max(1)
    wide, high = GLYPH
    inside = (column >= 0) & (column < letters * wide) & (row >= 0) & (row < high)
    at = row.long().clamp(0, high - 1) * (LETTERS * wide) + column.long().clamp(0, LETTERS * wide - 1)
    return glyphs.flatten(1).gather(1, at.flatten(1)).view_as(column) * inside


def _strokes() -> Tensor:
    """Six upright and six level strokes of a glyph, as dots: (12, 8, 6)."""
    strokes = torch.zeros(12, GLYPH[1], GLYPH[0])
    for k in range(6):
        along, half = k % 3, k // 3
        strokes[k, 3 * half : 3 * half + 4, 2 * along] = 1
        strokes[6 + k, 3 * along, 2 * half : 2 * half + 3] = 1
    return strokes


class _Sheet:
    """Collects elements; each lies over what was painted before."""

    def __init__(self, batch: int, size: int, generator: Generator, device: torch.device) -> None:
        self._cover = torch.zeros(batch, size, size, device=device)
        self._ink = torch.zeros(2, batch, size, size, device=device)
        self._generator = generator

    def paint(self, shape: Tensor, opacity: Tensor | float, pattern: Tensor | None = None) -> None:
        """Add (B, S, S) ``shape`` in [0, 1], in one random tone a picture, or in two where ``pattern`` is 0 and 1."""
        B, device = len(shape), shape.device
        tone = torch.rand(2, B, 1, 1, generator=self._generator, device=device)
        black_or_white = (tone > 0.5).float()
        tone = torch.where(torch.rand(B, 1, 1, generator=self._generator, device=device) < 0.6, black_or_white, tone)
        # Mostly one sheet's graphics in one tone on both images; else each image has its own.
        one = torch.rand(B, 1, 1, generator=self._generator, device=device) < 0.7
        tone = torch.where(one, tone[:1], tone).expand(2, -1, -1, -1)
        ink = tone if pattern is None else tone + pattern * (1 - 2 * tone)
        alpha = shape * opacity
        self._ink = torch.where(alpha > 0, self._ink + alpha * (ink - self._ink), self._ink)
        fresh = (self._cover == 0) & (alpha > 0)
        self._ink = torch.where(fresh, ink.expand_as(self._ink), self._ink)
        self._cover = torch.maximum(self._cover, alpha)

    def graphics(self) -> Graphics:
        return Graphics(self._cover[:, None], *self._ink[:, :, None])
