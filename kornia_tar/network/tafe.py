"""TAFE: text-assisted feature enhancement.

From the paper (abstract): text features of remote sensing scenes and land-cover categories, from RemoteCLIP's frozen
text encoder, enhance the *high-level* visual features, because what a place is called is the same in both modalities.
Ours: text tokens are projected once; every coarse visual token looks at them by cosine similarity, and what it reads
is added through a zero-initialised gate.

What the words *mean* is learned apart from that: a head on the same features, before any text is added, turns every
cell into a vector that is compared with the frozen text features, both in 128 random dimensions of their space
(:class:`LandCoverHead`). Its map can be scored against any word of that space, and learning it changes nothing that the
matching computes. Without it TAFE's attention stands for the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import MODALITIES

ALL = slice(None)


@dataclass(frozen=True)
class TAFEConfig:
    """Sizes of TAFE; ``classes = 0`` switches text off."""

    text_dim: int = 512
    classes: int = 19
    temperature: float = 0.1


@dataclass(frozen=True)
class LandCoverConfig:
    """Sizes of the land-cover head."""

    text_dim: int = 512
    classes: int = 19
    width: int = 96
    hidden: int = 256
    shared: int = 128  # dimensions in which cells and words are compared
    windows: tuple[int, ...] = (5, 13, 31)  # cells on a side, odd: the ground around a cell that its words depend on


class Enhanced(NamedTuple):
    """What TAFE returns."""

    features: Tensor  # (B, C, H/8, W/8)
    landcover: Tensor  # (B, K, H/8, W/8), attention over the prompts: probabilities


class TAFE(nn.Module):
    """Let coarse visual features read the text.

    Args:
        dim: channels C of the coarse features.
        config: sizes.

    The projected tokens (K, C) are a buffer of the checkpoint: no text encoder runs at match time.
    """

    tokens: Tensor

    def __init__(self, dim: int, config: TAFEConfig = TAFEConfig()) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Sequential(nn.Linear(config.text_dim, dim), nn.LayerNorm(dim))
        self.query = nn.Conv2d(dim, dim, 1, bias=False)
        self.value = nn.Linear(dim, dim)
        self.gate = nn.Parameter(torch.zeros(dim))
        self.register_buffer("tokens", torch.zeros(config.classes, dim))

    def set_text(self, features: Tensor) -> None:
        """Project text features and keep the tokens.

        Args:
            features: (K, D) unit-norm text features, D as in the config.

        Raises:
            ValueError: if D is not the width that the projection was trained for.
        """
        if features.ndim != 2 or features.shape[1] != self.config.text_dim:
            raise ValueError(
                f"text features must be (K, {self.config.text_dim}), got {tuple(features.shape)}: "
                "this checkpoint was trained for another feature space"
            )
        with torch.no_grad():
            weight = self.query.weight
            self.tokens = self.project(features.to(weight.device, weight.dtype))

    def landcover(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Cosine similarity of every pixel to every prompt, as probabilities: (B, C, H, W), (K, C) → (B, K, H, W)."""
        query = F.normalize(self.query(x).float(), dim=1)
        cosine = torch.einsum("bchw,kc->bkhw", query, F.normalize(tokens.float(), dim=-1))
        return (cosine / self.config.temperature).softmax(dim=1)

    def forward(self, x: Tensor, text: Tensor | None = None) -> Enhanced:
        """Add what the pixels read in the text.

        Args:
            x: (B, C, H/8, W/8) coarse features.
            text: (K, D) text features to project now (training), or None for the stored tokens.

        Returns:
            :class:`Enhanced`.
        """
        tokens = self.tokens if text is None else self.project(text)
        if len(tokens) == 0:
            return Enhanced(x, x.new_zeros(len(x), 0, *x.shape[2:]))
        landcover = self.landcover(x, tokens)
        read = torch.einsum("bkhw,kc->bchw", landcover.to(x.dtype), self.value(tokens).to(x.dtype))
        return Enhanced(x + self.gate[:, None, None].to(x.dtype) * read, landcover)


class LandCoverHead(nn.Module):
    """Say in words what lies in each cell: the land-cover map.

    A cell's own features and the mean and spread of those around it, in windows of several sizes, become a vector in
    the space of the frozen text features, projected at random to a quarter of its dimensions, which nearly keeps its
    angles (Johnson and Lindenstrauss 1984). Its cosines to the words, less what all words have in common, are the
    scores; a constant stands for "none of these". A word that training never saw is scored like any other.

    The checkpoint holds the projected words alone, as TAFE's tokens are, and no text features.

    Args:
        dim: channels C of MSFL's coarse features.
        config: sizes.
    """

    projection: Tensor  # (D, P), random, drawn once
    words: Tensor  # (K, P) projected text features
    common: Tensor  # (P,) mean of those that training saw

    def __init__(self, dim: int, config: LandCoverConfig = LandCoverConfig()) -> None:
        super().__init__()
        if any(window % 2 == 0 for window in config.windows):
            raise ValueError(f"windows are {config.windows} cells on a side: a cell is the middle of an odd one alone")
        self.config = config
        self.enter = nn.Sequential(nn.BatchNorm2d(dim), nn.Conv2d(dim, config.width, 1))
        self.modality = nn.Linear(len(MODALITIES), config.width)
        self.mix = nn.Sequential(
            nn.Dropout2d(0.2),
            nn.Conv2d(config.width * (1 + 2 * len(config.windows)), config.hidden, 1),
            nn.BatchNorm2d(config.hidden),
            nn.ReLU(),
            nn.Conv2d(config.hidden, config.shared, 1),
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.none = nn.Parameter(torch.zeros(()))
        projection = torch.randn(config.text_dim, config.shared) / math.sqrt(config.shared)
        self.register_buffer("projection", projection)
        self.register_buffer("words", torch.zeros(config.classes, config.shared))
        self.register_buffer("common", torch.zeros(config.shared))

    def set_text(self, features: Tensor) -> None:
        """Exchange the words for those of text features (K, D), unit norm.

        Raises:
            ValueError: D is not the width that the head was trained for.
        """
        if features.ndim != 2 or features.shape[1] != self.config.text_dim:
            raise ValueError(
                f"text features must be (K, {self.config.text_dim}), got {tuple(features.shape)}: "
                "the land-cover head was trained for another feature space"
            )
        self.words = features.detach().to(self.projection) @ self.projection

    def teach(self, features: Tensor) -> None:
        """Set the words that training sees, text features (K, D), and what they have in common; as :meth:`set_text`."""
        self.set_text(features)
        self.common = self.words.mean(0)

    def forward(
        self, x: Tensor, modality: Tensor, valid: Tensor | None = None, cells: tuple[slice, slice] = (ALL, ALL)
    ) -> Tensor:
        """Return each word's probability; what they lack to one is "none of these".

        Args:
            x: (B, C, h, w) coarse features, before text is added.
            modality: (B, 2) weights over ("optical", "sar").
            valid: (B, h, w) bool, cells that show ground; None: all do.
            cells: rows and columns of those to answer for; all see the ground around them.

        Returns:
            (B, K, h, w) float32, h and w of the chosen cells.
        """
        scores = self.scores(x, modality, valid, cells)
        none = self.none.expand(len(scores), 1, *scores.shape[2:])
        return torch.cat([scores, none], 1).float().softmax(1)[:, :-1]

    def scores(
        self, x: Tensor, modality: Tensor, valid: Tensor | None = None, cells: tuple[slice, slice] = (ALL, ALL)
    ) -> Tensor:
        """Scaled cosines to the words, (B, K, h, w); args as in :meth:`forward`."""
        near = F.relu(self.enter(x) + self.modality(modality.to(x.dtype))[:, :, None, None])
        shown = x.new_ones(len(x), 1, *x.shape[2:]) if valid is None else valid[:, None].to(x.dtype)
        parts = [near[:, :, *cells]]
        for window in self.config.windows:
            mean, square = window_means((near, near * near), shown, window, cells)
            parts += [mean, (square - mean * mean).clamp_min(1e-6).sqrt()]
        seen = torch.cat(parts, 1)
        vector = F.normalize(self.mix(seen).float(), dim=1)
        words = F.normalize((self.words - self.common).float(), dim=1)
        return self.log_scale.exp() * torch.einsum("bdhw,kd->bkhw", vector, words)


def window_means(
    maps: Sequence[Tensor], shown: Tensor, side: int, cells: tuple[slice, slice] = (ALL, ALL)
) -> list[Tensor]:
    """Average maps (B, C, h, w) over those cells of each one's window that are shown, (B, 1, h, w) of 0 and 1.

    ``cells``: rows and columns of the cells whose windows are asked for. Sums are products with banded matrices, which
    cost less than sliding.
    """
    kernels = []
    for length, chosen in zip(shown.shape[2:], cells, strict=True):
        place = torch.arange(length, device=shown.device)
        kernels.append(((place[chosen, None] - place).abs() <= side // 2).to(shown.dtype))
    sums = [torch.einsum("yh,bchw,xw->bcyx", kernels[0], t, kernels[1]) for t in (*(m * shown for m in maps), shown)]
    return [total / sums[-1].clamp_min(0.5) for total in sums[:-1]]
