"""The two steps: predict, which matches pairs into caches, and score, which turns caches into a table."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from eval import metrics, report
from eval.cache import Cache, Prediction, cache_path, read_about, read_names, read_predictions
from eval.datasets import Dataset
from eval.peers import Matcher, NotRun
from eval.protocol import REAL, RUNGS, WARPS, Matrix, Pair, make_pair, read_warps
from eval.speed import peak_memory


def thin(names: Sequence[str], limit: int | None) -> list[str]:
    """Take ``limit`` names spread evenly over the sorted names, or all."""
    names = sorted(names)
    if limit is None or limit >= len(names):
        return names
    return [names[index * len(names) // limit] for index in range(limit)]


def predict(
    dataset: Dataset,
    rung: str,
    matcher: Matcher,
    key: str,
    folder: Path,
    names: Sequence[str],
    warps_folder: Path = WARPS,
    tick: Callable[[int], None] = lambda number: None,
) -> None:
    """Match the named pairs of a set with one matcher, into its cache; answers to the same pairs stay.

    Args:
        dataset: the set.
        rung: name of a rung, or ``real`` for the set's own truth.
        matcher: the matcher.
        key: the name by which the matcher is asked for; part of the cache's name.
        folder: folder of the caches.
        names: pairs to match.
        warps_folder: folder of the stored warps.
        tick: told how many more pairs are done.

    Raises:
        NotRun: when the matcher breaks down on a pair; what it matched before stays.
    """
    warps = _warps(dataset.name, rung, warps_folder)
    if warps is not None and (lacking := [name for name in names if name not in warps]):
        raise ValueError(f"{dataset.name}: {len(lacking)} pairs have no stored warp, first {lacking[0]!r}; draw again")
    about = {
        "key": f"{matcher.settings} | warps {hash_warps(warps)}",
        "warps": hash_warps(warps),
        "matcher": matcher.name,
        "settings": matcher.settings,
        "parameters": matcher.parameters,
        "predicted": report.provenance(),
    }
    with Cache(cache_path(folder, dataset.name, rung, key), about) as cache:
        warm = False
        for name in names:
            pair = make_pair(dataset.read(name), None if warps is None else warps[name])
            if cache.holds(name, pair.digest):
                tick(1)
                continue
            hints = {**pair.hints, "model": model_of(rung)}
            try:
                if not warm:  # the first call of a network is slow for reasons of its own
                    with FlopCounterMode(display=False) as counter:
                        matcher.match(pair.image0, pair.image1, **hints)
                    warm = True
                    about |= {"gflops": counter.get_total_flops() / 1e9, "gflops at": _sizes(pair)}
                start = time.perf_counter()
                matches = matcher.match(pair.image0, pair.image1, **hints)
                seconds = time.perf_counter() - start
            except Exception as error:
                raise NotRun(f"broke down on {name}: {type(error).__name__}: {error}") from error
            about["peak MiB"] = peak_memory()
            shape0 = (pair.image0.shape[0], pair.image0.shape[1])
            cache.add(name, Prediction(matches, pair.truth, shape0, pair.border, seconds, pair.digest, pair.tie_points))
            tick(1)


def model_of(rung: str) -> metrics.Model:
    """The transform that the shared estimator fits."""
    return RUNGS[rung].model if rung in RUNGS else "affine"


def _sizes(pair: Pair) -> str:
    return " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (pair.image0, pair.image1))


def cached_names(dataset: str, rung: str, folder: Path) -> list[str]:
    """Return the names of all pairs that any matcher's cache of a set and rung holds, sorted."""
    return sorted({name for path in _cached(dataset, rung, folder) for name in read_names(path)})


def score(
    dataset: str, rung: str, folder: Path, names: Sequence[str], not_run: dict[str, str], warps_folder: Path = WARPS
) -> report.Table:
    """Score every cached matcher of a set and rung on the same pairs.

    A matcher whose cache lacks one of the pairs, or was made with other warps than those stored now, gets no row but a
    line that says so.

    Args:
        dataset: name of the set.
        rung: name of the rung.
        folder: folder of the caches.
        names: the pairs.
        not_run: matchers that could not be run, with the reason.
        warps_folder: folder of the stored warps.

    Raises:
        FileNotFoundError: when nothing is cached.
    """
    model = model_of(rung)
    wanted = hash_warps(_warps(dataset, rung, warps_folder))
    rows, missing = [], dict(not_run)
    ceiling: dict[str, float] = {}
    borders: Counter[str] = Counter()
    errors: dict[str, Matrix] = {}
    motions: list[tuple[float, float]] = []
    for path in _cached(dataset, rung, folder):
        about = read_about(path)
        lacking = len(set(names) - set(read_names(path)))
        if about["warps"] != wanted:
            missing[about["matcher"]] = "its cached matches were made with other warps"
        elif lacking:
            missing[about["matcher"]] = f"{lacking} of {len(names)} pairs are not matched yet"
        else:
            predictions = read_predictions(path, names)
            scores = [score_prediction(prediction, model) for prediction in predictions]
            key = path.name.removeprefix(f"{dataset}.{rung}.").removesuffix(".h5")
            rows.append(_row(about, key, predictions, scores))
            errors[key] = np.array([score.corner_error for score in scores])
            motions = motions or [report.motion(prediction.truth, prediction.shape0) for prediction in predictions]
            ceiling = ceiling or metrics.aggregate([_perfect(prediction, model) for prediction in predictions])
            borders = borders or Counter(prediction.border for prediction in predictions)
            missing.pop(key, None)  # matched in an earlier run
    rows.sort(key=lambda row: (row["AUC@10"], row["AUC@5"], row["NCM"]), reverse=True)
    drawn = RUNGS[rung].describe() if rung in RUNGS else "the set's own truth"
    rotations, scales = np.array(motions).reshape(-1, 2).T
    detail = report.PairErrors(list(names), rotations, scales, errors)
    return report.Table(dataset, rung, drawn, model, len(names), dict(borders), rows, ceiling, missing, detail)


def hash_warps(warps: dict[str, Matrix] | None) -> str:
    """Hash drawn warps, so that what was matched under others is not taken for theirs; None is the set's own truth."""
    if warps is None:
        return REAL
    digest = hashlib.sha256()
    for name in sorted(warps):
        digest.update(name.encode() + warps[name].tobytes())
    return digest.hexdigest()[:16]


def set_threads(threads: int) -> None:
    """Bound the threads of torch and OpenCV."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _cached(dataset: str, rung: str, folder: Path) -> list[Path]:
    if files := sorted(folder.glob(f"{dataset}.{rung}.*.h5")):
        return files
    raise FileNotFoundError(f"{folder}: no matches cached of set {dataset!r}, rung {rung!r}: do 'python -m eval run'")


def _warps(dataset: str, rung: str, folder: Path) -> dict[str, Matrix] | None:
    return None if rung == REAL else read_warps(dataset, rung, folder)


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
    return metrics.score_pair(points0, points1, prediction.truth, prediction.shape0, model, prediction.tie_points)


def _perfect(prediction: Prediction, model: metrics.Model) -> metrics.PairScore:
    """Score a grid of true matches: what the shared estimator itself can reach."""
    height, width = prediction.shape0
    grid = np.stack(np.meshgrid(np.arange(4, width, 8), np.arange(4, height, 8)), -1).reshape(-1, 2)
    return metrics.score_pair(grid, metrics.transform(prediction.truth, grid), prediction.truth, (height, width), model)
