"""Features of one image as a dictionary of tensors: kept, saved, and matched with many others.

The keys are those of kornia's LoFTR, ``coarse`` and ``fine``, and what else a match needs: the second look resamples
the image itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kornia_tar.conventions import CELL, STRIDE
from kornia_tar.network.frames import Frame, ImageFeatures

NEEDED = ("image", "modality", "coarse", "fine", "landcover")
OPTIONAL = ("mask", "cells")  # of an image without nodata, whose sides are multiples of 16, both are missing


def to_tensors(frame: Frame) -> dict[str, Tensor]:
    """Turn an encoded image into a dictionary; see :meth:`kornia_tar.TARMatcher.extract_features` for the shapes."""
    features = frame.features
    tensors = {
        "image": frame.image, "modality": frame.modality, "mask": frame.mask, "coarse": features.coarse,
        "fine": features.fine, "landcover": features.landcover, "cells": features.mask,
    }  # fmt: skip
    return {key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}  # as files have it


def given_features(data: Mapping[str, Any], side: str, like: Tensor) -> Frame | None:
    """Take the features of an image from the contract's dictionary; None where there are none.

    Args:
        data: of which ``features<side>`` is read, a dictionary as :func:`to_tensors` makes it.
        side: "0" or "1".
        like: a parameter of the network, whose device and float type the result has.

    Raises:
        TypeError: it is no such dictionary.
        ValueError: shapes that do not belong together, or the image is given, too.
    """
    key = f"features{side}"
    features = data.get(key)
    if features is None:
        return None
    besides = [name for name in (f"image{side}", f"mask{side}", f"modality{side}") if data.get(name) is not None]
    if besides:
        raise ValueError(f"{key} and {', '.join(besides)} are given: features know what they are of")
    if not isinstance(features, Mapping):
        raise TypeError(f"{key} must be what extract_features returned, got {type(features).__name__}")
    missing = [name for name in NEEDED if not isinstance(features.get(name), Tensor)]
    if missing:
        raise TypeError(f"{key} has no {', '.join(missing)}: give what TARMatcher.extract_features returned, whole")
    image, modality, coarse, fine, landcover = (features[name].to(like.device, like.dtype) for name in NEEDED)
    mask, cells = (features.get(name) for name in OPTIONAL)
    B, _, height, width = image.shape if image.ndim == 4 else (0, 0, 0, 0)
    h, w = (STRIDE * -(-side // STRIDE) // CELL for side in (height, width))
    fits = {
        "modality": modality.shape == (B, 2),
        "coarse": coarse.ndim == 4 and (len(coarse), *coarse.shape[2:]) == (B, h, w),
        "fine": fine.ndim == 4 and (len(fine), *fine.shape[2:]) == (B, 4 * h, 4 * w),
        "landcover": landcover.ndim == 4 and (len(landcover), *landcover.shape[2:]) == (B, h, w),
        "mask": mask is None or mask.shape == image.shape,
        "cells": cells is None or cells.shape == (B, h, w),
    }
    wrong = [name for name, right in fits.items() if not right]
    if wrong:
        raise ValueError(f"{key}: {', '.join(wrong)} do not fit an image of shape {tuple(image.shape)}")
    mask = None if mask is None else mask.to(like.device, like.dtype)
    cells = None if cells is None else cells.to(like.device).bool()
    coarse, fine = (t.contiguous(memory_format=torch.channels_last) for t in (coarse, fine))
    return Frame(image, modality, mask, ImageFeatures(coarse, fine, landcover, cells))
