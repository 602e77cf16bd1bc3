"""Hear what a transform was not fitted to: the second look's opinion, and how much more the cells gain than at a decoy.

How much cells gain depends on the sensors: 0.3 nats are much between a map and a photograph, and chance gains 0.1
between two cities. A decoy tells what chance gains here: image1 turned by half a circle on the same ground, so that
nothing can be right, and then aligned as freely as the truth was.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.geometry import FloatArray, Transform, blocks, compose, invert
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.agreement import block_agreement, trimmed_gain
from kornia_tar.registration.alignment.evidence import DisplacementMaps
from kornia_tar.registration.alignment.fit import align
from kornia_tar.registration.alignment.tiled import TileEncoder

BLOCK = 1024  # px, of the ground that is looked at at once for where both images show it


class Testimony(NamedTuple):
    """What was said of a transform."""

    agreement: float  # mean probability of a cell to lie within 3 px, of the second look; nan without one
    excess_gain: float  # nats per cell more than at the decoy
    trimmed_excess: float  # the same without the fifth of the cells that gains most, of either
    block_agreement: float  # share of 6×6 blocks whose cells gain more than at the decoy; nan where too few for blocks


def hear(first: MaskedImage, second: MaskedImage, transform: Transform, encoder: TileEncoder, side: int) -> Testimony:
    """Ask the cells of both images, where both show the ground.

    Args:
        first: image0.
        second: image1.
        transform: image0 → image1.
        encoder: looks at them.
        side: px, longest side of what is looked at; larger ground is reduced.

    Returns:
        what they say; nothing, which is 0, where no cell shows both.
    """
    view, to_view = _common_ground(first, second, transform)
    view, to_small = view.reduced(side)
    to_view = compose(to_view, to_small)
    at = transform.after(invert(to_view), view.size)
    warped = second.warped(at, view.size)
    shown = view.mask & warped.mask
    if not shown.any():
        return Testimony(0.0, 0.0, 0.0, 0.0)
    features, there = encoder.encode(view), encoder.encode(warped, again=False)
    agreement = math.nan
    if encoder.looks_twice:
        sure = encoder.confidence(features, there)
        agreement = float(sure.mean()) if len(sure) else 0.0
    turned = second.warped(at.after(_half_turn(shown), view.size), view.size)
    decoy = encoder.encode(turned, again=False)
    (points, gains), (_, chance) = (_gains(encoder.compare(features, other), view.size) for other in (there, decoy))
    if not len(gains) or not len(chance):
        return Testimony(agreement, 0.0, 0.0, 0.0)
    usual = float(chance.mean())
    return Testimony(
        agreement, float(gains.mean()) - usual, trimmed_gain(gains) - trimmed_gain(chance),
        block_agreement(points, gains - usual),
    )  # fmt: skip


def _gains(maps: tuple[DisplacementMaps, DisplacementMaps], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The cells' places (K, 2), and their gains (K,) at the affine transform near the identity that gains most."""
    points = torch.cat([part.points for part in maps])
    return points, align(*maps, "affine", size).gains if len(points) else points[:, 0]


def _common_ground(
    first: MaskedImage, second: MaskedImage, transform: Transform
) -> tuple[MaskedImage, FloatArray]:  # fmt: skip
    """The box of image0 that image1 shows, too, and the matrix from image0's pixels to the box's."""
    seen_at = np.zeros(first.size[0], bool), np.zeros(first.size[1], bool)
    for part in blocks(first.size, BLOCK):
        shown = first.mask[part] & second.shown(transform, first.size, part)
        for axis in (0, 1):
            seen_at[axis][part[axis]] |= shown.any(axis=1 - axis)
    cuts = []
    for line in seen_at:
        seen, length = np.flatnonzero(line), len(line)
        low, high = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, length)
        low = max(0, min(low, length - MIN_SIDE))
        cuts.append(slice(low, max(high, low + MIN_SIDE)))
    rows, columns = cuts
    return first.cut(rows, columns), np.array([[1.0, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]])


def _half_turn(shown: NDArray[np.bool_]) -> FloatArray:
    """By half a circle about the middle of what is shown, so that it stays there."""
    y, x = (float(part.mean()) for part in np.nonzero(shown))
    return np.array([[-1.0, 0, 2 * x], [0, -1, 2 * y], [0, 0, 1]])
