"""What a matcher states where there is nothing to find: noise, flat ground, images of different places.

Whoever takes matches above some confidence for right meets such pairs in every archive. All matches on them are wrong,
so that a confidence that means what it says is near zero on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.benchmark.pairs import LevelPairs, subsample
from eval.benchmark.provenance import made_by, provenance
from eval.datasets import Dataset
from eval.peers import Image, Matcher
from eval.report.markdown import grid
from kornia_tar.files import write_text

SIDE = 256  # px
SURE = 0.5
NOISE = ("white noise", "noise of 4 px grains", "noise of 16 px grains", "speckle", "flat ground")
PLACES = "images of different places"


@dataclass(frozen=True)
class Stated:
    """What was stated of the pairs of one kind.

    Args:
        kind: what the pairs show.
        sure: matches above ``SURE``, of each pair.
        mean: mean confidence of each pair's matches; 0 without any.
    """

    kind: str
    sure: list[int]
    mean: list[float]


def draw_noise(kind: str, seed: int) -> Image:
    """Draw (SIDE, SIDE) uint8 of one of ``NOISE``."""
    rng = np.random.default_rng(seed)
    if kind == "speckle":  # five looks
        values: NDArray[np.float64] = rng.gamma(5, 1 / 5, (SIDE, SIDE)) / 3
    elif kind == "flat ground":
        values = np.full((SIDE, SIDE), rng.uniform(0.2, 0.8))
    else:
        grain = {"white noise": 1, "noise of 4 px grains": 4, "noise of 16 px grains": 16}[kind]
        small = rng.uniform(0, 1, (SIDE // grain, SIDE // grain))
        values = np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    return np.asarray(values.clip(0, 1) * 255, np.uint8)


def questions(dataset: Dataset, level: str, places: int, noises: int) -> Iterator[tuple[str, Image, Image]]:
    """Draw ``noises`` pairs of each kind of noise, and read ``places`` pairs of two places, half the set apart."""
    for kind in NOISE:
        for k in range(noises):
            yield kind, draw_noise(kind, 2 * k), draw_noise(kind, 2 * k + 1)
    source, names = LevelPairs.open(dataset, level), sorted(dataset.names)
    for name in subsample(names, places):
        other = names[(names.index(name) + len(names) // 2) % len(names)]
        yield PLACES, source.pair(name).image0, source.pair(other).image1


def measure(
    matcher: Matcher, dataset: Dataset, level: str, places: int, noises: int, tick: Callable[[int], None]
) -> list[Stated]:
    """Match all questions, optical with SAR; ``tick`` is told of each."""
    found: dict[str, Stated] = {}
    for kind, image0, image1 in questions(dataset, level, places, noises):
        confidence = matcher.match(image0, image1, modality0="optical", modality1="sar").confidence
        row = found.setdefault(kind, Stated(kind, [], []))
        row.sure.append(int((confidence > SURE).sum()))
        row.mean.append(float(confidence.mean()) if len(confidence) else 0.0)
        tick(1)
    return list(found.values())


def write(found: list[Stated], name: str, title: str, path: Path) -> Path:
    """Write the table as Markdown."""
    rows = [
        [row.kind, str(len(row.sure)), f"{np.mean(row.sure):.2f}", str(max(row.sure)),
         str(sum(count == 0 for count in row.sure)), f"{np.mean(row.mean):.3f}"]
        for row in found
    ]  # fmt: skip
    heads = ("pairs of", "pairs", f"matches above {SURE:g} a pair", "most", "pairs without any", "mean confidence")
    lines = [f"# {name} where there is nothing to find", "", title, "", *grid(heads, rows), "", *made_by(provenance())]
    return write_text(path, "\n".join(lines) + "\n")
