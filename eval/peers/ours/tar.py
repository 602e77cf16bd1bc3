"""TAR, this repository's own matcher, through its door."""

from __future__ import annotations

from pathlib import Path

import torch

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import MatcherUnavailable, Store, digest


class TAR:
    """``kornia_tar.TARMatcher``, told the modalities where they are known.

    Args:
        checkpoint: a checkpoint file; None for the one that the package ships.
    """

    name = "TAR"

    def __init__(self, checkpoint: Path | None) -> None:
        if checkpoint is not None and not checkpoint.is_file():
            raise FileNotFoundError(f"--checkpoint {checkpoint}: no such file")
        try:
            import kornia_tar
            from kornia_tar import TARMatcher
        except ImportError as error:
            raise MatcherUnavailable(f"kornia_tar.TARMatcher cannot be imported ({error})") from error
        try:
            self.net = TARMatcher(pretrained="optical-sar" if checkpoint is None else str(checkpoint)).eval()
        except FileNotFoundError as error:
            raise MatcherUnavailable(f"no weights ({error})") from error
        self.parameters = count(self.net)
        # Matches depend on the package's code as well as on its weights, and both still move.
        package = Path(kornia_tar.__file__).parent
        weights = [checkpoint] if checkpoint else sorted((package / "weights").glob("*.safetensors"))
        label = checkpoint.name if checkpoint else "shipped"
        code = digest(*sorted(package.rglob("*.py")))
        self.settings = f"{label} {digest(*weights)}, turns {self.net.turns}, scales {self.net.scales}, code {code}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is TAR's own, in [0, 1]."""
        told = {key: hints[key] for key in ("modality0", "modality1") if key in hints}
        out = self.net({"image0": to_tensor(image0), "image1": to_tensor(image1), **told})
        return Matches.of(out["keypoints0"], out["keypoints1"], out["confidence"])


def create(store: Store) -> TAR:
    """Build it from a checkpoint, or from the one that kornia_tar ships."""
    return TAR(store.checkpoint)
