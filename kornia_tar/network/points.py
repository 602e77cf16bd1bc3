"""Points as tensors through matrices.

Convention:
    Points are (x, y) pixels, pixel centres at integers; see :mod:`kornia_tar.conventions`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def vector(like: Tensor, *values: float) -> Tensor:
    """Make a vector of numbers, of the device and float type of a tensor.

    They are written on the device: ``new_tensor`` copies them from the host, which waits until the device has done all
    that it was asked before.
    """
    return torch.stack([like.new_full((), value) for value in values])


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points (…, N, 2) by homographies (…, 3, 3); those behind the horizon land far away, where gradients end.

    Always in fp32, also under autocast: this is the truth in training.
    """
    with torch.autocast(points.device.type, enabled=False):
        points = points.float()
        mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.float().transpose(-1, -2)
        return mapped[..., :2] / mapped[..., 2:].clamp_min(1e-6)


def transform_affine(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points (B, N, 2) by affine matrices (B, 2, 3); no matrix product, which autocast would round."""
    return (points[:, :, None] * matrix[:, None, :, :2]).sum(-1) + matrix[:, None, :, 2]
