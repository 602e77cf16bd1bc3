"""TAR as a matcher of vismatch (https://github.com/gmberton/vismatch), beside the many others that it runs.

Needs ``pip install vismatch``, which this module imports; kornia-tar does not depend on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vismatch.base_matcher import BaseMatcher

from kornia_tar import GuidedMatcher, RegistrarConfig, TARMatcher
from kornia_tar.conventions import Modality

#: Matched keypoints of both images, all keypoints of both, descriptors of both, confidences.
Outcome = tuple[Tensor, Tensor, Tensor, Tensor, None, None, Tensor]


class TARVismatch(BaseMatcher):  # type: ignore[misc]
    """vismatch's interface around :class:`kornia_tar.TARMatcher`, or :class:`kornia_tar.GuidedMatcher`.

    Args:
        device: of the matcher.
        max_num_keypoints: most matches of a pair; None for all.
        weights: name of shipped weights or path of a checkpoint.
        modality0: "optical", "sar", or None to tell it from the image.
        modality1: likewise.
        threshold: least confidence of a match.
        guided: register each pair, by rotation and scale, and return the registration's tie points, or none where it is
            refused; for overhead pairs, which one plane transform joins. Takes seconds on a CPU.
        registrar: how pairs are registered, where guided.
        **kwargs: of vismatch's RANSAC (``ransac_iters``, ``ransac_conf``, ``ransac_reproj_thresh``).

    Example:
        >>> matcher = TARVismatch(device="cpu")  # doctest: +SKIP
        >>> matcher("optical.png", "sar.png")["num_inliers"]  # doctest: +SKIP
        >>> matcher = TARVismatch(device="cpu", guided=True, modality0="optical", modality1="sar")  # doctest: +SKIP
    """

    def __init__(
        self,
        device: str = "cpu",
        max_num_keypoints: int | None = 2048,
        *,
        weights: str | Path | None = "optical-sar",
        modality0: Modality | None = None,
        modality1: Modality | None = None,
        threshold: float = 0.1,
        guided: bool = False,
        registrar: RegistrarConfig = RegistrarConfig(),
        **kwargs: Any,
    ) -> None:
        super().__init__(device, **kwargs)
        self.modalities = {"modality0": modality0, "modality1": modality1}
        options: dict[str, Any] = {"threshold": threshold, "max_keypoints": max_num_keypoints}
        matcher = GuidedMatcher(weights, registrar=registrar, **options) if guided else TARMatcher(weights, **options)
        self.matcher = matcher.to(device)

    def _forward(self, img0: Tensor, img1: Tensor) -> Outcome:
        """Match two images (C, H, W) in [0, 1]; pixel centres at integers, as OpenCV's homography wants them."""
        data = {"image0": img0[None], "image1": img1[None]}
        with torch.no_grad():
            out = self.matcher({**data, **{k: m for k, m in self.modalities.items() if m is not None}})
        matched = out["keypoints0"], out["keypoints1"]
        return *matched, *matched, None, None, out["confidence"]
