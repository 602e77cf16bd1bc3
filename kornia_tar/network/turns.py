"""Turns: the first look at quarter turns of one image, for pairs that lie at any angle to each other.

The first look was trained for ±45°. The second looks at the original images through the field of the first one's
matches, which may turn as it likes. So for any angle the first look alone is repeated, on one image turned by 90°, 180°
and 270°, which resamples nothing, and its matches are carried back to the upright image.

A turn's support is how much confidence agrees with the best similarity of its matches. It tells which turn is worth a
second look, not that it is right: chance reached 16 on Sentinel pairs and 32 on 1 m pairs with black corners, true
turns 6 to 200. The second look tells: of true turns it states 0.3 to 0.9 on average, of chance 0.01, seldom above 0.1.
Where it confirms a turn the search ends, so that an upright pair costs nothing more.

Which image turns does not depend on its place, so that swapping the images swaps the result. Ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kornia_tar.conventions import turn_back
from kornia_tar.network.field import best_similarity, pad_matches
from kornia_tar.network.frames import Frame, ImageFeatures, Matches

TURNS = (1, 4)  # that may be asked for
SEEDS = 48  # most confident matches that propose similarities, two by two
WORTH_A_LOOK = 14.0  # support above which the second look is asked before other turns are tried
SURE_SUPPORT = 40.0  # support above which no other turn is tried where there is no second look to ask
SURE_LOOK = 0.25  # mean confidence of the second look above which no other turn is tried
ASKED = 2  # turns, at most, that the second look is asked about, those worth it at once aside


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
    answers = _Answers(net, first, second, upright, looks)
    support, done = answers.stated.new_zeros(4, len(first.image)), answers.asked[0].clone()
    seen: list[Matches] = []
    for quarters in range(4):
        seen.append(_look_turned(net, first, second, ~done, quarters, threshold) if quarters else upright)
        support[quarters] = turn_support(seen[-1], len(done))
        if looks == 1:
            done |= support[quarters] >= SURE_SUPPORT
        else:
            turn = torch.full_like(done, quarters, dtype=torch.long)
            answers.ask(seen, turn, ~done & (support[quarters] >= WORTH_A_LOOK))
            done = answers.stated >= SURE_LOOK
    if looks == 1:
        return choose(seen, support.argmax(0))
    for _ in range(ASKED):
        turn = support.masked_fill(answers.asked, -1.0).argmax(0)
        answers.ask(seen, turn, (answers.stated < SURE_LOOK) & (answers.asked.sum(0) < ASKED))
    return answers.best


class _Answers:
    """The second looks at a batch of pairs, and the best of each pair."""

    def __init__(self, net: Looks, first: Frame, second: Frame, upright: Matches, looks: int) -> None:
        size = len(first.image)
        self._net, self._first, self._second, self._looks = net, first, second, looks
        self.asked = torch.zeros(4, size, dtype=torch.bool, device=first.image.device)  # by turn
        self.stated = torch.full((size,), -1.0, device=first.image.device)  # of the best one, mean confidence
        self.best = Matches(*(t[:0] for t in upright))

    def ask(self, seen: Sequence[Matches], turn: Tensor, wanted: Tensor) -> None:
        """Look on from the matches of one turn (B,) of each pair that is ``wanted`` (B,)."""
        pairs, size = wanted.nonzero().flatten(), len(wanted)
        if not len(pairs):
            return
        self.asked[turn[pairs], pairs] = True
        start = choose(seen, turn).rows(pairs, size)
        found = self._net.look_on(self._first.rows(pairs), self._second.rows(pairs), start, self._looks)
        stated = mean_confidence(found, len(pairs))
        better = torch.zeros_like(turn).index_put((pairs,), (stated > self.stated[pairs]).long())
        self.best = choose((self.best, found._replace(batch=pairs[found.batch])), better)
        self.stated = self.stated.index_put((pairs,), torch.maximum(stated, self.stated[pairs]))


def _look_turned(net: Looks, first: Frame, second: Frame, wanted: Tensor, quarters: int, threshold: float) -> Matches:
    """Take the first look at pairs that are ``wanted`` (B,) with one image turned; points are of the upright images."""
    second_turns = turns_second(first, second)
    parts: list[Matches] = []
    for swap in (False, True):
        pairs = (wanted & (second_turns != swap)).nonzero().flatten()
        still, moving = (side.rows(pairs) for side in ((second, first) if swap else (first, second)))
        if len(pairs):
            found = _look(net, still, moving, quarters, threshold)
            parts.append((found.swapped() if swap else found)._replace(batch=pairs[found.batch]))
    if not parts:
        none = first.image.new_zeros(0, 2, dtype=torch.float32)
        return Matches(none, none, none[:, 0], none[:, 0], none[:, 0].long())
    return Matches(*(torch.cat(t) for t in zip(*parts, strict=True))).sorted()


def _look(net: Looks, still: Frame, moving: Frame, quarters: int, threshold: float) -> Matches:
    """Match with the second image turned counter-clockwise; its points are carried back."""
    turned, mask = (None if t is None else t.rot90(quarters, (2, 3)) for t in (moving.image, moving.mask))
    assert turned is not None
    found = net.match(still.features, net.encode(turned, moving.modality, mask), threshold)
    height, width = moving.image.shape[2:]
    x, y = turn_back(found.points1[:, 0], found.points1[:, 1], quarters, height, width)
    return found._replace(points1=torch.stack([x, y], dim=-1))


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
