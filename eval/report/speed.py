"""Speed as a table for each group, and as a roofline: how near networks come to what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmark.provenance import made_by
from eval.benchmark.speed.ceiling import Ceiling
from eval.benchmark.speed.contenders import Precision
from eval.benchmark.speed.measure import Result, Row, Spread, groups_of
from eval.report.markdown import amount, grid
from kornia_tar.files import replacing, write_json, write_text

HEADS = ("matcher", "mode", "ms a pair", "pairs/s", "times faster than LoFTR", "peak MiB", "GFLOP", "of the ceiling, %")
LEGEND = (
    "Median of all rounds (least–most); in a round every matcher is called once, and a ratio is that of one round. The "
    "synthetic demo pair, grey, modalities told. Memory on a CPU is that of a process of its own, libraries included; "
    "on an accelerator that of the tensors. GFLOP: products and convolutions of one pair; the ceiling is a large "
    "product of matrices on the same device."
)


def write(folder: Path, name: str, result: Result, made: Mapping[str, Any]) -> list[Path]:
    """Write ``<name>.md``, ``.json`` and, where operations were counted, ``.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table, values = folder / f"{name}.md", folder / f"{name}.json"
    write_text(table, markdown(result, made))
    rows = [asdict(row) for row in result.rows]
    ceilings = {precision: asdict(best) for precision, best in result.ceilings.items()}
    write_json(values, {"rows": rows, "ceilings": ceilings, "not run": result.not_run, "made": dict(made)})
    if not any(row.work for row in result.rows):
        return [table, values]
    return [table, values, draw(result, folder / f"{name}.png")]


def markdown(result: Result, made: Mapping[str, Any]) -> str:
    """Lay the tables out, a group after the other."""
    lines = ["# Speed", "", LEGEND, ""]
    for precision, best in result.ceilings.items():
        lines += [f"- ceiling, {precision}: {best.gflops:.0f} GFLOP/s, {best.gbytes:.0f} GB/s"]
    for group, rows in groups_of(result.rows):
        lines += ["", f"## {group}", "", *grid(HEADS, [_cells(row, result.ceilings) for row in rows], text=2)]
    about = {row.matcher: f"{row.about}; {amount(row.parameters)} parameters" for row in reversed(result.rows)}
    lines += ["", *(f"- {name}: {words}" for name, words in sorted(about.items()))]
    lines += [*(f"- {name}: not run: {reason}" for name, reason in result.not_run.items())]
    return "\n".join([*lines, "", *made_by(dict(made)), f"{made['threads']} thread(s)."]) + "\n"


def _cells(row: Row, ceilings: Mapping[Precision, Ceiling]) -> list[str]:
    rate = row.gflops
    return [
        row.matcher,
        row.mode,
        _told(row.milliseconds, ".0f" if row.milliseconds.least >= 100 else ".1f"),
        f"{row.pairs_per_second:.3g}",
        "–" if row.faster is None else _told(row.faster, ".2f"),
        f"{row.peak_mib:.0f}",
        "–" if row.work is None else f"{row.work.gflop:.1f}",
        "–" if rate is None else f"{100 * rate / ceilings[row.precision].gflops:.1f}",
    ]


def _told(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.least:{form}}–{spread.most:{form}})"


def draw(result: Result, path: Path) -> Path:
    """Write a PNG: each row's rate against its operations a byte, below the roof of each precision."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    known = [row for row in result.rows if row.work and row.gflops]
    intensities = [row.work.gflop / row.work.gbyte for row in known if row.work]
    span = np.geomspace(min(intensities) / 4, max(intensities) * 16, 64)
    for precision, best in result.ceilings.items():
        axes.plot(span, np.minimum(best.gflops, best.gbytes * span), label=f"roof, {precision}", lw=1)
    for row, intensity, marker in zip(known, intensities, "oDs^vPX<>pdhH*" * len(known), strict=False):
        label = f"{row.matcher}, {row.mode}, {row.precision}, {row.size}², {row.batch} at once"
        axes.plot([intensity], [row.gflops or 0.0], marker, label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte of all operators' tensors", ylabel="GFLOP/s")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
