"""The two steps: predict, which matches pairs into caches, and score, which turns caches into a table."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from eval import metrics, report
from eval.cache import Cache, Prediction, cache_path, read_about, read_names, read_predictions
from eval.datasets import Dataset
from eval.peers import Matcher
from eval.protocol import REAL, RUNGS, WARPS, Matrix, make_pair, read_warps


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
) -> None:
    """Match the named pairs of a set with one matcher, into its cache; pairs that are there already stay.

    Args:
        dataset: the set.
        rung: name of a rung, or ``real`` for the set's own truth.
        matcher: the matcher.
        key: the name by which the matcher is asked for; part of the cache's name.
        folder: folder of the caches.
        names: pairs to match.
        warps_folder: folder of the stored warps.
    """
    warps = _warps(dataset.name, rung, warps_folder)
    if warps is not None and (lacking := [name for name in names if name not in warps]):
        raise ValueError(f"{dataset.name}: {len(lacking)} pairs have no stored warp, first {lacking[0]!r}; draw again")
    about = {
        "key": f"{matcher.settings} | warps {_hash(warps)}",
        "warps": _hash(warps),
        "matcher": matcher.name,
        "settings": matcher.settings,
        "parameters": matcher.parameters,
        "predicted": report.provenance(),
    }
    with Cache(cache_path(folder, dataset.name, rung, key), about) as cache:
        todo = [name for name in names if name not in cache.done]
        label = f"{dataset.name}.{rung} {matcher.name}"
        for index, name in enumerate(tqdm(todo, desc=label, unit="pair", file=sys.stderr)):
            pair = make_pair(dataset.read(name), None if warps is None else warps[name])
            if index == 0:  # the first call of a network is slow for reasons of its own
                matcher.match(pair.image0, pair.image1, **pair.hints)
            start = time.perf_counter()
            matches = matcher.match(pair.image0, pair.image1, **pair.hints)
            seconds = time.perf_counter() - start
            height, width = pair.image0.shape[:2]
            cache.add(name, Prediction(matches, pair.truth, (height, width), pair.border, seconds))


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
    model: metrics.Model = RUNGS[rung].model if rung in RUNGS else "affine"
    wanted = _hash(_warps(dataset, rung, warps_folder))
    rows, missing = [], dict(not_run)
    ceiling: dict[str, float] = {}
    borders: Counter[str] = Counter()
    for path in _cached(dataset, rung, folder):
        about = read_about(path)
        lacking = len(set(names) - set(read_names(path)))
        if about["warps"] != wanted:
            missing[about["matcher"]] = "its cached matches were made with other warps"
        elif lacking:
            missing[about["matcher"]] = f"{lacking} of {len(names)} pairs are not matched yet"
        else:
            predictions = read_predictions(path, names)
            rows.append(_row(about, predictions, model))
            ceiling = ceiling or metrics.aggregate([_perfect(prediction, model) for prediction in predictions])
            borders = borders or Counter(prediction.border for prediction in predictions)
    rows.sort(key=lambda row: (row["AUC@10"], row["AUC@5"], row["NCM"]), reverse=True)
    drawn = RUNGS[rung].describe() if rung in RUNGS else "the set's own truth"
    return report.Table(dataset, rung, drawn, model, len(names), dict(borders), rows, ceiling, missing)


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


def _row(about: dict[str, Any], predictions: list[Prediction], model: metrics.Model) -> dict[str, Any]:
    scores = [metrics.score_pair(p.matches.points0, p.matches.points1, p.truth, p.shape0, model) for p in predictions]
    seconds = float(np.median([prediction.seconds for prediction in predictions]))
    about = {key: about[key] for key in ("matcher", "settings", "parameters", "predicted")}
    return metrics.aggregate(scores) | {"seconds": seconds} | about


def _perfect(prediction: Prediction, model: metrics.Model) -> metrics.PairScore:
    """Score a grid of true matches: what the shared estimator itself can reach."""
    height, width = prediction.shape0
    grid = np.stack(np.meshgrid(np.arange(4, width, 8), np.arange(4, height, 8)), -1).reshape(-1, 2)
    return metrics.score_pair(grid, metrics.transform(prediction.truth, grid), prediction.truth, (height, width), model)


def _hash(warps: dict[str, Matrix] | None) -> str:
    if warps is None:
        return REAL
    digest = hashlib.sha256()
    for name in sorted(warps):
        digest.update(name.encode() + warps[name].tobytes())
    return digest.hexdigest()[:16]
