"""The pairs of a set under stored warps: which, moved how, and what tells whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from eval.benchmark import metrics
from eval.benchmark.protocol import LEVELS, REAL, Matrix, read_warps


def subsample(names: Sequence[str], limit: int | None) -> list[str]:
    """Take ``limit`` names spread evenly over the sorted names, or all."""
    names = sorted(names)
    if limit is None or limit >= len(names):
        return names
    return [names[index * len(names) // limit] for index in range(limit)]


def model_of(level: str) -> metrics.Model:
    """The transform that the shared estimator fits."""
    return LEVELS[level].model if level in LEVELS else "affine"


def hash_warps(warps: dict[str, Matrix] | None) -> str:
    """Hash drawn warps, so that what was matched under others is not taken for theirs; None is the set's own truth."""
    if warps is None:
        return REAL
    digest = hashlib.sha256()
    for name in sorted(warps):
        digest.update(name.encode() + warps[name].tobytes())
    return digest.hexdigest()[:16]


def stored_warps(dataset: str, level: str, folder: Path) -> dict[str, Matrix] | None:
    """Read the warps of a set, or return None for the set's own truth."""
    return None if level == REAL else read_warps(dataset, level, folder)
