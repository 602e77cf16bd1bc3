"""LoFTR (Sun et al., CVPR 2021), through kornia."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import kornia
import torch
from kornia.feature import LoFTR as KorniaLoFTR
from kornia.feature.loftr.loftr import default_cfg

from eval.peers import Image, Matches, count, digest, load_strictly, read_weights, to_tensor


class LoFTR:
    """The network with its outdoor weights.

    kornia's LoFTR counts pixel centres from 0.5; half a pixel is taken off. It needs sides that are multiples of 8:
    images are padded at the right and bottom, and matches there are dropped.

    Args:
        path: ``loftr_outdoor.ckpt`` of github.com/zju3dv/LoFTR, Apache-2.0.
    """

    name = "LoFTR"

    def __init__(self, path: Path) -> None:
        state = {name.removeprefix("matcher."): value for name, value in read_weights(path).items()}
        # Its own copy of the configuration: others write into kornia's default.
        self._net = KorniaLoFTR(pretrained=None, config=deepcopy(default_cfg))
        load_strictly(self._net, state)
        self.parameters = count(self._net)
        self.settings = f"kornia {kornia.__version__}, outdoor, weights {digest(path)}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is LoFTR's own."""
        tensors = [to_tensor(image, grey=True) for image in (image0, image1)]
        padded = [torch.nn.functional.pad(t, (0, -t.shape[-1] % 8, 0, -t.shape[-2] % 8)) for t in tensors]
        out = self._net({"image0": padded[0], "image1": padded[1]})
        points = [out["keypoints0"] - 0.5, out["keypoints1"] - 0.5]
        sizes = [torch.tensor(image.shape[1::-1]) for image in (image0, image1)]
        inside = torch.stack([(p < size - 0.5).all(1) for p, size in zip(points, sizes, strict=True)]).all(0)
        return Matches.of(points[0][inside], points[1][inside], out["confidence"][inside])


def create(weights: Path, checkpoint: Path | None) -> LoFTR:
    """Build it from ``loftr/loftr_outdoor.ckpt``."""
    return LoFTR(weights / "loftr" / "loftr_outdoor.ckpt")
