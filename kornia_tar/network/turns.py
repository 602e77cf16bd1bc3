"""Turns: the first look at quarter turns of one image, for pairs that lie at any angle to each other.

The first look was trained for ±45°. The second looks at the original images through the field of the first one's
matches, which may turn as it likes. So for any angle the first look alone is repeated, on one image turned by 90°, 180°
and 270°, which resamples nothing, and its matches are carried back to the upright image.

A turn's support is how much confidence agrees with the best similarity of its matches. On 256² pairs chance reached 16
and a true turn most often 40 to 200: support above ``SURE_SUPPORT`` ends the search, so that an upright pair costs
nothing more. Below, true turns and chance ones overlap, and the second look is asked, turn after turn in the order of
their support: of true ones it states 0.3 to 0.9 on average, of chance 0.01, at most 0.11.

Which image turns does not depend on its place, so that swapping the images swaps the result. Ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kornia_tar.network.field import best_similarity, pad_matches
from kornia_tar.network.frames import Frame, ImageFeatures, Matches

TURNS = (1, 4)  # that may be asked for
SEEDS = 48  # most confident matches that propose similarities, two by two
SURE_SUPPORT = 20.0  # beyond chance, confidence of that many matches
SURE_LOOK = 0.25  # beyond chance, mean confidence of the second look
TRIED = 3  # turns, at most, that the second look is asked about


class Looks(Protocol):
    """What of the network is used here."""

    def encode(self, image: Tensor, modality: Tensor | None, mask: Tensor | None = None) -> ImageFeatures:
        """Encode one image of each pair."""

    def match(self, a: ImageFeatures, b: ImageFeatures, threshold: float = 0.0) -> Matches:
        """Look for the first time."""

    def look_on(self, first: Frame, second: Frame, matches: Matches, looks: int) -> Matches:
        """Look as often as remains."""


def match_turned(
    net: Looks, first: Frame, second: Frame, upright: Matches, threshold: float = 0.0, looks: int = 1
) -> Matches:
    """Match pairs that may be turned against each other by any angle.

    Args:
        net: whose looks are taken.
        first: image0 of each pair, its modality known.
        second: image1.
        upright: matches of the first look at the images as they are.
        threshold: of the first look, see :meth:`kornia_tar.network.net.TARNet.forward`.
        looks: 1, or how many times to match in all.

    Returns:
        Matches of the best turn of each pair, in the pixels of the upright images.
    """
    size = len(first.image)
    seen, support = look_at_turns(net, first, second, upright, threshold)
    order = support.sort(dim=0, descending=True, stable=True).indices  # (4, B)
    best = choose(seen, order[0])
    if looks == 1:
        return best
    best = net.look_on(first, second, best, looks)
    stated = mean_confidence(best, size)
    for turn in order[1:TRIED]:
        unsure = (stated < SURE_LOOK) & (support.amax(0) < SURE_SUPPORT)
        pairs = (unsure & (support.gather(0, turn[None])[0] > 0)).nonzero().flatten()
        if not len(pairs):
            continue
        start = choose(seen, turn).rows(pairs, size)
        found = net.look_on(first.rows(pairs), second.rows(pairs), start, looks)
        better = mean_confidence(found, len(pairs)) > stated[pairs]
        other = torch.zeros_like(turn).index_put((pairs,), better.long())
        found = found._replace(batch=pairs[found.batch])
        best = choose((best, found), other)
        stated = mean_confidence(best, size)
    return best


def look_at_turns(
    net: Looks, first: Frame, second: Frame, upright: Matches, threshold: float = 0.0
) -> tuple[list[Matches], Tensor]:
    """Take first looks at quarter turns until one is beyond chance, pair by pair.

    Args:
        net: as in :func:`match_turned`, as the others.
        first: image0 of each pair.
        second: image1.
        upright: matches without a turn.
        threshold: of the first look.

    Returns:
        Matches without a turn and turned by 90°, 180° and 270°, in pixels of the upright images; and the support of
        each (4, B), 0 where nobody looked.
    """
    size = len(first.image)
    seen = [upright]
    support = torch.zeros(4, size, device=first.image.device)
    support[0] = turn_support(upright, size)
    second_turns = turns_second(first, second)
    for quarters in (1, 2, 3):
        unsure = support.amax(0) < SURE_SUPPORT
        parts = [upright.rows(unsure.nonzero()[:0, 0], size)]  # none
        for swap in (False, True):
            pairs = (unsure & (second_turns != swap)).nonzero().flatten()
            if not len(pairs):
                continue
            still, moving = (second, first) if swap else (first, second)
            found = _look(net, still.rows(pairs), moving.rows(pairs), quarters, threshold)
            support[quarters, pairs] = turn_support(found, len(pairs))
            found = found.swapped() if swap else found
            parts.append(found._replace(batch=pairs[found.batch]))
        seen.append(Matches(*(torch.cat(t) for t in zip(*parts, strict=True))).sorted())
    return seen, support


def _look(net: Looks, still: Frame, moving: Frame, quarters: int, threshold: float) -> Matches:
    """Match with the second image turned counter-clockwise; its points are carried back."""
    turned, mask = (None if t is None else t.rot90(quarters, (2, 3)) for t in (moving.image, moving.mask))
    assert turned is not None
    found = net.match(still.features, net.encode(turned, moving.modality, mask), threshold)
    height, width = moving.image.shape[2:]
    return found._replace(points1=turn_back(found.points1, quarters, height, width))


def turn_back(points: Tensor, quarters: int, height: int, width: int) -> Tensor:
    """Carry points (N, 2) px of ``image.rot90(quarters)`` to pixels of ``image`` (height, width)."""
    x, y = points.unbind(-1)
    back = ((x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x))
    return torch.stack(back[quarters % 4], dim=-1)


def turns_second(first: Frame, second: Frame) -> Tensor:
    """Decide which image of each pair turns, whichever place it has: (B,) bool, True for ``second``.

    The smaller one, which takes less time; of two alike the one that looks more like SAR; else the one that is darker
    at the first pixel where they differ.
    """
    extents = [(f.image.shape[2] * f.image.shape[3], f.image.shape[2]) for f in (first, second)]
    size = len(first.image)
    if extents[0] != extents[1]:
        return torch.full((size,), extents[1] < extents[0], device=first.image.device)
    images = [f.image if f.mask is None else f.image * f.mask for f in (first, second)]
    darker = (images[0] - images[1]).flatten(1).sign()
    darker = darker.gather(1, darker.abs().argmax(1, keepdim=True))[:, 0]
    assert first.modality is not None and second.modality is not None
    radar = second.modality[:, 1] - first.modality[:, 1]
    return torch.where(radar == 0, darker > 0, radar > 0)


def turn_support(matches: Matches, size: int) -> Tensor:
    """Sum the confidence that agrees with the best similarity of each of ``size`` pairs: (B,)."""
    most = max(1, int(torch.bincount(matches.batch, minlength=1).max()))
    values = matches.points0, matches.points1, matches.confidence
    with torch.no_grad(), torch.autocast(matches.confidence.device.type, enabled=False):
        points0, points1, confidence = pad_matches(matches.batch, values, size, most)
        return best_similarity(points0, points1, confidence, SEEDS)[1]


def mean_confidence(matches: Matches, size: int) -> Tensor:
    """Average over each of ``size`` pairs' matches: (B,), 0 where there are none."""
    total = torch.zeros(size, device=matches.batch.device).index_add(
        0, matches.batch, matches.confidence.detach().float()
    )
    return total / torch.bincount(matches.batch, minlength=size).clamp_min(1)


def choose(lists: Sequence[Matches], which: Tensor) -> Matches:
    """Join, of each pair, the matches of that list which ``which`` (B,) names."""
    parts = [Matches(*(t[which[m.batch] == k] for t in m)) for k, m in enumerate(lists)]
    return Matches(*(torch.cat(t) for t in zip(*parts, strict=True))).sorted()
