"""Predict: match the pairs of a set with one matcher, into its cache."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from eval.benchmark.cache import Cache, Prediction, cache_path
from eval.benchmark.pairs import LevelPairs
from eval.benchmark.protocol import WARPS, Pair
from eval.benchmark.provenance import provenance
from eval.benchmark.speed.ceiling import count_flops
from eval.benchmark.speed.memory import peak_memory
from eval.datasets import Dataset
from eval.peers import Matcher, MatcherUnavailable, digest


def predict(
    dataset: Dataset,
    level: str,
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
        level: name of a level, or ``real`` for the set's own truth.
        matcher: the matcher.
        key: the name by which the matcher is asked for; part of the cache's name.
        folder: folder of the caches.
        names: pairs to match.
        warps_folder: folder of the stored warps.
        tick: told how many more pairs are done.

    Raises:
        MatcherUnavailable: when the matcher breaks down on a pair; what it matched before stays.
    """
    pairs = LevelPairs.open(dataset, level, warps_folder)
    about = {
        "key": f"{matcher.settings} | warps {pairs.warps_hash} | adapter {_code(matcher)}",
        "warps": pairs.warps_hash,
        "matcher": matcher.name,
        "settings": matcher.settings,
        "parameters": matcher.parameters,
        "predicted": provenance(),
    }
    with Cache(cache_path(folder, dataset.name, level, key), about) as cache:
        warm = False
        for pair in pairs.each(names):
            if cache.holds(pair.name, pair.digest):
                tick(1)
                continue
            hints = {**pair.hints, "model": pairs.model}
            try:
                if not warm:  # the first call of a network is slow for reasons of its own
                    first = partial(matcher.match, pair.image0.copy(), pair.image1, **hints)  # some remember an image0
                    about |= {"gflops": count_flops(first) / 1e9, "gflops at": _sizes(pair)}
                    warm = True
                start = time.process_time()  # of all threads of this process: what else runs here does not count
                matches = matcher.match(pair.image0, pair.image1, **hints)
                seconds = time.process_time() - start
            except Exception as error:
                raise MatcherUnavailable(f"broke down on {pair.name}: {type(error).__name__}: {error}") from error
            about["peak MiB"] = peak_memory()
            shape0 = (pair.image0.shape[0], pair.image0.shape[1])
            found = Prediction(matches, pair.truth, shape0, pair.border, seconds, pair.digest, pair.tie_points)
            cache.add(pair.name, found)
            tick(1)


def _code(matcher: Matcher) -> str:
    """Hash the files that a matcher's classes stand in, and ours that they use: a changed adapter runs anew."""
    files: set[str] = set()
    one: Any = matcher
    while one is not None:  # a matcher from a rotation search holds the one that it asks
        for kind in type(one).__mro__:
            module = sys.modules.get(kind.__module__)
            users = [] if module is None else vars(module).values()
            parts = [module, *(value if inspect.ismodule(value) else inspect.getmodule(value) for value in users)]
            ours = (part for part in parts if part is not None and (part is module or _is_adapter(part)))
            files |= {str(part.__file__) for part in ours if getattr(part, "__file__", None)}
        one = getattr(one, "_matcher", None)
    return digest(*(Path(file) for file in sorted(files) if Path(file).is_file()))


def _is_adapter(module: Any) -> bool:
    return getattr(module, "__name__", "").startswith("eval.peers.")


def _sizes(pair: Pair) -> str:
    return " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (pair.image0, pair.image1))


def set_threads(threads: int) -> None:
    """Bound the threads of torch and OpenCV."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
