"""What a data set is: named samples of an optical image and another one of the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """An optical image and another image of the same place.

    Args:
        name: unique within its set.
        optical: (H, W) or (H, W, 3) uint8.
        other: (H, W) uint8.
        modality: what ``other`` is: "sar", or another word such as "infrared".
        truth: (3, 3) matrix that maps optical to other where the set knows it; None for images aligned as they are,
            and where there are only tie points.
        meta: whatever else the set says of the pair.
        tie_points: (N, 4) points x0, y0 in optical and x1, y1 in other that show the same spot, in pixels with centres
            at integers; None where the set has none.
    """

    name: str
    optical: NDArray[np.uint8]
    other: NDArray[np.uint8]
    modality: str = "sar"
    truth: NDArray[np.float64] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    tie_points: NDArray[np.float64] | None = None


class Dataset(Protocol):
    """A named set of samples, read one at a time."""

    @property
    def name(self) -> str:
        """The set's name, by which warps, caches and tables are called."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The samples' names, sorted."""
        ...

    def read(self, name: str) -> Sample:
        """Read one sample by its name."""
        ...


class Reader(Protocol):
    """A class of sets that can find its own layout.

    ``SPLITS`` are the names of its official parts; ``HOW`` says what it is, where to get it and where to put it.
    """

    SPLITS: ClassVar[tuple[str, ...]]
    HOW: ClassVar[str]

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> Sequence[Dataset]:
        """Open the sets of this layout at a path; none where the layout is another."""
        ...
