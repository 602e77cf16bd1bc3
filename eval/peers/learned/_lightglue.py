"""LightGlue (Lindenberger et al., ICCV 2023) on features of kornia; no peer by itself, but what others use."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

import kornia
import torch
from kornia.feature import LightGlue

from eval.peers.base import Image, Matches
from eval.peers.store import Store

Features = tuple[torch.Tensor, torch.Tensor]

# Of the released files, what no forward pass reads: nine numbers in DISK's, and in XFeat's the extractor that it was
# trained with, which is published by itself.
_UNREAD = {"disk": r"log_assignment\.[0-8]\.r", "xfeat": r"extractor\..+"}


def build(features: str, store: Store, url: str, packaged: str = "", file: str = "") -> LightGlue:
    """Build kornia's LightGlue for a kind of features.

    Its constructor downloads the weights of a named kind; one without a name takes the same configuration.

    Args:
        features: one of kornia's ``LightGlue.features``.
        store: has its weights.
        url: where its authors put them.
        packaged: ``<package>/<file name>`` of a package that brings them.
        file: their name in the weights folder; ``lightglue/<features>_lightglue.pth`` unless told.
    """
    config: dict[str, Any] = {**LightGlue.features[features], "weights": None}
    net = LightGlue(None, **config)  # type: ignore[arg-type]
    file = file or f"lightglue/{features}_lightglue.pth"
    return store.load(net, file, url, lambda state: _renamed(state, _UNREAD.get(features, "(?!)")), packaged=packaged)


def _renamed(state: dict[str, torch.Tensor], unread: str) -> dict[str, torch.Tensor]:
    """Turn the names of the first releases, ``self_attn.0`` and so on, into those of now, less what is ``unread``."""
    renamed = {}
    for name, value in state.items():
        if re.fullmatch(unread, name):
            continue
        name = name.removeprefix("matcher.")
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
        self._seen: tuple[Image, Features] | None = None
        self.settings = f"kornia {kornia.__version__}, {settings}, LightGlue"

    @abstractmethod
    def extract(self, image: Image) -> Features:
        """Return keypoints (N, 2) in the features' own frame, and descriptors (N, D)."""

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is LightGlue's own."""
        data = {}
        for key, image in (("image0", image0), ("image1", image1)):
            points, descriptors = self._features0(image) if key == "image0" else self.extract(image)
            size = torch.tensor([image.shape[1::-1]])
            data[key] = {"keypoints": points[None], "descriptors": descriptors[None], "image_size": size}
        out = self._glue(data)
        pairs = out["matches"][0]
        points0, points1 = (data[key]["keypoints"][0] - self.offset for key in data)
        return Matches.of(points0[pairs[:, 0]], points1[pairs[:, 1]], out["scores"][0])

    def _features0(self, image: Image) -> Features:
        """Extract an image0 once, however often it is asked in a row: a rotation search turns image1 alone."""
        if self._seen is None or self._seen[0] is not image:
            self._seen = image, self.extract(image)
        return self._seen[1]
