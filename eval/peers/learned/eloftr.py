"""EfficientLoFTR (Wang et al., CVPR 2024), through transformers."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import MatcherUnavailable, Store, need

HUB = "https://huggingface.co/zju-community/"
MULTIPLE = 32  # of the network's strides


class EfficientLoFTR:
    """The network, read from a folder that holds ``config.json`` and ``model.safetensors`` as on the Hugging Face hub.

    Images are enlarged or reduced to the published side, aspect kept, and padded at the right and bottom to one shape;
    matches in the padding are dropped. It counts pixel centres from 0.5, as LoFTR does, whose training labels it
    shares; half a pixel is taken off.

    Args:
        store: with the folder ``folder``. Apache-2.0, https://huggingface.co/zju-community.
        folder: name of the model on the hub.
        side: of the longer side, pixels.
    """

    name = "EfficientLoFTR"

    def __init__(self, store: Store, folder: str = "efficientloftr", side: int = 640) -> None:
        try:
            import transformers
            from transformers import EfficientLoFTRConfig
        except ImportError as error:
            raise need("transformers", "pip install -c constraints.txt 'transformers>=5.0'") from error
        if store.untrained:
            store.random = True
            torch.manual_seed(0)
            self.net = corrected()(EfficientLoFTRConfig()).eval()
        else:
            files = [store.file(f"{folder}/{name}", f"{HUB}{folder}/resolve/main/{name}") for name in _FILES]
            self.net = _read(files[0].parent)
        self._side = side
        self.parameters = count(self.net)
        self.settings = f"transformers {transformers.__version__} corrected, side {side}, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is that of the coarse match."""
        resized = [self._resize(image) for image in (image0, image1)]
        height, width = (max(r.shape[k] for r in resized) for k in (0, 1))
        height, width = height + -height % MULTIPLE, width + -width % MULTIPLE
        tensors = [to_tensor(r, 1) for r in resized]
        pad = torch.nn.functional.pad
        canvas = torch.cat([pad(t, (0, width - t.shape[3], 0, height - t.shape[2])) for t in tensors])
        out = self.net(canvas[None].expand(-1, -1, 3, -1, -1))
        kept = out.matches[0, 0] >= 0
        points = out.keypoints[0, :, kept] * torch.tensor([width, height])
        scales = [np.divide(i.shape[1::-1], r.shape[1::-1]) for i, r in zip((image0, image1), resized, strict=True)]
        points0, points1 = (p * torch.tensor(scale) - 0.5 for p, scale in zip(points, scales, strict=True))
        return Matches.of(points0, points1, out.matching_scores[0, 0, kept]).on_images(image0, image1)

    def _resize(self, image: Image) -> Image:
        scale = self._side / max(image.shape[:2])
        size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
        method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


_FILES = ("config.json", "model.safetensors")


def _read(folder: Path) -> Any:
    """Read a model from its folder, and refuse one of which a part would stay random."""
    quiet = logging.getLogger("transformers.modeling_utils")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        net, info = corrected().from_pretrained(folder, output_loading_info=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise MatcherUnavailable(f"weights cannot be read ({str(error).splitlines()[0]})") from error
    finally:
        quiet.setLevel(level)
    if odd := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise MatcherUnavailable(f"weights do not fit this library's version ({len(odd)} odd names, first {odd[0]})")
    return net.float().eval()


@cache
def corrected() -> Any:
    """Build the class of transformers' network with its matching as in the authors' code.

    In transformers 5.23.0 a match's two ends are listed in different orders, the fine softmax runs over the matches
    instead of the pixels, and its best pixel is looked up along the wrong axis, so that it is always the window's
    first. Against src/loftr/utils/fine_matching.py of github.com/zju3dv/EfficientLoFTR at ffd4a46.
    """
    from transformers import EfficientLoFTRForKeypointMatching

    class Corrected(EfficientLoFTRForKeypointMatching):  # type: ignore[misc]
        def _get_matches_from_scores(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Mutual best cells; slot i of both rows belongs to cell i of image0, -1 where it has none."""
            (batch, height0, width0, height1, width1), margin = scores.shape, self.config.coarse_matching_border_removal
            allowed = torch.zeros_like(scores, dtype=torch.bool)
            near = slice(margin, -margin or None)
            allowed[:, near, near, near, near] = True
            flat = scores.view(batch, height0 * width0, height1 * width1)
            best, partners = flat.max(2)
            mutual = (best[..., None] == flat) & (flat == flat.max(1, keepdim=True).values) & allowed.view_as(flat)
            kept = mutual.gather(2, partners[..., None]).squeeze(2) & (best > self.config.coarse_matching_threshold)
            cells = torch.arange(height0 * width0, device=scores.device).expand_as(partners)
            indices = torch.stack([cells, partners], 1)
            return torch.where(kept[:, None], indices, -1), torch.where(kept, best, 0)[:, None].repeat(1, 2, 1)

        def _fine_matching(
            self, features0: torch.Tensor, features1: torch.Tensor, coarse: torch.Tensor, scale: float
        ) -> torch.Tensor:
            """Best pair of pixels of two windows, the second then moved by an expectation over its 3 x 3 neighbours."""
            window, channels = features0.shape[-2:]
            side, last = int(window**0.5), self.config.fine_matching_slice_dim
            first0, second0 = features0.split([channels - last, last], -1)
            first1, second1 = features1.split([channels - last, last], -1)
            similarity = (first0 / channels**0.5) @ (first1 / channels**0.5).transpose(-1, -2)
            probability = (similarity.softmax(2) * similarity.softmax(3)).unflatten(3, (side + 2, side + 2))
            best = probability[..., 1:-1, 1:-1].flatten(2).argmax(2, keepdim=True)
            indices = torch.stack([best // window, best % window], 1)
            offsets = torch.stack([indices % side, indices // side], -1).squeeze(3) - side // 2 + 0.5
            local = second0 @ (second1 / last**0.5).transpose(-1, -2)
            return self._get_second_stage_fine_matching(indices, coarse + offsets * scale, local, window, scale)

    return Corrected


def create(store: Store) -> EfficientLoFTR:
    """Build it."""
    return EfficientLoFTR(store)
