"""Matchers to compare, one file each: ``classical``, ``learned``, ``ours``; ``base`` says what one is.

How to add one: CONTRIBUTING.md.
"""

from eval.peers.base import Image, Matcher, Matches, count, to_tensor
from eval.peers.registry import FAMILIES, NAMES, check, create, describe
from eval.peers.store import MatcherUnavailable, Store, digest, load_strictly, read_weights

__all__ = [
    "FAMILIES",
    "NAMES",
    "Image",
    "Matcher",
    "MatcherUnavailable",
    "Matches",
    "Store",
    "check",
    "count",
    "create",
    "describe",
    "digest",
    "load_strictly",
    "read_weights",
    "to_tensor",
]  # fmt: skip
