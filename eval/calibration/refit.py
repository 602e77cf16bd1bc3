"""Fit all that depends on the weights, by one plan: confidence, tie points' errors, acceptance.

The checkpoint that is given is only read. The confidence goes into a copy of it, for acceptance rests on what the copy
states; what acceptance rests on is then as it will ship. The same command goes on from what is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from eval.calibration import acceptance, confidence
from eval.calibration.acceptance import Plan
from eval.datasets import one_set
from kornia_tar.files import replacing

CALIBRATED_ON = "val-000.tar"
LEVEL, MATCHED, REGISTERED = "tar", 200, 80  # of the confidence and the tie points
KINDS = (  # paths below the folder of all data
    Plan("bench/srif-day-night", "real", 40, 5),
    Plan("bench/srif-opt-depth", "real", 40, 5),
    Plan("bench/srif-opt-ir", "real", 40, 7),
    Plan("bench/srif-opt-map", "real", 40, 14),
    Plan("bench/srif-opt-opt", "real", 40, 5),
    Plan("bench/srif-opt-sar", "real", 60, 30),
    Plan("val-000.tar", "hard", 100, 24),
    Plan("val-000.tar", "tar", 50, 40),
    Plan("val-000.tar", "tar", 16, 16, 128),
)


def refit(
    checkpoint: Path, data: Path, target: Path, out: Path, cache: Path, tick: Callable[[int], None] = lambda _: None
) -> list[Path]:
    """Fit confidence, tie points' errors and acceptance to a checkpoint, and write it with them.

    Args:
        checkpoint: the weights; never written.
        data: folder of the data sets.
        target: the checkpoint with its fits; appears when all is fitted.
        out: folder of the tables.
        cache: folder of what is kept: matches, outcomes, and the half-fitted copy.
        tick: told how many more pairs are done, of :func:`count_pairs`.

    Returns:
        the tables that were written.

    Raises:
        ValueError: ``target`` is the checkpoint itself; a set is not what the plan needs.
        FileNotFoundError: no such checkpoint or set.
    """
    if target.exists() and target.samefile(checkpoint):
        raise ValueError(f"{target} is the checkpoint that is read; name another file, and replace it by hand")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: no such folder")
    dataset = one_set(data / CALIBRATED_ON)
    cache.mkdir(parents=True, exist_ok=True)
    half_fitted = cache / f"{checkpoint.stem}.calibrated.safetensors"
    todo = confidence.plans(dataset.names, MATCHED, REGISTERED)
    rows, fits = confidence.judge(confidence.collect(dataset, LEVEL, todo, checkpoint, cache, tick))
    tables = [confidence.write(out, dataset.name, LEVEL, rows, fits)]
    with replacing(half_fitted) as temporary:
        shutil.copyfile(checkpoint, temporary)
        words = f"to {dataset.name}, level {LEVEL}, {MATCHED} pairs, {REGISTERED} of them registered"
        confidence.store(temporary, words, matches=fits.matches, tie_points=fits.tie_points)
    kinds = acceptance.collect([replace(plan, path=data / plan.path) for plan in KINDS], half_fitted, cache, tick)
    tables.append(acceptance.write(out, kinds, 0.9))
    with replacing(target) as temporary:
        shutil.copyfile(half_fitted, temporary)
        confidence.store(temporary, "to " + ", ".join(kind.name for kind in kinds), registration=acceptance.fit(kinds))
    return tables


def count_pairs(data: Path) -> int:
    """Count the pairs that :func:`refit` matches and registers."""
    dataset = one_set(data / CALIBRATED_ON)
    matched = sum(len(plan.names) for plan in confidence.plans(dataset.names, MATCHED, REGISTERED))
    return matched + sum(plan.pairs for plan in KINDS)
