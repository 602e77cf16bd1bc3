"""LoFTR (Sun et al., CVPR 2021), through kornia."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import kornia
import torch
from kornia.feature import LoFTR as KorniaLoFTR
from kornia.feature.loftr.loftr import default_cfg

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import Store

URL = "https://cmp.felk.cvut.cz/~mishkdmy/models/loftr_outdoor.ckpt"


class LoFTR:
    """The network with its outdoor weights.

    These count pixel centres from 0.5; half a pixel is taken off. Images are padded at the right and bottom to sides
    that are multiples of 8, and matches there are dropped.

    Args:
        store: with ``loftr/loftr_outdoor.ckpt`` of github.com/zju3dv/LoFTR, Apache-2.0.
        threshold: smallest confidence of a coarse match; LoFTR's own is 0.2.

    Attributes:
        offset: what the weights count a pixel's centre from, beyond an integer.
    """

    name = "LoFTR"
    offset = 0.5

    def __init__(self, store: Store, threshold: float = 0.2) -> None:
        self.net = store.load(build(threshold), "loftr/loftr_outdoor.ckpt", URL, _without_prefix)
        self.parameters = count(self.net)
        self.settings = f"kornia {kornia.__version__}, outdoor, threshold {threshold:g}, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is LoFTR's own."""
        tensors = [to_tensor(image, 1) for image in (image0, image1)]
        padded = [torch.nn.functional.pad(t, (0, -t.shape[-1] % 8, 0, -t.shape[-2] % 8)) for t in tensors]
        out = self.net({"image0": padded[0], "image1": padded[1]})
        points0, points1 = (out[key] - self.offset for key in ("keypoints0", "keypoints1"))
        return Matches.of(points0, points1, out["confidence"]).on_images(image0, image1)


def build(threshold: float = 0.2) -> KorniaLoFTR:
    """Make the network of the outdoor configuration with random weights, in training mode."""
    # Its own copy of the configuration: others write into kornia's default, hloc into this threshold.
    config: dict[str, Any] = deepcopy(default_cfg)
    config["match_coarse"]["thr"] = threshold
    return KorniaLoFTR(pretrained=None, config=config)


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("matcher."): value for name, value in state.items()}


def create(store: Store) -> LoFTR:
    """Build it."""
    return LoFTR(store)
