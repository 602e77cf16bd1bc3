"""Poses: the first look at quarter turns of one image, and at either image shrunk, for pairs at any angle and scale.

The first look was trained for ±45° and a relative scale of 1.6. The second looks at the original images through the
field of the first one's matches, which may turn and stretch as it likes. So for any angle the first look alone is
repeated, on one image turned by 90°, 180° and 270°, which resamples nothing, and for large scales on one image at 0.6
of its size. Its matches are carried back to the images as they were.

A pose's support is how much confidence agrees with the best similarity of its matches. It tells which pose is worth a
second look, not that it is right: chance reached 16 on Sentinel pairs and 32 on 1 m pairs with black corners, true
turns 6 to 200. The second look tells: of true poses it states 0.3 to 0.9 on average, of chance 0.01, seldom above 0.1.
Where it confirms a pose the search ends, so that an upright pair of one scale costs nothing more; the shrunk images
come last, for most pairs are of similar scale.

Which image turns does not depend on its place, so that swapping the images swaps the result. Ours, not the paper's.

The host decides what runs next, and waits for a GPU to tell it: of each pose the support and, where the second look is
asked, what that states. It keeps both as plain numbers, not to wait for them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kornia_tar.conventions import turn_back
from kornia_tar.network.field import best_similarity, pad_matches
from kornia_tar.network.frames import Frame, ImageFeatures, Matches, part_of
from kornia_tar.network.points import vector

TURNS, SCALES = (1, 4), (1, 3)  # that may be asked for
SHRINK = 0.6  # of an image's sides: with what the first look follows by itself, relative scales of 0.4 to 2.4
LEAST_SIDE = 32  # px of a shrunk image, four cells; smaller ones say nothing
SEEDS = 48  # most confident matches that propose similarities, two by two
WORTH_A_LOOK = 14.0  # support above which the second look is asked before other poses are tried
SURE_SUPPORT = 40.0  # support above which no other pose is tried where there is no second look to ask
SURE_LOOK = 0.25  # mean confidence of the second look above which no other pose is tried
CONFIRMED = 0.15  # what a shrunk pose must state: chance reached 0.13, and true ones state 0.27 and more
ASKED = 2, 1  # turns, and shrunk poses, at most, that the second look is asked about, those worth it at once aside


class Pose(NamedTuple):
    """How the first look sees a pair: which of the two turns is :func:`turns_second`'s to decide."""

    quarters: int = 0  # counter-clockwise, of the image that turns
    still: float = 1.0  # sides of the other image, of their length
    moving: float = 1.0  # sides of the image that turns


class Looks(Protocol):
    """What of the network is used here."""

    def encode(self, image: Tensor, modality: Tensor | None, mask: Tensor | None = None) -> ImageFeatures:
        """Encode one image of each pair."""

    def match(self, a: ImageFeatures, b: ImageFeatures, threshold: float = 0.0) -> Matches:
        """Look for the first time."""

    def look_on(self, first: Frame, second: Frame, matches: Matches, looks: int) -> Matches:
        """Look as often as remains."""


def match_posed(
    net: Looks,
    first: Frame,
    second: Frame,
    upright: Matches,
    threshold: float = 0.0,
    looks: int = 1,
    turns: int = 4,
    scales: int = 3,
) -> Matches:
    """Match pairs that may be turned against each other by any angle, and differ in scale.

    Args:
        net: whose looks are taken.
        first: image0 of each pair, its modality known.
        second: image1.
        upright: matches of the first look at the images as they are.
        threshold: of the first look, see :meth:`kornia_tar.network.net.TARNet.forward`.
        looks: 1, or how many times to match in all.
        turns: 1, or 4 for the quarter turns.
        scales: 1, or 3 to shrink either image too.

    Returns:
        Matches of the best pose of each pair, in the pixels of the images as they are.
    """
    search = _Search(net, first, second, threshold, looks)
    quarters = range(turns)
    search.over([Pose(k) for k in quarters], ASKED[0], {Pose(): upright})
    sides = [side for frame in (first, second) for side in frame.image.shape[2:]]
    if scales > 1 and min(sides) * SHRINK >= LEAST_SIDE:
        shrunk = [Pose(k, *factors) for factors in ((SHRINK, 1.0), (1.0, SHRINK)) for k in quarters]
        search.over(shrunk, ASKED[1], least=CONFIRMED)
    return search.result


class _Search:
    """First looks at poses of a batch of pairs, and the answer to each pair."""

    def __init__(self, net: Looks, first: Frame, second: Frame, threshold: float, looks: int) -> None:
        self._net, self._first, self._second, self._threshold, self._looks = net, first, second, threshold, looks
        self._answers = _Answers(net, first, second, looks)
        self._size = len(first.image)
        self._most = [-1.0] * self._size  # support of each pair's best pose

    @cached_property
    def _second_turns(self) -> list[bool]:
        """Whether image1 of each pair turns, else image0; not asked for where no pair needs another pose."""
        return turns_second(self._first, self._second).tolist()

    @property
    def _open(self) -> list[int]:
        """Pairs that need another pose."""
        values, sure = (self._most, SURE_SUPPORT) if self._looks == 1 else (self._answers.stated, SURE_LOOK)
        return [pair for pair, value in enumerate(values) if value < sure]

    @property
    def result(self) -> Matches:
        """Matches of the best pose of each pair."""
        return self._answers.best

    def over(
        self, poses: Sequence[Pose], most: int, known: Mapping[Pose, Matches] | None = None, least: float = -1.0
    ) -> None:
        """Look at each pair in these poses until one is confirmed; ask the second look about ``most`` of them.

        Args:
            poses: in this order.
            most: as said, those of much support aside.
            known: first looks that were taken before.
            least: mean confidence that the second look must state for an answer to count.
        """
        seen: list[Matches] = []
        support: list[list[float]] = []  # by pose, by pair
        asked: list[set[int]] = []  # pairs, by pose
        for pose in poses:
            pairs = self._open
            if not pairs:
                return
            matches = (known or {}).get(pose)
            seen.append(self._look(pose, pairs) if matches is None else matches)
            support.append(turn_support(seen[-1], self._size).tolist())
            if self._looks == 1:
                self._keep(seen[-1], support[-1])
            else:
                asked.append({pair for pair in pairs if support[-1][pair] >= WORTH_A_LOOK})
                self._answers.ask(seen[-1], sorted(asked[-1]), least)
        for _ in range(most if self._looks > 1 else 0):
            best: dict[int, int] = {}  # pair: its next pose
            for pair in self._open:
                others = [k for k in range(len(poses)) if pair not in asked[k]]
                if others and len(poses) - len(others) < most:
                    best[pair] = max(others, key=lambda k: support[k][pair])
                    asked[best[pair]].add(pair)
            if not best:
                return
            self._answers.ask(choose(seen, [best.get(pair, -1) for pair in range(self._size)]), list(best), least)

    def _keep(self, matches: Matches, support: Sequence[float]) -> None:
        """Without a second look the pose of most support is the answer."""
        better = [new > old for new, old in zip(support, self._most, strict=True)]
        self._answers.best = choose((self._answers.best, matches), better)
        self._most = [max(both) for both in zip(support, self._most, strict=True)]

    def _look(self, pose: Pose, pairs: Sequence[int]) -> Matches:
        """Take the first look at some pairs in a pose; points are of the images as they are."""
        parts: list[Matches] = []
        for swap in (False, True):
            some = [pair for pair in pairs if self._second_turns[pair] != swap]
            if not some:
                continue
            part = part_of(some, self._size, self._first.image.device)
            sides = (self._second, self._first) if swap else (self._first, self._second)
            still, moving = (side.rows(part) for side in sides)
            found = look_posed(self._net, still, moving, pose, self._threshold)
            parts.append((found.swapped() if swap else found).placed(part))
        return parts[0] if len(parts) == 1 else join(parts).sorted()


class _Answers:
    """The second looks at a batch of pairs, and the best of each pair."""

    def __init__(self, net: Looks, first: Frame, second: Frame, looks: int) -> None:
        self._net, self._first, self._second, self._looks = net, first, second, looks
        self.stated = [-1.0] * len(first.image)  # of the best answer to each pair, mean confidence
        self.best = no_matches(first.image)

    def ask(self, start: Matches, pairs: Sequence[int], least: float = -1.0) -> None:
        """Look on from these matches of some pairs, ascending; an answer below ``least`` does not count."""
        if not pairs:
            return
        size = len(self.stated)
        part = part_of(pairs, size, self._first.image.device)
        found = self._net.look_on(self._first.rows(part), self._second.rows(part), start.rows(pairs, size), self._looks)
        better = [False] * size
        for pair, stated in zip(pairs, mean_confidence(found, len(pairs)).tolist(), strict=True):
            if stated > self.stated[pair] and stated >= least:
                self.stated[pair], better[pair] = stated, True
        self.best = choose((self.best, found.placed(part)), better)


def look_posed(net: Looks, still: Frame, moving: Frame, pose: Pose, threshold: float = 0.0) -> Matches:
    """Take the first look at pairs in a pose; its points are carried back to the images as they are."""
    still_image, still_mask = shrink(still.image, still.mask, pose.still)
    features = still.features if pose.still == 1 else net.encode(still_image, still.modality, still_mask)
    image, mask = shrink(moving.image, moving.mask, pose.moving)
    turned, turned_mask = (None if t is None else t.rot90(pose.quarters, (2, 3)) for t in (image, mask))
    assert turned is not None
    found = net.match(features, net.encode(turned, moving.modality, turned_mask), threshold)
    x, y = turn_back(found.points1[:, 0], found.points1[:, 1], pose.quarters, *image.shape[2:])
    points1 = grow(torch.stack([x, y], dim=-1), image, moving.image)
    return found._replace(points0=grow(found.points0, still_image, still.image), points1=points1)


def shrink(image: Tensor, mask: Tensor | None, factor: float) -> tuple[Tensor, Tensor | None]:
    """Shrink images (B, 1, H, W) and their masks; what a mask hides has no part in its neighbours' means."""
    if factor == 1:
        return image, mask
    size = [round(factor * side) for side in image.shape[2:]]

    def smaller(values: Tensor) -> Tensor:  # in float32: half precision has no such kernel on a CPU
        return F.interpolate(values.float(), size, mode="bilinear", antialias=True)

    if mask is None:
        return smaller(image).to(image.dtype), None
    share, sums = smaller(mask), smaller(image.masked_fill(mask <= 0, 0.0))
    inside = share >= 0.5
    return (sums / share.clamp_min(0.5)).masked_fill(~inside, 0.0).to(image.dtype), inside.to(mask.dtype)


def grow(points: Tensor, small: Tensor, image: Tensor) -> Tensor:
    """Carry points (N, 2) px of a shrunk image to a larger one; pixel centres are at integers."""
    if small.shape == image.shape:
        return points
    ratio = vector(points, image.shape[3] / small.shape[3], image.shape[2] / small.shape[2])
    return (points + 0.5) * ratio - 0.5


def no_matches(like: Tensor) -> Matches:
    """Make an empty list of matches on the device of an image."""
    none = like.new_zeros(0, 2, dtype=torch.float32)
    return Matches(none, none, none[:, 0], none[:, 0], none[:, 0].long())


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
    values = matches.points0, matches.points1, matches.confidence
    with torch.no_grad(), torch.autocast(matches.confidence.device.type, enabled=False):
        points0, points1, confidence = pad_matches(matches.batch, values, size, matches.longest(size))
        return best_similarity(points0, points1, confidence, SEEDS)[1]


def mean_confidence(matches: Matches, size: int) -> Tensor:
    """Average over each of ``size`` pairs' matches: (B,), 0 where there are none."""
    total = torch.zeros(size, device=matches.batch.device).index_add(
        0, matches.batch, matches.confidence.detach().float()
    )
    return total / matches.counts(size).clamp_min(1)


def choose(lists: Sequence[Matches], which: Sequence[int]) -> Matches:
    """Join, of each pair, the matches of that list which ``which`` names; of none where it names none."""
    if len(set(which)) == 1 and which[0] >= 0:  # as of a single pair: there is nothing to take apart
        return lists[which[0]]
    number = torch.cat([torch.full_like(matches.batch, k) for k, matches in enumerate(lists)])
    joined = join(lists)
    return joined.take(torch.tensor(which, device=number.device)[joined.batch] == number)


def join(lists: Sequence[Matches]) -> Matches:
    """Put lists one behind the other."""
    return Matches(*(torch.cat(t) for t in zip(*lists, strict=True)))
