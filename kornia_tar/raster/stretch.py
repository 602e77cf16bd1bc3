"""The percentile stretch and the conversion to grey: what a matcher and a person see of any raster."""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from kornia_tar.raster.image import Raster


def to_grey8(raster: Raster, modality: Literal["optical", "sar"]) -> NDArray[np.uint8]:
    """The 8-bit grey image the matcher takes: 2-98 percentile of the valid pixels stretched to 0-255.

    Three 8-bit bands, and three or more of an optical image, become luminance (ITU-R BT.601 on the first three);
    other multi-band images give their first band. Optical values and 8-bit SAR are stretched linearly.
    SAR of more than 8 bits is stretched in decibels: where the median is negative the values are decibels
    already; otherwise they are power or amplitude and their logarithm is taken (the two differ by a factor of
    two, which the stretch removes), so that a few strong scatterers do not leave the rest black.

    Args:
        raster: the image.
        modality: "optical" or "sar".

    Returns:
        (H, W) uint8; 0 at invalid pixels, and everywhere for a constant image.
    """
    if modality not in ("optical", "sar"):
        raise ValueError(f"modality is {modality!r}; it must be optical or sar")
    pixels = raster.pixels
    if pixels.ndim == 3:
        colour = pixels.shape[-1] >= 3 and (modality == "optical" or pixels.dtype == np.uint8)
        pixels = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) if colour else pixels[..., 0]
    grey = np.where(raster.mask, pixels, np.nan).astype(np.float32)
    if modality == "sar" and raster.pixels.dtype != np.uint8 and np.median(_sample(grey)) >= 0:
        positive = _sample(np.where(grey > 0, grey, np.nan))
        if positive.size:
            grey = np.log10(np.maximum(grey, np.percentile(positive, 0.1)))
    return _stretch(grey, grey)


def to_rgb8(raster: Raster) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to look at: the first three bands under one common 2-98 percentile stretch; grey thrice."""
    pixels = raster.pixels if raster.pixels.ndim == 3 else raster.pixels[..., None]
    bands = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    values = np.where(raster.mask[..., None], bands, np.nan).astype(np.float32)
    return _stretch(values, values)


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The finite values, thinned to a few million: percentiles need no more."""
    step = max(1, math.isqrt(values.shape[0] * values.shape[1] // 4_000_000))
    thinned = values[::step, ::step]
    finite = thinned[np.isfinite(thinned)]
    return finite if finite.size else values[np.isfinite(values)]


def _stretch(values: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.uint8]:
    """2-98 percentile of the finite reference values to 0-255; not finite to 0."""
    low, high = np.percentile(_sample(reference), (2, 98))
    if not high > low:  # almost all pixels are equal: let the few others be seen
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scaled = (values - low) / (high - low if high > low else 1.0)
    return cast(NDArray[np.uint8], np.rint(np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8))
