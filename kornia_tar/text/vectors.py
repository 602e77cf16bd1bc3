"""Text priors without a text encoder: none, random, learned.

They are the controls by which text has to earn its place: the same network, the same budget, other vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .descriptors import check_texts


class NonePrior:
    """No text at all: ``dim`` is 0, and the model leaves the text enhancement out.

    ``encode`` returns (P, 0), which is empty rather than of unit norm; ask ``prior.dim`` before building tokens.
    """

    name = "none"
    dim = 0
    info: Mapping[str, str] = {"encoder": "none"}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return an empty (P, 0) float32 tensor for P prompts."""
        return torch.empty(len(check_texts(prompts, "prompts")), 0)


class RandomPrior:
    """Random unit vectors, one per prompt: as many tokens as text gives, without any meaning.

    The vector depends on the prompt and the seed alone, not on the order, the process or the machine.

    Args:
        dim: Length of a vector, >= 1; 512 is that of RemoteCLIP ViT-B-32.
        seed: Another seed, another set of vectors.

    Raises:
        ValueError: ``dim`` < 1.
    """

    name = "random"

    def __init__(self, dim: int = 512, seed: int = 0) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.seed = seed
        self.info: Mapping[str, str] = {"encoder": f"{self.name} {dim} seed {seed}"}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return (P, dim) float32 unit vectors, uniform on the sphere."""
        prompts = check_texts(prompts, "prompts")
        rows = np.empty((len(prompts), self.dim))
        for row, prompt in zip(rows, prompts, strict=True):
            # Not hash(): Python salts it per process. Not torch's generator: its normals differ between CPUs.
            digest = hashlib.sha256(f"{self.seed}\0{prompt}".encode()).digest()
            row[:] = np.random.default_rng(int.from_bytes(digest)).standard_normal(self.dim)
        return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


class LearnedPrior(RandomPrior):
    """K vectors that training may move: what the extra parameters alone are worth.

    ``encode`` gives the starting point, the same as `RandomPrior` of that seed; ``learned`` tells the model to make
    them parameters.
    """

    name = "learned"
    learned = True
