"""RoMa v2 (Edstedt et al., 2025), through romav2."""

from __future__ import annotations

from importlib.metadata import version

import torch

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import MatcherUnavailable, Store, downloads, need

SAMPLES = 5000
SETTING = "satast"  # its authors' setting for satellite photographs
WEIGHTS = "romav2/checkpoints/romav2.0.1.pt"
URL = "https://github.com/Parskatt/RoMaV2/releases/download/v2.0.1/romav2.0.1.pt"
DINO = "facebookresearch_dinov3_adc254450203739c8149213a7a69d8d905b4fcfa"


class RoMaV2:
    """The released model, 5000 matches of its balanced sampling, seeded.

    It counts pixel centres from 0.5; half a pixel is taken off. Its constructor always asks torch.hub for its weights
    and for DINOv3's code; both are found in the folder ``romav2``, laid out as torch.hub's cache. Written against
    romav2 2.0.1.

    Args:
        store: with ``romav2/checkpoints/romav2.0.1.pt`` (MIT) and DINOv3's code (a licence of its own) in
            ``romav2/facebookresearch_dinov3_<commit>``.
    """

    name = "RoMa v2"

    def __init__(self, store: Store) -> None:
        try:
            from romav2 import RoMaV2 as Network
        except ImportError as error:
            raise need("romav2", "pip install --no-deps romav2 einops rich") from error
        store.refuse_untrained()
        hub = store.file(WEIGHTS, URL).parents[1].resolve()
        before = torch.hub.get_dir()
        torch.hub.set_dir(str(hub))
        try:
            with downloads(store.download):
                self._net = Network(Network.Cfg(compile=False, setting=SETTING))
        except (OSError, RuntimeError) as error:
            raise MatcherUnavailable(f"cannot be built ({error}); DINOv3's code belongs in romav2/{DINO}") from error
        finally:
            torch.hub.set_dir(before)
        self._net.eval()
        self.parameters = count(self._net)
        self.settings = f"romav2 {version('romav2')}, {SETTING}, {SAMPLES} samples, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is RoMa v2's overlap, 1 for all above its sampling threshold."""
        device = next(self._net.parameters()).device
        tensors = [to_tensor(image, 3).to(device) for image in (image0, image1)]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found, confidence, *_ = self._net.sample(self._net.match(*tensors), SAMPLES)
        points0, points1 = self._net.to_pixel_coordinates(found, *image0.shape[:2], *image1.shape[:2])
        return Matches.of(points0 - 0.5, points1 - 0.5, confidence).on_images(image0, image1)


def create(store: Store) -> RoMaV2:
    """Build it."""
    return RoMaV2(store)
