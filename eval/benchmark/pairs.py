"""THE loop over the pairs of a set: which of them, moved how, and what tells whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.benchmark import metrics, protocol
from eval.benchmark.protocol import LEVELS, REAL, Matrix, Pair, make_pair, read_warps
from eval.datasets import Dataset, Sample

DRAW = "draw them with 'python -m eval warps'"


@dataclass(frozen=True)
class LevelPairs:
    """The pairs of a set at a level: each sample under its stored warp, or, at ``real``, as the set has it.

    Args:
        dataset: the set.
        level: name of a level, or ``real``.
        warps: matrix by name; None at ``real``.
    """

    dataset: Dataset
    level: str
    warps: dict[str, Matrix] | None

    @classmethod
    def open(cls, dataset: Dataset, level: str, folder: Path | None = None) -> LevelPairs:
        """Read the stored warps of a set and level from a folder, by default ours.

        Raises:
            FileNotFoundError: no warps of the level are stored.
            ValueError: a level that does not exist, or a file of warps that is none of ours.
        """
        return cls(dataset, level, stored_warps(dataset.name, level, folder or protocol.WARPS))

    @property
    def model(self) -> metrics.Model:
        """The transform that the shared estimator fits."""
        return model_of(self.level)

    @property
    def warps_hash(self) -> str:
        """Hash of the warps, see :func:`hash_warps`."""
        return hash_warps(self.warps)

    def pair(self, name: str, change: Callable[[Sample], Sample] = lambda sample: sample) -> Pair:
        """Read one pair.

        Args:
            name: of the sample.
            change: what to do to the sample before it is warped, such as to pair one of its images with itself.

        Raises:
            ValueError: no warp is stored for it, or its images do not suit one.
        """
        if self.warps is not None and name not in self.warps:
            raise ValueError(f"{self.dataset.name}: {name!r} has no stored warp at level {self.level!r}; {DRAW}")
        return make_pair(change(self.dataset.read(name)), None if self.warps is None else self.warps[name])

    def each(self, names: Sequence[str], change: Callable[[Sample], Sample] = lambda sample: sample) -> Iterator[Pair]:
        """Read the named pairs one after the other; ``change`` as in :meth:`pair`.

        Raises:
            ValueError: before the first is read, where some have no stored warp.
        """
        if self.warps is not None and (lacking := [name for name in names if name not in self.warps]):
            raise ValueError(
                f"{self.dataset.name}: {len(lacking)} pairs have no stored warp, first {lacking[0]!r}; {DRAW}"
            )
        return (self.pair(name, change) for name in names)


def subsample(names: Sequence[str], limit: int | None) -> list[str]:
    """Take ``limit`` names spread evenly over the sorted names, or all."""
    names = sorted(names)
    if limit is None or limit >= len(names):
        return names
    return [names[index * len(names) // limit] for index in range(limit)]


def model_of(level: str) -> metrics.Model:
    """Name the transform that the shared estimator fits at a level."""
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
