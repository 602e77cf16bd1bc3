"""Validation on stored warps: the evaluation protocol's question, asked of a checkpoint without leaving the package.

``eval/`` is the judge, with its peers and its one shared estimator; this is the same affine RANSAC on the same warps,
so that a training run can print a figure.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from kornia_tar.geometry import corner_error, fit_transform, invert, warp_image
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.training.data import read_pairs


@torch.inference_mode()
def validate(matcher: TARMatcher, shard: Path, warps: Path, limit: int | None = None) -> dict[str, float]:
    """Register a shard's pairs after their stored warps.

    Args:
        matcher: on its device.
        shard: tar of aligned pairs.
        warps: JSON with ``{"warps": {name: 9 numbers, row by row}}``, image0 → image1.
        limit: only so many pairs.

    Returns:
        "SR@1", "SR@3", "SR@5", "SR@10": percent of pairs with a smaller mean corner error (px); "median": px.

    Raises:
        ValueError: the JSON has no matrix for a pair.
    """
    pairs = read_pairs([shard], limit=limit)
    stored = json.loads(warps.read_text())["warps"]
    weight = next(matcher.parameters())
    errors = []
    for k in tqdm(range(len(pairs)), desc="validating", leave=False):
        if pairs.names[k] not in stored:
            raise ValueError(f"{warps}: no warp for {pairs.names[k]}")
        truth = np.array(stored[pairs.names[k]], dtype=np.float64).reshape(3, 3)
        size = (pairs.sar.shape[-2], pairs.sar.shape[-1])
        moved = warp_image(pairs.sar[k, 0].numpy(), invert(truth), size, interpolation=cv2.INTER_LINEAR)
        images = pairs.optical[k][None], torch.from_numpy(moved)[None, None]
        image0, image1 = (i.to(weight.device, weight.dtype) / 255 for i in images)
        out = matcher({"image0": image0, "image1": image1, "modality0": "optical", "modality1": "sar"})
        fit = fit_transform(out["keypoints0"].cpu().numpy(), out["keypoints1"].cpu().numpy(), method="ransac")
        errors.append(corner_error(None if fit is None else fit.matrix, truth, size))
    e = np.array(errors)
    return {f"SR@{t}": 100 * float((e < t).mean()) for t in (1, 3, 5, 10)} | {"median": float(np.median(e))}
