"""LightGlue (Lindenberger et al., ICCV 2023) on features of kornia; no peer by itself, but what DISK and DeDoDe use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import kornia
import torch
from kornia.feature import LightGlue

from eval.peers import Image, Matches, Store

Features = tuple[torch.Tensor, torch.Tensor]


def build(features: str, store: Store, url: str) -> LightGlue:
    """Build kornia's LightGlue for a kind of features from ``lightglue/<features>_lightglue.pth``.

    Its constructor downloads the weights of a named kind; one without a name takes the same configuration.
    """
    config: dict[str, Any] = {**LightGlue.features[features], "weights": None}
    net = LightGlue(None, **config)  # type: ignore[arg-type]
    return store.load(net, f"lightglue/{features}_lightglue.pth", url, _renamed)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of github.com/cvg/LightGlue's first release turned into those of now: ``self_attn.0`` and so on."""
    renamed = {}
    for name, value in state.items():
        head, _, rest = name.partition(".")
        if head in ("self_attn", "cross_attn"):
            layer, _, rest = rest.partition(".")
            name = f"transformers.{layer}.{head}.{rest}"
        renamed[name] = value
    return renamed


class Sparse(ABC):
    """Features of each image, matched by LightGlue with its own thresholds.

    Attributes:
        offset: what the features' frame counts for the centre of the first pixel.
    """

    offset = 0.0

    def __init__(self, glue: LightGlue, settings: str) -> None:
        self._glue = glue
        self.settings = f"kornia {kornia.__version__}, {settings}, LightGlue"

    @abstractmethod
    def extract(self, image: Image) -> Features:
        """Return keypoints (N, 2) in the features' own frame, and descriptors (N, D)."""

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is LightGlue's own."""
        data = {}
        for key, image in (("image0", image0), ("image1", image1)):
            points, descriptors = self.extract(image)
            size = torch.tensor([image.shape[1::-1]])
            data[key] = {"keypoints": points[None], "descriptors": descriptors[None], "image_size": size}
        out = self._glue(data)
        pairs = out["matches"][0]
        points0, points1 = (data[key]["keypoints"][0] - self.offset for key in data)
        return Matches.of(points0[pairs[:, 0]], points1[pairs[:, 1]], out["scores"][0])
