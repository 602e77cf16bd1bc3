"""RoMa (Edstedt et al., CVPR 2024), through romatch."""

from __future__ import annotations

from importlib.metadata import version

import torch
from PIL import Image as Pillow

from eval.peers.base import Image, Matches, count
from eval.peers.store import Store, need, read_weights

SAMPLES = 5000  # as in its own benchmarks
URL = "https://github.com/Parskatt/storage/releases/download/roma/roma_outdoor.pth"
DINO_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
INSTALL = "pip install --no-deps romatch einops loguru"


class RoMa:
    """The outdoor model at its own resolutions (560, then 864), 5000 matches of its balanced sampling, seeded.

    It counts pixel centres from 0.5; half a pixel is taken off. Written against romatch 0.1.2.

    Args:
        store: with ``roma/roma_outdoor.pth`` (github.com/Parskatt/RoMa, MIT) and ``roma/dinov2_vitl14_pretrain.pth``
            (Apache-2.0).
    """

    name = "RoMa"

    def __init__(self, store: Store) -> None:
        try:
            from romatch import roma_outdoor
        except ImportError as error:
            raise need("romatch", INSTALL) from error
        store.refuse_untrained()
        weights = read_weights(store.file("roma/roma_outdoor.pth", URL))
        dino = read_weights(store.file("roma/dinov2_vitl14_pretrain.pth", DINO_URL))
        # Its fast correlation is a CUDA extension; the plain one gives the same numbers.
        self._net = roma_outdoor("cpu", weights=weights, dinov2_weights=dino, use_custom_corr=False).eval()
        # DINOv2 is hidden in a list, out of the reach of parameters().
        self.parameters = count(self._net, *self._net.encoder.dinov2_vitl14)
        self.settings = f"romatch {version('romatch')}, 560 then 864, {SAMPLES} samples, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is RoMa's certainty, 1 for all above its sampling threshold."""
        pictures = [Pillow.fromarray(image).convert("RGB") for image in (image0, image1)]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found, certainty = self._net.sample(*self._net.match(*pictures, device="cpu"), num=SAMPLES)
        sides = [*image0.shape[:2], *image1.shape[:2]]
        points0, points1 = self._net.to_pixel_coordinates(found, *sides)
        return Matches.of(points0 - 0.5, points1 - 0.5, certainty).on_images(image0, image1)


def create(store: Store) -> RoMa:
    """Build it."""
    return RoMa(store)
