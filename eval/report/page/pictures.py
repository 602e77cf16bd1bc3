"""The pictures of a report: a matcher's best, typical and worst pairs, with match lines and checkerboards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmark import metrics
from eval.benchmark.cache import Prediction, cache_path, read_predictions
from eval.benchmark.protocol import REAL, make_pair
from eval.benchmark.table import Table
from eval.datasets import Dataset
from kornia_tar.geometry import valid_mask, warp_image
from kornia_tar.outputs.drawing import Picture, draw_matches, fit, paste, subsample, to_rgb
from kornia_tar.outputs.drawing import checkerboard as in_fields

GRADES = (3.0, 10.0)  # px: a match is right, near or wrong
COLOURS = ((64, 190, 255), (255, 214, 64), (255, 92, 56))  # right, near, wrong; in the page's CSS too
LINES = 60
_SIDE = 320  # px, longer side of each image
_GAP = 6


@dataclass(frozen=True)
class Answer:
    """What one matcher made of a pair.

    Args:
        key: the row's key.
        matcher: its name.
        error: mean corner error, px; inf for a failure.
        matches: number of matches.
        grades: number of them that are right, near and wrong.
        lines: both images and a sample of the matches between them.
        board: checkerboard of image0 and image1 resampled by the estimated model; None where there is none.
    """

    key: str
    matcher: str
    error: float
    matches: int
    grades: tuple[int, int, int]
    lines: Picture
    board: Picture | None


@dataclass(frozen=True)
class Example:
    """One pair, as it is and as matchers answered it.

    Args:
        label: why it is shown, such as "best".
        name: the pair's name.
        rotation: of the truth, degrees.
        scale: of the truth.
        images: image0, image1, and their checkerboard by the truth.
        answers: the leading matcher's first.
    """

    label: str
    name: str
    rotation: float
    scale: float
    images: tuple[Picture, Picture, Picture]
    answers: list[Answer]


def choose(errors: NDArray[np.float64], names: Sequence[str]) -> list[tuple[str, int]]:
    """Choose the best, the median and the two worst pairs by error, as (label, index); each pair once."""
    order = sorted(range(len(names)), key=lambda index: (errors[index], names[index]))
    wanted = [("best", 0), ("typical", (len(order) - 1) // 2), ("worst", -1), ("second worst", -2)]
    chosen: dict[int, str] = {}
    for label, place in wanted:
        if -len(order) <= place:
            chosen.setdefault(order[place], label)
    return [(label, index) for index, label in chosen.items()]


def contenders(table: Table) -> list[dict[str, Any]]:
    """Return the rows whose answers are shown: the leading matcher and the next; identity only where it is alone."""
    return [row for row in table.plotted if row["matcher"] != "identity"][:2] or table.plotted[:1]


def examples(table: Table, dataset: Dataset, cache: Path) -> list[Example]:
    """Draw the example pairs of a table; the matches come from the caches, the images from the set."""
    rows = contenders(table)
    if table.detail is None or not rows:
        return []
    detail = table.detail
    chosen = choose(detail.errors[rows[0]["key"]], detail.names)
    names = [detail.names[index] for _, index in chosen]
    said = [read_predictions(cache_path(cache, table.dataset, table.level, row["key"]), names) for row in rows]
    drawn = []
    for place, (label, index) in enumerate(chosen):
        # A stored truth is the drawn warp itself; a set with its own truth is read as it is.
        truth = said[0][place].truth
        pair = make_pair(dataset.read(names[place]), None if table.level == REAL else truth)
        image0, image1 = to_rgb(pair.image0), to_rgb(pair.image1)
        answers = [
            _answer(row, detail.errors[row["key"]][index], predictions[place], image0, image1, table.model)
            for row, predictions in zip(rows, said, strict=True)
        ]
        images = (_fit(image0), _fit(image1), _fit(checkerboard(image0, image1, truth)))
        motion = float(detail.rotations[index]), float(detail.scales[index])
        drawn.append(Example(label, names[place], *motion, images, answers))
    return drawn


def checkerboard(image0: Picture, image1: Picture, matrix: NDArray[np.float64]) -> Picture:
    """Lay fields of image1, resampled into the frame of image0 by a matrix image0 -> image1, over image0 in turn."""
    size = image0.shape[0], image0.shape[1]
    shown = valid_mask(np.ones(image1.shape[:2], bool), matrix, size)
    return in_fields(image0, warp_image(image1, matrix, size), shown, least=4)


def lines(image0: Picture, image1: Picture, points0: Any, points1: Any, errors: NDArray[np.float64]) -> Picture:
    """Draw both images side by side and an even sample of at most ``LINES`` matches, coloured by their error."""
    left, right = _fit(image0), _fit(image1)
    canvas = np.full((max(left.shape[0], right.shape[0]), left.shape[1] + _GAP + right.shape[1], 3), 128, np.uint8)
    on0 = paste(canvas, left, (0, 0), image0.shape[1])
    on1 = paste(canvas, right, (left.shape[1] + _GAP, 0), image1.shape[1])
    chosen = subsample(np.arange(len(errors)), LINES)
    colours = np.array(COLOURS)[np.searchsorted(GRADES, errors[chosen], side="right")]
    start, end = (np.asarray(points)[chosen] for points in (points0, points1))
    return draw_matches(canvas, on0, on1, start, end, colours, opacity=0.85)


def _answer(
    row: dict[str, Any], error: float, said: Prediction, image0: Picture, image1: Picture, model: Any
) -> Answer:
    points0, points1 = said.matches.points0, said.matches.points1
    errors = metrics.match_errors(points0, points1, said.truth)
    grades = np.bincount(np.searchsorted(GRADES, errors, side="right"), minlength=3)
    matrix = metrics.estimate(points0, points1, model)
    return Answer(
        key=row["key"],
        matcher=row["matcher"],
        error=float(error),
        matches=len(errors),
        grades=(int(grades[0]), int(grades[1]), int(grades[2])),
        lines=lines(image0, image1, points0, points1, errors),
        board=None if matrix is None else _fit(checkerboard(image0, image1, matrix)),
    )


def _fit(image: Picture) -> Picture:
    return fit(image, _SIDE, _SIDE)
