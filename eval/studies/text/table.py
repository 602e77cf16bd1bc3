"""The ablation's table and picture: mean and spread of each row, and its difference to the row without text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.benchmark.provenance import provenance
from eval.report.markdown import grid
from eval.studies.text.single_pass import FIGURES
from kornia_tar.files import replacing, write_json, write_text

DRAWN = ("SR@10", "precision@3", "precision@8", "loss")


class Spread(NamedTuple):
    """Values of a few seeds."""

    mean: float
    deviation: float  # standard deviation over seeds; NaN for a single one
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and sample deviation."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)) if values else math.nan, deviation, tuple(values))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(max(len(self.values), 1))


def spread(results: Sequence[Mapping[str, Any]], row: str, exam: str, figure: str) -> Spread:
    """A figure of a row over its seeds."""
    return Spread.of(list(_by_seed(results, row, exam, figure).values()))


def difference(results: Sequence[Mapping[str, Any]], row: str, plain: str, exam: str, figure: str) -> Spread:
    """A row's figure minus the plain row's of the same seed, over the seeds that both have."""
    own, other = (_by_seed(results, key, exam, figure) for key in (row, plain))
    return Spread.of([own[seed] - other[seed] for seed in own if seed in other])


def write(
    folder: Path, name: str, results: Sequence[Mapping[str, Any]], labels: Mapping[str, str], plain: str, about: str
) -> Path:
    """Write ``<name>.md``, ``.json`` and ``.png``.

    Args:
        folder: where to.
        name: of the files.
        results: one entry per run: row, seed, and figures by exam.
        labels: what the rows are called, in the table's order; rows without a run are left out.
        plain: the row that the others are compared with.
        about: what was done, in a few sentences.

    Returns:
        the path of the Markdown.
    """
    made = provenance()
    rows = [key for key in labels if any(result["row"] == key for result in results)]
    exams = list(results[0]["figures"])
    lines = ["## What text brings", "", about, "", *(f"- {key}: {meaning}" for key, meaning in FIGURES.items()), ""]
    for exam in exams:
        lines += [f"### {exam}: mean ± standard deviation over seeds", ""]
        lines += _grid(rows, labels, results, lambda row, key: spread(results, row, exam, key), False)  # noqa: B023
        lines += ["", f"### {exam}: difference to {labels[plain]}, paired by seed ± standard error", ""]
        others = [row for row in rows if row not in (plain, "base")]
        lines += _grid(others, labels, results, lambda row, key: difference(results, row, plain, exam, key), True)  # noqa: B023
        lines += [""]
    lines += [f"Made by `{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['date']}.", ""]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {"runs": list(results), "labels": dict(labels), "made": made})
    draw(folder / f"{name}.png", results, {row: labels[row] for row in rows if row != "base"}, plain)
    return write_text(folder / f"{name}.md", "\n".join(lines))


def draw(path: Path, results: Sequence[Mapping[str, Any]], labels: Mapping[str, str], plain: str) -> Path:
    """Write a PNG: each row's difference to the plain one, a dot per seed, mean and standard error."""
    from matplotlib.figure import Figure

    exams, rows = list(results[0]["figures"]), [row for row in labels if row != plain]
    figure = Figure(figsize=(4 + 2.6 * len(DRAWN), 0.8 + (0.9 + 0.24 * len(rows)) * len(exams)), layout="constrained")
    panels = figure.subplots(len(exams), len(DRAWN), squeeze=False, sharey=True)
    for exam, across in zip(exams, panels, strict=True):
        for key, axes in zip(DRAWN, across, strict=True):
            axes.axvline(0, color="grey", linewidth=1)
            for place, row in enumerate(rows):
                found = difference(results, row, plain, exam, key)
                axes.plot(found.values, [place] * len(found.values), "o", color="tab:blue", alpha=0.35, markersize=4)
                error = None if math.isnan(found.error) else found.error
                axes.errorbar(found.mean, place, xerr=error, fmt="D", color="tab:blue", capsize=3, markersize=4)
            base = spread(results, plain, exam, key)
            axes.set_title(f"{exam}\n{key} − {labels[plain]}'s {base.mean:.3g}", fontsize=8)
            axes.set_yticks(range(len(rows)), [labels[row] for row in rows], fontsize=7)
            axes.tick_params(axis="x", labelsize=7)
            axes.grid(axis="x", alpha=0.3)
    panels[0][0].invert_yaxis()  # shared by all
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def _by_seed(results: Sequence[Mapping[str, Any]], row: str, exam: str, figure: str) -> dict[int, float]:
    found = {r["seed"]: r["figures"][exam][figure] for r in results if r["row"] == row}
    return {seed: math.nan if value is None else float(value) for seed, value in sorted(found.items())}


def _grid(rows: Sequence[str], labels: Mapping[str, str], results: Any, value: Any, signed: bool) -> list[str]:
    cells = []
    for row in rows:
        found = [value(row, key) for key in FIGURES]
        figures = [_cell(s, 3 if key == "loss" else 1, signed) for s, key in zip(found, FIGURES, strict=True)]
        cells.append([labels[row], str(len(found[0].values)), *figures])
    return grid(["text", "seeds", *FIGURES], cells)


def _cell(found: Spread, digits: int, signed: bool) -> str:
    form, width = ("+" if signed else "") + f".{digits}f", found.error if signed else found.deviation
    return f"{found.mean:{form}}" + ("" if math.isnan(width) else f" ± {width:.{digits}f}")
