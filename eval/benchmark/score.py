"""Score: turn cached matches into a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmark import metrics
from eval.benchmark.cache import Prediction, file_key, read_about, read_digests, read_names, read_predictions
from eval.benchmark.pairs import hash_warps, model_of, stored_warps
from eval.benchmark.protocol import LEVELS, WARPS, Matrix
from eval.benchmark.table import PairErrors, Table, motion
from kornia_tar.geometry import transform_points

BROKEN = ("broke down", "its process died")  # how the reasons begin of matchers that failed while they ran


def cached_names(dataset: str, level: str, folder: Path) -> list[str]:
    """Return the names of all pairs that any matcher's cache of a set and level holds, sorted."""
    return sorted({name for path in _cached(dataset, level, folder) for name in read_names(path)})


def score(
    dataset: str, level: str, folder: Path, names: Sequence[str], not_run: dict[str, str], warps_folder: Path = WARPS
) -> Table:
    """Score every cached matcher of a set and level on the same pairs.

    A matcher whose cache lacks one of the pairs, was made with other warps than those stored now, or with other images
    or truths than the newest cache, gets no row but a line that says so.

    Args:
        dataset: name of the set.
        level: name of the level.
        folder: folder of the caches.
        names: the pairs.
        not_run: matchers that could not be run, with the reason.
        warps_folder: folder of the stored warps.

    Raises:
        FileNotFoundError: when nothing is cached.
    """
    model = model_of(level)
    wanted = hash_warps(stored_warps(dataset, level, warps_folder))
    rows, missing = [], dict(not_run)
    ceiling: dict[str, float] = {}
    borders: Counter[str] = Counter()
    errors: dict[str, Matrix] = {}
    motions: list[tuple[float, float]] = []
    paths = _cached(dataset, level, folder)
    asked = _digests(max(paths, key=lambda path: path.stat().st_mtime), names)  # the last run's questions
    failed = {file_key(name) for name, why in not_run.items() if why.startswith(BROKEN)}
    for path in paths:
        about = read_about(path)
        key = path.name.removeprefix(f"{dataset}.{level}.").removesuffix(".h5")
        lacking = len(set(names) - set(read_names(path)))
        if key in failed:  # what it said with other settings is not what was asked for
            continue
        if about["warps"] != wanted:
            missing[about["matcher"]] = "its cached matches were made with other warps"
        elif lacking:
            missing[about["matcher"]] = f"{lacking} of {len(names)} pairs are not matched yet"
        elif any(was and now and was != now for was, now in zip(_digests(path, names), asked, strict=True)):
            missing[about["matcher"]] = "its cached matches are of other images or another truth; run it again"
        else:
            predictions = read_predictions(path, names)
            scores = [score_prediction(prediction, model) for prediction in predictions]
            rows.append(_row(about, key, predictions, scores))
            errors[key] = np.array([score.corner_error for score in scores])
            motions = motions or [motion(prediction.truth, prediction.shape0) for prediction in predictions]
            ceiling = ceiling or metrics.aggregate([_perfect(prediction, model) for prediction in predictions])
            borders = borders or Counter(prediction.border for prediction in predictions)
            for name in [name for name in missing if file_key(name) == key]:  # matched in an earlier run
                missing.pop(name)
    rows.sort(key=lambda row: (row["AUC@10"], row["AUC@5"], row["NCM"]), reverse=True)
    drawn = LEVELS[level].describe() if level in LEVELS else "the set's own truth"
    rotations, scales = np.array(motions).reshape(-1, 2).T
    detail = PairErrors(list(names), rotations, scales, errors)
    return Table(dataset, level, drawn, model, len(names), dict(borders), rows, ceiling, missing, detail)


def _digests(path: Path, names: Sequence[str]) -> list[str]:
    """The digests of the pairs that a cache answers; '' for those that it lacks."""
    known = read_digests(path)
    return [known.get(name, "") for name in names]


def _cached(dataset: str, level: str, folder: Path) -> list[Path]:
    if files := sorted(folder.glob(f"{dataset}.{level}.*.h5")):
        return files
    raise FileNotFoundError(f"{folder}: no matches cached of set {dataset!r}, level {level!r}: do 'python -m eval run'")


def _row(
    about: dict[str, Any], key: str, predictions: list[Prediction], scores: list[metrics.PairScore]
) -> dict[str, Any]:
    seconds = float(np.median([prediction.seconds for prediction in predictions]))
    told = ("matcher", "settings", "parameters", "predicted", "gflops", "gflops at", "peak MiB")
    about = {name: about[name] for name in told if name in about}
    return metrics.aggregate(scores) | {"seconds": seconds, "key": key} | about


def score_prediction(prediction: Prediction, model: metrics.Model) -> metrics.PairScore:
    """Score what a matcher said of one pair."""
    points0, points1 = prediction.matches.points0, prediction.matches.points1
    return metrics.score_pair(
        points0, points1, prediction.truth, prediction.shape0, model, prediction.tie_points, prediction.matches.accepted
    )


def _perfect(prediction: Prediction, model: metrics.Model) -> metrics.PairScore:
    """Score a grid of true matches: what the shared estimator itself can reach."""
    height, width = prediction.shape0
    grid = np.stack(np.meshgrid(np.arange(4, width, 8), np.arange(4, height, 8)), -1).reshape(-1, 2)
    return metrics.score_pair(grid, transform_points(prediction.truth, grid), prediction.truth, (height, width), model)
