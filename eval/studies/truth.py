"""How good is the truth of a set whose two images look alike: a third measure, of windows that correlate.

Normalised cross-correlation finds where a window of one optical image lies in another, to a pixel or so, and knows
nothing of truth or matcher. image1 is warped into image0's frame by either of them, windows are slid over it, and the
median of their displacements says how far the ground lies from where it was told. Relief and what has changed move
single windows, not the median; turn and scale are not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.benchmark.cache import cache_path, read_about, read_predictions
from eval.benchmark.metrics import Array, corner_error, estimate
from eval.benchmark.pairs import LevelPairs
from eval.benchmark.protocol import REAL
from eval.benchmark.provenance import made_by, provenance
from eval.datasets import Dataset
from eval.report.markdown import grid
from kornia_tar.geometry import warp_image
from kornia_tar.raster import to_grey

SIDE, REACH = 64, 24  # px of image0, of a window and of its search
LEAST_CORRELATION, LEAST_WINDOWS = 0.5, 12
LIMITS = (1, 3, 5, 10)  # px
FAR = 5.0  # px of image1 between truth and matcher, from which on a pair is listed

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Judged:
    """One pair; inf where nothing was found, or too few windows correlate."""

    name: str
    apart: float  # px of image1, mean over image0's corners, between truth and matcher
    truth_off: float  # px of image0, length of the windows' median displacement under the truth
    matcher_off: float  # under the matcher's result

    @property
    def told(self) -> bool:
        """Whether the windows say something of both."""
        return bool(np.isfinite(self.truth_off + self.matcher_off))


def displacements(image0: Grey, image1: Grey, matrix: Array) -> Array:
    """Find where image0's windows lie in image1 warped by a transform.

    Args:
        image0: (H0, W0).
        image1: (H1, W1), 0 where it shows nothing.
        matrix: (3, 3), image0 → image1, right to within ``REACH`` px of image0.

    Returns:
        (K, 2) px of image0, x before y, of the windows that correlate.
    """
    first = image0.astype(np.float32)
    warped = warp_image(image1.astype(np.float32), matrix, image0.shape)
    shown = warp_image((image1 > 0).astype(np.float32), matrix, image0.shape) > 0.99
    found = []
    for top in range(REACH, image0.shape[0] - SIDE - REACH + 1, SIDE // 2):
        for left in range(REACH, image0.shape[1] - SIDE - REACH + 1, SIDE // 2):
            around = np.s_[top - REACH : top + SIDE + REACH, left - REACH : left + SIDE + REACH]
            window = first[top : top + SIDE, left : left + SIDE]
            if not shown[around].all() or min(window.std(), warped[around].std()) < 2:
                continue
            _, best, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(warped[around], window, cv2.TM_CCOEFF_NORMED))
            if best >= LEAST_CORRELATION:
                found.append((x - REACH, y - REACH))
    return np.array(found, np.float64).reshape(-1, 2)


def judge(name: str, image0: Grey, image1: Grey, truth: Array, matrix: Array | None) -> Judged:
    """Judge one pair; see :class:`Judged`."""
    off = []
    for transform in (truth, matrix):
        moved = np.empty((0, 2)) if transform is None else displacements(image0, image1, transform)
        off.append(float(np.linalg.norm(np.median(moved, axis=0))) if len(moved) >= LEAST_WINDOWS else np.inf)
    return Judged(name, corner_error(matrix, truth, image0.shape), *off)


def measure(dataset: Dataset, matcher: str, cache: Path, tick: Callable[[int], None]) -> list[Judged]:
    """Judge the truth of a set that brings its own, and a matcher's cached results.

    Raises:
        FileNotFoundError: a set without truth; no cached matches.
    """
    source, path = LevelPairs.open(dataset, REAL), cache_path(cache, dataset.name, REAL, matcher)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no matches cached: do 'python -m eval run --matchers {matcher}' first")
    found = []
    for pair, prediction in zip(source.each(dataset.names), read_predictions(path, dataset.names), strict=True):
        matches = prediction.matches
        matrix = estimate(matches.points0, matches.points1, source.model)
        found.append(judge(pair.name, to_grey(pair.image0), to_grey(pair.image1), pair.truth, matrix))
        tick(1)
    return found


def describe(dataset: str, matcher: str, cache: Path, found: Sequence[Judged]) -> str:
    """The result as a text with two tables."""
    about = read_about(cache_path(cache, dataset, REAL, matcher))
    told, rows = [one for one in found if one.told], []
    for who, off in (("truth", [one.truth_off for one in told]), (matcher, [one.matcher_off for one in told])):
        shares = [f"{100 * float(np.mean(np.array(off) < limit)):.1f}" for limit in LIMITS] if told else ["–"] * 4
        rows.append([who, f"{np.median(off):.1f}" if told else "–", *shares])
    far = sorted((one for one in found if one.apart >= FAR), key=lambda one: -one.apart)
    number = lambda value: f"{value:.1f}" if np.isfinite(value) else "–"  # noqa: E731
    listed = [[one.name, *map(number, (one.apart, one.truth_off, one.matcher_off))] for one in far]
    return "\n".join([
        f"# {dataset}: how good is the truth?", "",
        f"Of {len(found)} pairs, the {len(told)} on which at least {LEAST_WINDOWS} windows of {SIDE} px correlate by"
        f" {LEAST_CORRELATION:g} or more, under the truth and under {matcher}'s result. How far the ground lies from"
        " where either says, px of image0, length of the windows' median displacement:", "",
        *grid(("who", "median", *(f"within {limit}, %" for limit in LIMITS)), rows), "",
        f"The pairs, of all, on which truth and matcher are {FAR:g} px of image1 or more apart:", "",
        *grid(("pair", "apart", "truth off", f"{matcher} off"), listed), "",
        f"Matches: {about['settings']}.", "", *made_by(provenance()), "",
    ])  # fmt: skip
