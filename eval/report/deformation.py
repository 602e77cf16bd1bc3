"""Accuracy against rotation and scale as a picture that stands alone, for READMEs and model cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eval.benchmark.metrics import success_rate
from eval.benchmark.table import Table
from eval.report.page.plots import THRESHOLD, bins, rotation_edges, scale_edges
from kornia_tar.files import replacing


def draw(table: Table, path: Path) -> Path:
    """Write a PNG with SR@5 of every matcher in bins of the rotation and of the scale between the images.

    Raises:
        ValueError: a table without the pairs' errors.
    """
    from matplotlib.figure import Figure

    if table.detail is None:
        raise ValueError(f"{table.title}: its errors are not at hand, only their aggregate")
    turns, scales = np.abs(table.detail.rotations), table.detail.scales
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, edges, form, label in (
        (left, turns, rotation_edges(turns), "{:g}", "rotation, degrees"),
        (right, scales, scale_edges(scales), "{:.2f}", "scale of image1 against image0"),
    ):
        place = bins(values, edges)
        for row, marker in zip(table.plotted, "oDs^vPX<>pdhH*" * 2, strict=False):
            errors = table.detail.errors[row["key"]]
            rates = [100 * success_rate(errors[place == k], THRESHOLD) if (place == k).any() else np.nan
                     for k in range(len(edges) - 1)]  # fmt: skip
            axes.plot(np.arange(len(rates)) + 0.5, rates, marker=marker, label=row["matcher"].replace("$", r"\$"))
        axes.set_xticks(range(len(edges)), [form.format(edge) for edge in edges])
        axes.set(xlabel=label, ylim=(-3, 103))
        axes.grid(alpha=0.3)
    left.set_ylabel(f"SR@{THRESHOLD:g}, %")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle(f"{table.title}, {table.pairs} pairs")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path
