"""Inputs of the contract: checked, turned to grey, and named where they are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from kornia.color import rgb_to_grayscale
from torch import Tensor

from kornia_tar.conventions import MIN_SIDE, MODALITIES
from kornia_tar.network.net import modality_weights


class BatchImage(NamedTuple):
    """One image of each pair of a batch, checked."""

    image: Tensor  # (B, 1, H, W) grey
    mask: Tensor | None  # (B, 1, H, W), 1 = valid
    modality: Tensor | None  # (B, 2) one-hot; None: to be inferred


def read_image(data: Mapping[str, Any], side: str, like: Tensor) -> BatchImage:
    """Take an image and what is told of it from the contract's dictionary.

    Args:
        data: of which ``image<side>``, ``mask<side>`` and ``modality<side>`` are read.
        side: "0", "1", or "" for one image alone.
        like: whose device and float type the result has.

    Raises:
        TypeError: the image is missing, or something is no tensor of the right kind.
        ValueError: a shape or size that does not fit, an unknown modality, NaN or Inf.
    """
    key = f"image{side}"
    if key not in data:
        given = ", ".join(map(str, data)) or "nothing"
        raise TypeError(f"{key} is missing: give {key} or features{side}; the data hold {given}")
    image = _grey(data[key], key).to(like.device, like.dtype)
    mask = _mask(data.get(f"mask{side}"), image, f"mask{side}")
    return BatchImage(image, mask, _modality(data.get(f"modality{side}"), image, f"modality{side}"))


def _grey(image: Any, key: str) -> Tensor:
    if not isinstance(image, Tensor):
        raise TypeError(f"{key} must be a float tensor (B, 1|3, H, W), got {type(image).__name__}")
    if not image.is_floating_point():
        raise TypeError(f"{key} must be a float tensor in [0, 1], got {image.dtype}: divide 8-bit images by 255")
    if image.ndim != 4 or image.shape[1] not in (1, 3) or len(image) < 1:
        raise ValueError(f"{key} has shape {tuple(image.shape)}, need (B, 1|3, H, W)")
    if min(image.shape[2:]) < MIN_SIDE:
        raise ValueError(f"{key} is {image.shape[3]}×{image.shape[2]} px, need at least {MIN_SIDE}×{MIN_SIDE}")
    if not image.isfinite().all():
        raise ValueError(f"{key} holds NaN or Inf: replace nodata and give a {key.replace('image', 'mask')}")
    return image if image.shape[1] == 1 else rgb_to_grayscale(image)


def _mask(mask: Any, image: Tensor, key: str) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"{key} must be a tensor (B, H, W) or (B, 1, H, W), got {type(mask).__name__}")
    B, _, H, W = image.shape
    if tuple(mask.shape) not in ((B, H, W), (B, 1, H, W)):
        raise ValueError(f"{key} has shape {tuple(mask.shape)}, need {(B, H, W)} or {(B, 1, H, W)}")
    return (mask.reshape(B, 1, H, W) > 0).to(image.device, image.dtype)


def _modality(modality: Any, image: Tensor, key: str) -> Tensor | None:
    if modality is None:
        return None
    names = [modality] * len(image) if isinstance(modality, str) else modality
    known = isinstance(names, list | tuple) and all(name in MODALITIES for name in names)
    if not known or len(names) != len(image):
        raise ValueError(f"{key} is {modality!r}, need one of {MODALITIES} or a list of {len(image)} of them")
    return modality_weights(list(names)).to(image.device, image.dtype)


def float_type(data: Mapping[str, Any]) -> torch.dtype:
    """Return the float type of the answer: float64 where an image is, or what its features hold of it; else float32."""
    features = (data.get(key) for key in ("features0", "features1"))
    images = [data.get(key) for key in ("image0", "image1")]
    images += [given.get("image") for given in features if isinstance(given, Mapping)]
    double = any(isinstance(image, Tensor) and image.dtype == torch.float64 for image in images)
    return torch.float64 if double else torch.float32
