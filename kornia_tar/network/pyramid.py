"""Pyramid: large images are matched small first, then looked at again at each larger size; cost grows with pixels.

The first look compares every cell with every other and lets all attend to all; its cost grows with the square of the
pixels. What it finds is needed only as a start: the second look compares a cell with its surroundings alone. So the
first look is taken at images shrunk until comparing all cells costs no more than at 512², and one more look at each
doubling of the size carries its matches to the images as they are. Images up to there are matched as ever.

Ours, not the paper's; coarse-to-fine as in Lucas and Kanade's registration by pyramids (Bouguet 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from kornia_tar.conventions import CELL
from kornia_tar.network.frames import Frame, Matches
from kornia_tar.network.poses import Looks, grow, shrink

COMPARED = 64**4  # cells of one image times cells of the other that the first look compares at most: two of 512²
ATTENDED = 2 * COMPARED  # square of the larger image's cells, which attend to each other
STARTS = 16384  # matches that a look's field is fitted to


class Pyramid(Looks, Protocol):
    """What of the network is used here."""

    def match_whole(
        self, first: Frame, second: Frame, threshold: float, looks: int, turns: int, scales: int
    ) -> Matches:
        """Match images as they are, whatever their size."""


def sizes(first: tuple[int, ...], second: tuple[int, ...]) -> list[float]:
    """List the factors by which two images (…, H, W) are shrunk, from small to 1; 1 alone for small images."""
    cells0, cells1 = (max(1.0, size[-2] * size[-1] / CELL**2) for size in (first, second))
    share = min(COMPARED / (cells0 * cells1), ATTENDED / max(cells0, cells1) ** 2)
    if share >= 1:
        return [1.0]
    factors = [share**0.25]
    while factors[-1] < 1:
        factors.append(min(1.0, 2 * factors[-1]))
    return factors


def match_pyramid(
    net: Pyramid, first: Frame, second: Frame, factors: Sequence[float], looks: int, turns: int, scales: int
) -> Matches:
    """Match large images from small to large.

    Args:
        net: whose looks are taken.
        first: image0 of each pair, its modality known.
        second: image1.
        factors: from :func:`sizes`.
        looks: how many times to match in all, at the smallest size and at the largest; twice at those between.
        turns: as in :func:`kornia_tar.network.poses.match_posed`, at the smallest size.
        scales: likewise.

    Returns:
        Matches of the last look, in the pixels of the images as they are.
    """
    small = tuple(resized(net, frame, factors[0]) for frame in (first, second))
    matches = net.match_whole(small[0], small[1], 0.0, 2, turns, scales)
    for factor in factors[1:]:
        large = tuple(resized(net, frame, factor) for frame in (first, second))
        start = thinned(carry(matches, small, large))
        matches = net.look_on(large[0], large[1], start, looks if factor == 1 else 2)
        small = large
    return matches


def resized(net: Looks, frame: Frame, factor: float) -> Frame:
    """Shrink the images of a frame and encode them."""
    if factor == 1:
        return frame
    image, mask = shrink(frame.image, frame.mask, factor)
    return Frame(image, frame.modality, mask, net.encode(image, frame.modality, mask))


def carry(matches: Matches, small: tuple[Frame, ...], large: tuple[Frame, ...]) -> Matches:
    """Carry matches from a pair of images to the same pair at another size."""
    points0, points1 = (
        grow(points, a.image, b.image)
        for points, a, b in zip((matches.points0, matches.points1), small, large, strict=True)
    )
    return matches._replace(points0=points0, points1=points1)


def thinned(matches: Matches) -> Matches:
    """Keep every k-th match of more than a smooth field needs; k is odd, so that the cells of two rows differ."""
    if len(matches.batch) <= STARTS:  # of all pairs together: no need to ask the device
        return matches
    most = int(torch.bincount(matches.batch, minlength=1).max())
    step = -(-most // STARTS) // 2 * 2 + 1
    return Matches(*(t[::step] for t in matches)) if most > STARTS else matches
