"""What every module that draws images shares: random numbers, pixel grids, and a blur with a width per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator, device: torch.device) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


def grid_points(rows: int, columns: int, step: float, offset: float, device: torch.device) -> Tensor:
    """(rows·columns, 2) points (x, y) at ``offset + step·k``."""
    y, x = torch.meshgrid(
        torch.arange(rows, device=device) * step + offset, torch.arange(columns, device=device) * step + offset,
        indexing="ij",
    )  # fmt: skip
    return torch.stack([x.flatten(), y.flatten()], -1)


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma per image, (B, 1, H, W), (B,) px, by a 5×5 separable kernel."""
    taps = torch.arange(-2, 3, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    x = image.transpose(0, 1)  # (1, B, H, W): one group per image
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=len(image))
    x = F.conv2d(F.pad(x, (0, 0, 2, 2), mode="replicate"), kernel[:, None, :, None], groups=len(image))
    return x.transpose(0, 1)


def share_of(batch: int, share: float, generator: Generator, device: torch.device) -> Tensor:
    """Mark a share of the batch, (B,) bool: as many as ``share·batch`` rounded down or up, whichever rows.

    Independent draws would leave every fourth batch of 16 without any where the share is a twelfth.
    """
    place = torch.rand(batch, generator=generator, device=device).argsort()
    return place + torch.rand(1, generator=generator, device=device) < share * batch
