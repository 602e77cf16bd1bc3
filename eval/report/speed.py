"""Speed as a table for each group, and as a roofline: how near networks come to what the device can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmark.provenance import made_by
from eval.benchmark.speed.ceiling import Ceiling
from eval.benchmark.speed.contenders import Precision
from eval.benchmark.speed.measure import Result, Row, Spread, plain
from eval.report.markdown import amount, grid
from kornia_tar.files import replacing, write_json, write_text

HEADS = ("matcher", "mode", "ms a pair", "pairs/s", "times faster than LoFTR", "peak MiB", "GFLOP", "of the ceiling, %")
LEGEND = (
    "Median of all rounds (least–most); in a round every matcher is called once, and a ratio is that of one round. The "
    "synthetic demo pair, grey, modalities told, the same pair as often as there are at once. *Nothing to find*: "
    "image1 mirrored, so that all turns and scales are tried. Of random weights LoFTR and EfficientLoFTR find next to "
    "no match, and their fine stage is idle. Memory on a CPU is that of a process of its own, libraries included; on "
    "CUDA that of weights and tensors. GFLOP: products, convolutions and attention of one pair; the ceiling is a large "
    "product of matrices on the same device. float32 is float32, not TF32; the others are autocast."
)


def write(folder: Path, result: Result, made: Mapping[str, Any]) -> list[Path]:
    """Write ``speed-<device>.md``, ``.json`` and, where operations were counted, ``.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"speed-{result.plan.device.partition(':')[0]}"
    table, values = folder / f"{name}.md", folder / f"{name}.json"
    write_text(table, markdown(result, made))
    write_json(values, {**plain(result), "made": dict(made)})
    if not any(row.gflops for row in result.rows):
        return [table, values]
    return [table, values, draw(result, folder / f"{name}.png")]


def markdown(result: Result, made: Mapping[str, Any]) -> str:
    """Lay the tables out, a group after the other."""
    plan = result.plan
    lines = ["# Speed", "", LEGEND, ""]
    lines += [f"- device {plan.device}, {plan.threads} CPU thread(s), {plan.repeats} rounds"]
    for precision, best in result.ceilings.items():
        lines += [f"- ceiling, {precision}: {best.gflops:.0f} GFLOP/s, {best.gbytes:.0f} GB/s"]
    for group, rows in result.groups():
        lines += ["", f"## {group}", "", *grid(HEADS, [_cells(row, result.ceilings) for row in rows], text=2)]
    about = {row.matcher: f"{row.about}; {amount(row.parameters)} parameters" for row in reversed(result.rows)}
    lines += ["", *(f"- {name}: {words}" for name, words in sorted(about.items()))]
    lines += [*(f"- not run: {name}: {reason}" for name, reason in result.not_run.items())]
    return "\n".join([*lines, "", *made_by(dict(made))]) + "\n"


def _cells(row: Row, ceilings: Mapping[Precision, Ceiling]) -> list[str]:
    best, rate = ceilings.get(row.group.precision), row.gflops
    return [
        row.matcher,
        row.mode,
        _told(row.milliseconds, ".0f" if row.milliseconds.least >= 100 else ".1f"),
        f"{row.pairs_per_second:.3g}",
        "–" if row.faster is None else _told(row.faster, ".2f"),
        "–" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        "–" if row.work is None else f"{row.work.gflop:.1f}",
        "–" if rate is None or best is None else f"{100 * rate / best.gflops:.1f}",
    ]


def _told(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.least:{form}}–{spread.most:{form}})"


def draw(result: Result, path: Path) -> Path:
    """Write a PNG: each matcher's rate against its operations a byte, below the roof; of each precision a panel.

    Of the largest size alone, one pair at once if that was measured.
    """
    from matplotlib.figure import Figure

    counted = [row for row in result.rows if row.work and row.gflops and row.group.precision in result.ceilings]
    size, batch = max(row.group.size for row in counted), min(row.group.batch for row in counted)
    shown = [row for row in counted if (row.group.size, row.group.batch) == (size, batch)]
    precisions = list(dict.fromkeys(row.group.precision for row in shown))
    figure = Figure(figsize=(6.5 * max(len(precisions), 1), 4.5), layout="constrained")
    for precision, axes in zip(precisions, figure.subplots(1, len(precisions), squeeze=False)[0], strict=True):
        rows = [
            (row, row.work.gflop / row.work.gbyte) for row in shown if row.work and row.group.precision == precision
        ]
        span = np.geomspace(min(x for _, x in rows) / 4, max(x for _, x in rows) * 16, 64)
        best = result.ceilings[precision]
        axes.plot(span, np.minimum(best.gflops, best.gbytes * span), color="grey", label="roof, as measured")
        for (row, intensity), marker in zip(rows, "oDs^vPX<>pdhH*" * len(rows), strict=False):
            axes.plot([intensity], [row.gflops or 0.0], marker, label=f"{row.matcher}, {row.mode}")
        axes.set(xscale="log", yscale="log", xlabel="operations a byte of all operators' tensors", ylabel="GFLOP/s")
        axes.set_title(f"{size}×{size}, {batch} at once, {precision}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
