"""How much of the error is the labels': one pair, warped in two independent ways, registered twice.

What a matcher gets wrong by chance differs between two warps of a pair: other turns, scales, pixels. What is wrong in
the pair's own alignment, that is in the truth, moves with the ground. So the displacement that both results share,
looked at in image0's frame, is the labels' error (or a mistake that the matcher makes about this ground whatever the
warp, which no number of warps tells from it); what differs is the matcher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.benchmark.cache import Prediction, cache_path, read_about, read_names, read_predictions
from eval.benchmark.metrics import Array, corner_error, estimate, success_rate
from eval.benchmark.pairs import model_of
from eval.benchmark.provenance import provenance
from eval.report import markdown
from kornia_tar.geometry import TransformModel, fit_least_squares, transform_points

NEAR = 10.0  # px of the mean corner error, within which a result says something of the labels
TRUTHS: tuple[TransformModel | None, ...] = (None, "similarity", "affine")
PIXELS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Labels:
    """What two warps of N pairs say of each other.

    Args:
        levels: the two; the second is scored.
        shifts: (2, M, 2) px of image0, mean displacement of the ground under each level's result, of the M pairs that
            both got within ``NEAR``.
        errors: per truth the (N,) mean corner errors under the second level, px; "stored", and the stored one corrected
            by what the first level's result says, as far as that model goes.
        accepted: (N,) bool, what the matcher itself accepts under the second level; all where it does not decide.
    """

    levels: tuple[str, str]
    shifts: Array
    errors: dict[str, Array]
    accepted: NDArray[np.bool_]

    @property
    def correlation(self) -> tuple[float, float]:
        """Of the two shifts over pairs, in x and in y."""
        first, second = self.shifts
        x, y = (float(np.corrcoef(first[:, axis], second[:, axis])[0, 1]) for axis in (0, 1))
        return x, y


def measure(dataset: str, levels: tuple[str, str], matcher: str, folder: Path) -> Labels:
    """Compare a matcher's cached results under two levels, on the pairs that both caches hold.

    Raises:
        FileNotFoundError: a cache that is not there.
        ValueError: one level twice; caches of two versions of the matcher; fewer than 10 pairs that both levels got
            within ``NEAR``.
    """
    if levels[0] == levels[1]:
        raise ValueError(f"two different levels are needed, got {levels[0]} twice")
    paths = [cache_path(folder, dataset, level, matcher) for level in levels]
    for path, level in zip(paths, levels, strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no matches cached: do 'python -m eval run --level {level}' first")
    settings = [read_about(path)["settings"] for path in paths]
    if settings[0] != settings[1]:
        raise ValueError(
            f"{dataset}: {matcher} was another under {levels[0]} ({settings[0]}) than under {levels[1]} ({settings[1]})"
        )
    names = sorted(set(read_names(paths[0])) & set(read_names(paths[1])))
    shifts: list[list[Array]] = []
    errors: dict[str, list[float]] = {_name(model): [] for model in TRUTHS}
    accepted: list[bool] = []
    for first, second in zip(*(read_predictions(path, names) for path in paths), strict=True):
        matrix0, matrix1 = _fit(first, levels[0]), _fit(second, levels[1])
        moved0, moved1 = _moved(matrix0, first), _moved(matrix1, second)
        if moved0 and moved1:
            shifts.append([(there - here).mean(axis=0) for here, there in (moved0, moved1)])
        accepted.append(second.matches.accepted is not False)
        for model in TRUTHS:
            step = fit_least_squares(*moved0, model) if moved0 and model else None
            truth = second.truth if step is None else second.truth @ step
            errors[_name(model)].append(corner_error(matrix1, truth, second.shape0))
    if len(shifts) < 10:
        raise ValueError(f"{dataset}: {len(shifts)} pairs within {NEAR:g} px under both levels are too few")
    by_truth = {key: np.array(all_) for key, all_ in errors.items()}
    return Labels(levels, np.array(shifts).transpose(1, 0, 2), by_truth, np.array(accepted))


def describe(found: Labels, dataset: str, matcher: str) -> str:
    """The result as a text with a table."""
    made, (first, second) = provenance(), found.levels
    length = lambda shift: f"{np.median(np.linalg.norm(shift, axis=-1)):.2f}"  # noqa: E731
    x, y = found.correlation
    rows = [
        [
            name,
            *(markdown.percent(success_rate(errors, limit)) for limit in PIXELS),
            str(int((found.accepted & ~(errors < PIXELS[-1])).sum())),
        ]
        for name, errors in found.errors.items()
    ]
    return "\n".join(
        [
            f"## {dataset}: how much of the error is the labels'",
            "",
            f"Matcher `{matcher}`, the same pairs under `{first}` and `{second}`, two independent warps. Mean"
            f" displacement of the ground against the truth, px of image0, of {found.shifts.shape[1]} pairs within"
            f" {NEAR:g} px under both: median length {length(found.shifts[0])} and {length(found.shifts[1])},"
            f" of their difference {length(found.shifts[0] - found.shifts[1])};"
            f" correlation {x:.2f} in x, {y:.2f} in y.",
            "",
            f"Success under `{second}`, all {len(found.errors[_name(None)])} pairs:",
            "",
            *markdown.grid(
                ["truth", *(f"SR@{limit}" for limit in PIXELS), f"accepted though {PIXELS[-1]} px off"], rows
            ),
            "",
            f"Made by `{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['date']}.",
            "",
        ]
    )


def _name(model: str | None) -> str:
    return "stored" if model is None else f"corrected by the other warp's result, {model}"


def _fit(prediction: Prediction, level: str) -> Array | None:
    return estimate(prediction.matches.points0, prediction.matches.points1, model_of(level))


def _moved(matrix: Array | None, prediction: Prediction) -> tuple[Array, Array] | None:
    """Points of image0 that image1 shows, (N, 2), and where by the estimate they lie; None for an estimate far off."""
    truth, (height, width) = prediction.truth, prediction.shape0
    if matrix is None or corner_error(matrix, truth, prediction.shape0) >= NEAR:
        return None
    grid = np.stack(np.meshgrid(np.arange(4, width, 8), np.arange(4, height, 8)), -1).reshape(-1, 2).astype(float)
    there = transform_points(truth, grid)
    grid = grid[((there >= 0) & (there <= (width - 1, height - 1))).all(axis=1)]  # warped images have image0's size
    return (grid, transform_points(np.linalg.inv(truth), transform_points(matrix, grid))) if len(grid) >= 8 else None
