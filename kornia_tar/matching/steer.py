"""Steering: words that decide which cells of an image have a vote, and how much it counts.

After a flood the water's edge is not where it was, and what moves or floats says nothing about the ground. Whoever
knows that can say so: ``ignore=["water"]`` takes cells that more likely than not bear such a word out of the matching,
and lets the others count by how surely they bear none; ``prefer=["road"]`` lets cells count by how surely they bear
such a word, others to a fifth. It acts wherever cells vote: in the field that the first look's matches fit, in the
second look, and in the Registrar's alignment. It is off unless asked for, and what confidence means was fitted with it
off. ``python -m eval study steering`` measures what it brings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kornia_tar.network.frames import Steering
from kornia_tar.network.net import TARNet
from kornia_tar.text import find_words


def make_steering(
    net: TARNet, names: Sequence[str], ignore: Sequence[str] = (), prefer: Sequence[str] = ()
) -> Steering | None:
    """Turn words into what the network is steered by.

    Args:
        net: with a land-cover head.
        names: the words of its text.
        ignore: words, or groups of :data:`kornia_tar.text.GROUPS`, whose cells do not count.
        prefer: words or groups whose cells count for more.

    Returns:
        the steering; None where no word is given.

    Raises:
        TypeError: one string instead of a list of them.
        ValueError: weights without a land-cover head, an unknown word, or one that is ignored and preferred.
    """
    for option, words in (("ignore", ignore), ("prefer", prefer)):
        if isinstance(words, str):
            raise TypeError(f"{option} must be a list of words, got {words!r}: put it in a list")
    if not ignore and not prefer:
        return None
    if net.landcover is None:
        raise ValueError(
            "these weights have no land-cover head, so words cannot steer: train one with "
            "'kornia-tar train --only words', or take weights that have it"
        )
    without, more = find_words(ignore, names), find_words(prefer, names)
    if both := [name for name in more if name in without]:
        raise ValueError(f"{', '.join(map(repr, both))} cannot be both ignored and preferred")
    device = net.landcover.words.device
    return Steering(*(torch.tensor([name in chosen for name in names], device=device) for chosen in (without, more)))
