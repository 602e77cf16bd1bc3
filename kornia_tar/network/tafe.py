"""TAFE: text-assisted feature enhancement.

From the paper (abstract): text features of remote sensing scenes and land-cover categories, from RemoteCLIP's frozen
text encoder, enhance the *high-level* visual features, because what a place is called is the same in both modalities.
Ours: text tokens are projected once; every coarse visual token looks at them by cosine similarity, and what it reads
is added through a zero-initialised gate. The attention weights *are* the land-cover map, so what acts can be looked
at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TAFEConfig:
    """Sizes of TAFE; ``classes = 0`` switches text off."""

    text_dim: int = 512
    classes: int = 19
    temperature: float = 0.1


class Enhanced(NamedTuple):
    """What TAFE returns."""

    features: Tensor  # (B, C, H/8, W/8)
    landcover: Tensor  # (B, K, H/8, W/8), probabilities over the prompts


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
