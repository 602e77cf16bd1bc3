"""The percentile stretch, the conversion to grey and the modality: what a matcher and a person see of any raster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from kornia_tar.conventions import Modality
from kornia_tar.raster.image import Raster
from kornia_tar.raster.windows import strips

Value = TypeVar("Value", np.uint8, np.float32)

PERCENTILES = (2, 98)


def told_modality(raster: Raster, told: str) -> Modality | None:
    """Decide the modality of an image whose modality may be left to us: the one rule for "auto".

    Args:
        raster: the image.
        told: "optical", "sar" or "auto".

    Returns:
        ``told``, unless it is "auto". Then "sar" for one or two bands of more than 8 bits (two are polarisations) and
        "optical" for three or more; None for 8-bit images of one or two bands, or of bands that are all alike, as a
        grey picture saved as RGB has them. Those get the same stretch either way, and the network may infer the rest.

    Raises:
        ValueError: when ``told`` is none of the three.
    """
    if told != "auto":
        return _checked(told)
    pixels, deep = raster.pixels, raster.pixels.dtype != np.uint8
    if pixels.ndim == 2 or pixels.shape[-1] < 3:
        return "sar" if deep else None
    alike = not deep and all((part[..., 1:] == part[..., :1]).all() for part in (pixels[r] for r in strips(pixels)))
    return None if alike else "optical"


def to_grey8(raster: Raster, modality: Modality | None) -> NDArray[np.uint8]:
    """The 8-bit grey image the matcher takes: 2-98 percentile of the valid pixels stretched to 0-255.

    Three 8-bit bands, and three or more of an optical image, become luminance (ITU-R BT.601 on the first three);
    other multi-band images give their first band. Optical values and 8-bit SAR are stretched linearly.
    SAR of more than 8 bits is stretched in decibels: where the median is negative the values are decibels
    already; otherwise they are power or amplitude and their logarithm is taken (the two differ by a factor of
    two, which the stretch removes), so that a few strong scatterers do not leave the rest black.

    Args:
        raster: the image.
        modality: "optical" or "sar"; None, as :func:`told_modality` gives it, where both get the same stretch.

    Returns:
        (H, W) uint8; 0 at invalid pixels, and everywhere for a constant image.
    """
    optical = modality is None or _checked(modality) == "optical"
    deep = raster.pixels.dtype != np.uint8

    def grey(rows: slice) -> NDArray[np.float32]:
        pixels = raster.pixels[rows]
        if pixels.ndim == 3:
            colour = pixels.shape[-1] >= 3 and (optical or not deep)
            pixels = to_grey(_as_float32(pixels[..., :3])) if colour else pixels[..., 0]
        return _as_float32(np.where(raster.mask[rows], pixels, np.nan))

    return _stretched(grey, raster, decibels=not optical and deep)


def to_rgb8(raster: Raster, step: int = 1) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to look at: the first three bands under one common 2-98 percentile stretch; grey thrice.

    ``step``: so many valid pixels along either side are averaged to one, of a large image.
    """
    if step > 1:
        return to_rgb8(_reduced(raster, step))
    three = raster.pixels.ndim == 3 and raster.pixels.shape[-1] >= 3

    def bands(rows: slice) -> NDArray[np.float32]:
        pixels = raster.pixels[rows]
        pixels = pixels[..., :3] if three else pixels.reshape(*pixels.shape[:2], -1)[..., :1]
        return _as_float32(np.where(raster.mask[rows][..., None], pixels, np.nan))

    found = _stretched(bands, raster)
    return found if three else np.repeat(found, 3, axis=-1)


def _reduced(raster: Raster, step: int) -> Raster:
    """Means over ``step`` × ``step`` valid pixels of the first three bands."""
    height, width = (length // step for length in raster.size)
    parts, share = [], []
    high = max(1, next(strips(raster.pixels)).stop // step) * step
    for top in range(0, height * step, high):
        rows = slice(top, min(top + high, height * step))
        valid = raster.mask[rows, : width * step].astype(np.float32)
        pixels = raster.pixels[rows, : width * step].astype(np.float32).reshape(*valid.shape, -1)[..., :3]
        pixels = np.where(valid[..., None] > 0, pixels, 0)
        size = width, valid.shape[0] // step
        share.append(cv2.resize(valid, size, interpolation=cv2.INTER_AREA))
        mean = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
        parts.append(mean.reshape(*share[-1].shape, -1) / np.maximum(share[-1], 1e-3)[..., None])
    pixels = np.concatenate(parts)
    return replace(raster, pixels=pixels if pixels.shape[-1] > 1 else pixels[..., 0], mask=np.concatenate(share) >= 0.5)


def to_grey(image: NDArray[Value]) -> NDArray[Value]:
    """Luminance (ITU-R BT.601) of an RGB image, in its own dtype; a grey image stays as it is.

    Args:
        image: (H, W) or (H, W, C), uint8 or float32; of more than three bands the first three count, of two the first.

    Returns:
        (H, W), the same dtype; uint8 is rounded.
    """
    if image.ndim == 2:
        return image
    if image.shape[-1] < 3:
        return image[..., 0]
    return cast(NDArray[Value], cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY))


def percentile_stretch(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch the 2nd to 98th percentile of an image, all bands together, to 0-255.

    Whatever a matcher is trained on, shown or judged by has passed here. With the percentiles a and b a value v becomes
    ⌊255 (v - a) / (b - a) + 0.5⌋, cut at 0 and 255.

    Args:
        image: (H, W) or (H, W, C), uint8, uint16 or float. NaN and infinite values do not count; percentiles of more
            than a few million pixels are those of an even sample.

    Returns:
        The same shape, uint8; 0 for NaN. Where both percentiles are equal a uint8 image comes back as it is, and of
        another the smallest and largest value take their place; it is 0 everywhere where those are equal, too.
    """
    if image.dtype == np.uint8:
        low, high = _percentiles_of_uint8(image)
        return _scaled(np.arange(256, dtype=np.float64), low, high)[image] if high > low else image
    values = _as_float32(image)
    finite = _sample(values)
    if not finite.size:
        return np.zeros(image.shape, np.uint8)
    low, high = (float(v) for v in np.percentile(finite, PERCENTILES))
    if not high > low:  # almost all pixels are equal: let the few others be seen
        finite = values[np.isfinite(values)]
        low, high = float(finite.min()), float(finite.max())
    return _scaled(values, low, high) if high > low else np.zeros(image.shape, np.uint8)


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Convert to float32; beyond its range a value is infinite, and does not count."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _stretched(
    values: Callable[[slice], NDArray[np.float32]], raster: Raster, decibels: bool = False
) -> NDArray[np.uint8]:
    """Stretch what is made of a raster strip by strip, as :func:`percentile_stretch` does.

    Args:
        values: makes rows (h, W) or (h, W, C), NaN where they are missing.
        raster: of which.
        decibels: whether values that are not decibels yet become such.
    """
    parts = list(strips(raster.pixels))
    step = _step(raster.size)

    def finite(every: int) -> NDArray[np.float32]:
        """All values, or those of an even sample: the same one however the strips lie."""
        found = [values(rows)[-rows.start % every :: every, ::every] for rows in parts]
        return np.concatenate([one[np.isfinite(one)] for one in found])

    sample, change = finite(step), lambda part: part
    sample = sample if sample.size else finite(1)
    if decibels and sample.size and np.median(sample) >= 0:
        positive = sample[sample > 0]
        positive = positive if positive.size else (every := finite(1))[every > 0]
        if positive.size:
            floor = np.percentile(positive, 0.1)
            change = lambda part: np.log10(np.maximum(part, floor))  # noqa: E731
            sample = change(sample)
    low, high = (float(v) for v in np.percentile(sample, PERCENTILES)) if sample.size else (0.0, 0.0)
    if sample.size and not high > low:  # almost all pixels are equal: let the few others be seen
        every = change(finite(1))
        low, high = float(every.min()), float(every.max())
    stretch = (lambda part: _scaled(part, low, high)) if high > low else (lambda part: np.zeros(part.shape, np.uint8))
    return np.concatenate([stretch(change(values(rows))) for rows in parts])


def _scaled(values: NDArray[np.floating[Any]], low: float, high: float) -> NDArray[np.uint8]:
    with np.errstate(over="ignore", invalid="ignore"):  # of a value far off, which is cut at 0 or 255
        scaled = (values - low) * (255 / (high - low)) + 0.5
    return np.asarray(np.nan_to_num(scaled).clip(0, 255), np.uint8)


def _percentiles_of_uint8(image: NDArray[np.uint8]) -> tuple[float, float]:
    """``np.percentile(image, PERCENTILES)`` to the last bit, by counting instead of sorting."""
    up_to = np.bincount(image.ravel(), minlength=256).cumsum()  # pixels of at most each value
    rank = (image.size - 1) * (np.array(PERCENTILES) / 100)
    below = np.floor(rank)
    share = rank - below
    a, b = (np.searchsorted(up_to, np.minimum(below + k, image.size - 1), side="right") for k in (0, 1))
    low, high = np.where(share < 0.5, a + (b - a) * share, b - (b - a) * (1 - share))  # as NumPy interpolates
    return float(low), float(high)


def _step(size: tuple[int, ...]) -> int:
    """Every how many pixels of a row, and rows, percentiles are taken from: a few million are enough."""
    return max(1, math.isqrt(size[0] * size[1] // 4_000_000))


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The finite values, thinned to a few million: percentiles need no more."""
    step = _step(values.shape[:2])
    thinned = values[::step, ::step]
    finite = thinned[np.isfinite(thinned)]
    return finite if finite.size else values[np.isfinite(values)]


def _checked(modality: str) -> Modality:
    if modality not in get_args(Modality):
        raise ValueError(f"modality is {modality!r}; it must be optical or sar")
    return cast(Modality, modality)
