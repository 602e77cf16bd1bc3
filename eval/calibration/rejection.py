"""How often the registrar trusts what it must not, images of different places, and what that costs on true pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from eval.benchmark.provenance import provenance
from eval.calibration.outcomes import Outcome
from eval.report.markdown import grid
from kornia_tar.files import write_json, write_text


def summary(true: Sequence[Outcome], mismatched: Sequence[Outcome]) -> dict[str, float]:
    """The figures, shares in percent."""
    errors = np.array([np.inf if o.error is None else o.error for o in true])
    kept = np.array([o.registered for o in true])
    estimates = np.array([o.estimate for o in true])
    ratio = errors[kept] / estimates[kept] if kept.any() else np.array([np.nan])
    return {
        "true pairs": len(true),
        "SR@3": 100 * float((errors < 3).mean()),
        "SR@5": 100 * float((errors < 5).mean()),
        "SR@3 registered": 100 * float((kept & (errors < 3)).mean()),
        "SR@5 registered": 100 * float((kept & (errors < 5)).mean()),
        "registered but 10 px off or more": 100 * float((kept & (errors >= 10)).mean()),
        "true error over estimate, median": float(np.median(ratio)),
        "error within twice the estimate": 100 * float((ratio < 2).mean()),
        "mismatched pairs": len(mismatched),
        "mismatched registered": 100 * float(np.mean([o.registered for o in mismatched])),
        "seconds, true": float(np.median([o.seconds for o in true])),
        "seconds, mismatched": float(np.median([o.seconds for o in mismatched])),
    }


def write(folder: Path, dataset: str, level: str, true: Sequence[Outcome], mismatched: Sequence[Outcome]) -> Path:
    """Write ``<set>.<level>.rejection.json`` and ``.md``; returns the latter's path."""
    figures = summary(true, mismatched)
    rows = {"true": [asdict(o) for o in true], "mismatched": [asdict(o) for o in mismatched]}
    content = {"figures": figures, "made": provenance(), **rows}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{dataset}.{level}.rejection.json", content)
    lines = [
        f"## Rejection, {dataset}, level {level}", "",
        "The Registrar's own transform on true pairs, all and those that it accepts, and on mismatched ones.", "",
        *grid(("figure", "value"), ([name, f"{value:.4g}"] for name, value in figures.items())),
    ]  # fmt: skip
    return write_text(folder / f"{dataset}.{level}.rejection.md", "\n".join(lines) + "\n")
