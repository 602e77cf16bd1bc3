"""TAFE: text-assisted feature enhancement.

From the paper (abstract): text features of remote sensing scenes and land-cover categories, from RemoteCLIP's frozen
text encoder, enhance the *high-level* visual features, because what a place is called is the same in both modalities.
Ours: text tokens are projected once; every coarse visual token looks at them by cosine similarity, and what it reads
is added through a zero-initialised gate.

What the words *mean* is learned apart from that: a head on MSFL's features, before any text is added, turns every cell
into a vector that is compared with the frozen text features, both in 128 random dimensions of their space
(:class:`LandCoverHead`). Its map can be scored against any word of that space, and learning it changes nothing that the
matching computes. Without it TAFE's attention stands for the map.

The head reads an image in a way of its own, :func:`read_ground`, in training and in use: features that do not tell
where the border is, for the map would tell it, too, and with how bright each cell's pixels are, which MSFL forgets and
a flood is known by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kornia_tar.conventions import CELL, MODALITIES, STRIDE
from kornia_tar.network.msfl import MSFL

ALL = slice(None)
BRIGHTNESS = 6  # planes of :func:`brightness`
LIMIT = 4.0  # of standardised pixels, as :func:`kornia_tar.network.msfl.standardise` cuts them


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
    brightness: bool = False  # whether it reads :func:`brightness` beside the features; the first heads did not


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
        dim: channels of MSFL's coarse features; C is as many, and ``BRIGHTNESS`` more where the config says so.
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
        dim += BRIGHTNESS if config.brightness else 0
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
            x: (B, C, h, w) of :func:`read_ground`; planes beyond C are not looked at.
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
        x = x[:, : self.enter[0].num_features]
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


def read_ground(
    msfl: MSFL, image: Tensor, modality: Tensor, mask: Tensor | None = None, coarse: Tensor | None = None
) -> Tensor:
    """Read what the land-cover head is given of an image: MSFL's features of the ground, and how bright each cell is.

    Args:
        msfl: whose features they are.
        image: (B, 1, H, W), standardised, of any size.
        modality: (B, 2) weights over ("optical", "sar").
        mask: (B, 1, H, W), 1 = valid, or None.
        coarse: (B, C8, h, w), MSFL's features of the image where they are known and do not tell where the border is.

    Returns:
        (B, C8 + ``BRIGHTNESS``, h, w), one pixel per cell, h and w even: the image is filled up to a multiple of
        ``STRIDE`` by its last column and row.
    """
    fill = (0, -image.shape[3] % STRIDE, 0, -image.shape[2] % STRIDE)
    image = F.pad(image, fill, mode="replicate")
    shown = None if mask is None else F.pad(mask, fill, mode="replicate")
    coarse = msfl.ground(image, modality) if coarse is None else coarse
    return torch.cat([coarse, brightness(image, shown).to(image.dtype)], 1)


def brightness(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Say of each cell how bright its valid pixels are, in an image's own terms.

    Args:
        image: (B, 1, H, W), standardised; sides are multiples of ``CELL``.
        mask: (B, 1, H, W), 1 = valid, or None.

    Returns:
        (B, ``BRIGHTNESS``, H/8, W/8) float32: mean, standard deviation, least and greatest, in standard deviations of
        the image; by how much the mean is above Otsu's threshold of the smoothed image, and the share of pixels below.
    """
    x = image.float()
    shown = torch.ones_like(x) if mask is None else (mask > 0).float()
    share = F.avg_pool2d(shown, CELL).clamp_min(1e-6)
    mean, square = (F.avg_pool2d(part * shown, CELL) / share for part in (x, x * x))
    least, greatest = (F.max_pool2d(part.masked_fill(shown == 0, -LIMIT), CELL) for part in (-x, x))
    smooth = _blurred(x * shown) / _blurred(shown).clamp_min(1e-6)
    level = otsu_level(smooth, shown)
    dark = F.avg_pool2d((smooth <= level) * shown, CELL) / share
    return torch.cat([mean, (square - mean * mean).clamp_min(0).sqrt(), -least, greatest, mean - level, dark], 1)


def otsu_level(image: Tensor, shown: Tensor, bins: int = 256) -> Tensor:
    """Find the brightness that best parts each image's shown pixels in two (Otsu 1979); kornia's knows no masks.

    Args:
        image: (B, 1, H, W) within ``LIMIT`` of zero.
        shown: (B, 1, H, W), 1 where a pixel counts, else 0.
        bins: of the histogram.

    Returns:
        (B, 1, 1, 1), the upper edge of the dark side's last bin.
    """
    edge = torch.arange(1, bins + 1, device=image.device) * (2 * LIMIT / bins) - LIMIT
    place = ((image + LIMIT) * (bins / (2 * LIMIT))).long().clamp(0, bins - 1).flatten(1)
    counts = image.new_zeros(len(image), bins).scatter_add(1, place, shown.flatten(1))
    counts = counts / counts.sum(1, keepdim=True).clamp_min(1)
    below, moment = counts.cumsum(1), (counts * edge).cumsum(1)
    between = (moment[:, -1:] * below - moment).square() / (below * (1 - below)).clamp_min(1e-6)
    return edge[between.argmax(1)][:, None, None, None]


def _blurred(x: Tensor) -> Tensor:
    """Blur by about a Gaussian of σ = 2 px: a window of 5 px twice; beyond the border is zero."""
    return F.avg_pool2d(F.avg_pool2d(x, 5, 1, 2), 5, 1, 2)


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
