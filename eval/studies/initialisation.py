"""Accuracy and time of the registrar by where it starts: how many rotations and scales are worth it.

Scored is the registrar's own transform, whether it is accepted or not. Time is the process's own on the CPU: with
one thread that of the clock on an idle machine, and hardly more where others want the machine too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmark import metrics
from eval.benchmark.pairs import LevelPairs
from eval.benchmark.protocol import LEVELS, WARPS, Pair
from eval.benchmark.provenance import made_by, provenance
from eval.benchmark.table import PairErrors, Table, motion
from eval.datasets import Dataset
from eval.peers.ours.tar import TAR
from eval.report import deformation, markdown
from eval.report.write import part
from kornia_tar import Registrar, RegistrarConfig, SearchConfig
from kornia_tar.files import write_json, write_text
from kornia_tar.geometry import FloatArray

SINGLE = "TARMatcher, once"  # and the shared estimator, without any registrar
VARIANTS: dict[str, RegistrarConfig] = {
    "upright, one scale": RegistrarConfig(search=SearchConfig(rotations=1, scales=(1.0,))),
    "four rotations, one scale": RegistrarConfig(search=SearchConfig(rotations=4, scales=(1.0,))),
    "four rotations": RegistrarConfig(search=SearchConfig(rotations=4)),
    "default": RegistrarConfig(),
}
PIXELS = (3, 5, 10)


@dataclass(frozen=True)
class Starts:
    """Every variant on the same pairs of one set and level.

    Args:
        dataset: name of the set.
        level: name of the level.
        names: the pairs, N of them.
        motions: (N, 2) true rotation in degrees and scale of each.
        errors: per variant the (N,) mean corner errors in px, inf without a transform.
        seconds: per variant the (N,) CPU seconds of the call, all threads together.
    """

    dataset: str
    level: str
    names: list[str]
    motions: NDArray[np.float64]
    errors: dict[str, NDArray[np.float64]]
    seconds: dict[str, NDArray[np.float64]]

    def rows(self) -> list[dict[str, Any]]:
        """One row a variant: its name, where it starts, SR, median error and seconds."""
        return [
            {"matcher": name, "key": name, "starts": describe(name)}
            | {f"SR@{limit}": metrics.success_rate(errors, limit) for limit in PIXELS}
            | {"median px": float(np.median(errors))}
            | {
                "CPU seconds": float(np.median(self.seconds[name])),
                "mean CPU seconds": float(np.mean(self.seconds[name])),
            }
            for name, errors in self.errors.items()
        ]


def measure(
    dataset: Dataset, level: str, names: Sequence[str], checkpoint: Path | None = None, warps: Path = WARPS,
    tick: Callable[[int], None] = lambda _: None,
) -> Starts:  # fmt: skip
    """Register the named pairs from every start.

    Args:
        dataset: the set.
        level: name of a level.
        names: the pairs.
        checkpoint: TAR's, or None for the shipped one.
        warps: folder of the stored warps.
        tick: told how many more calls are done.

    Raises:
        FileNotFoundError: a set without warps of the level.
    """
    source = LevelPairs.open(dataset, level, warps)
    model = source.model
    matcher = TAR(checkpoint)
    matcher.net.fuse()

    def single(pair: Pair) -> FloatArray | None:
        found = matcher.match(pair.image0, pair.image1, **pair.hints)
        return metrics.estimate(found.points0, found.points1, model)

    def registered(config: RegistrarConfig) -> Callable[[Pair], FloatArray | None]:
        registrar = Registrar(matcher.net, replace(config, model=model))

        def find(pair: Pair) -> FloatArray | None:
            modality0, modality1 = pair.hints.get("modality0"), pair.hints.get("modality1")
            return registrar(pair.image0, pair.image1, modality0=modality0, modality1=modality1).matrix

        return find

    ways = {SINGLE: single} | {name: registered(config) for name, config in VARIANTS.items()}
    errors: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    motions = []
    single(source.pair(names[0]))  # a network's first call is slow for reasons of its own
    for pair in source.each(names):
        motions.append(motion(pair.truth, pair.image0.shape))
        for way, find in ways.items():
            started = time.process_time()
            matrix = find(pair)
            seconds[way].append(time.process_time() - started)
            errors[way].append(metrics.corner_error(matrix, pair.truth, pair.image0.shape))
            tick(1)
    return Starts(
        dataset.name, level, list(names), np.array(motions),
        {way: np.array(found) for way, found in errors.items()},
        {way: np.array(taken) for way, taken in seconds.items()},
    )  # fmt: skip


def describe(variant: str) -> str:
    """Say where a variant starts."""
    if variant == SINGLE:
        return "as the images lie"
    config = VARIANTS[variant].search
    turns = f"{config.rotations} rotation{'s' * (config.rotations > 1)}"
    scales = f"scale{'s' * (len(config.scales) > 1)} " + ", ".join(f"{scale:g}" for scale in config.scales)
    several = len(config.scales) > 1 or config.rotations > 4
    until = "; until one is sure" if several else ""
    return f"{turns}; {scales}{until}; best {config.candidates} compared"


def write(starts: Starts, folder: Path, limit: int | None = None) -> Path:
    """Write ``<set>.<level>.initialisation.md``, ``.json``, ``.png`` (by rotation and scale); return the first's path.

    A partial run has ``.limit<N>`` in the names.
    """
    rows, made = starts.rows(), provenance()
    path = folder / f"{starts.dataset}.{starts.level}.initialisation{part(limit)}.md"
    drawn = LEVELS[starts.level]
    heads = [*(f"SR@{limit}" for limit in PIXELS), "median px", "CPU s", "mean CPU s"]
    lines = [
        f"# Starts, {starts.dataset}, level {starts.level}", "",
        f"{len(starts.names)} pairs; {drawn.describe()}. SR: % of pairs whose mean corner error, of the transform "
        "itself, is below so many px; no transform is an infinite error. CPU seconds of a pair: median and mean, "
        f"{made['threads']} thread(s).", "",
    ]  # fmt: skip
    shown = []
    for row in rows:
        cells = [markdown.percent(row[f"SR@{limit}"]) for limit in PIXELS]
        cells += [markdown.pixels(row["median px"]), f"{row['CPU seconds']:.2f}", f"{row['mean CPU seconds']:.2f}"]
        shown.append([row["matcher"], row["starts"], *cells])
    lines += [*markdown.grid(["variant", "starts", *heads], shown, text=2), "", *made_by(made)]
    write_text(path, "\n".join(lines) + "\n")
    pairs = {"names": starts.names, "motions": starts.motions, "errors": starts.errors, "seconds": starts.seconds}
    configs = {name: asdict(config) for name, config in VARIANTS.items()}
    write_json(path.with_suffix(".json"), {"rows": rows, "configs": configs, "made": made, "pairs": pairs})
    rotations, scales = starts.motions.T
    detail = PairErrors(starts.names, rotations, scales, starts.errors)
    table = Table(
        starts.dataset, starts.level, drawn.describe(), drawn.model, len(starts.names), {}, rows, {}, {}, detail
    )
    deformation.draw(table, path.with_suffix(".png"))
    return path
