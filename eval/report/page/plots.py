"""The plots of a report as SVG to stand inside a page, in the page's own colours, so that light and dark both fit.

Matplotlib draws; its colours are stand-ins that are replaced by the page's CSS variables afterwards.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.benchmark.metrics import SR_PIXELS, success_rate
from eval.benchmark.table import Table

P = ParamSpec("P")

SERIES = 14  # colours of matchers, --m1 to --m14 in the page's CSS; --m0 is identity's
THRESHOLD = 5.0  # px, of the accuracy by rotation and scale
_REACH = 20.0  # px, of the axis of thresholds
_INK, _RULE = "#010203", "#040506"
_MARKERS = "oDs^vPX<>pdhH*"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "eval",
    "font.size": 10,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def colours(tables: Sequence[Table]) -> dict[str, int]:
    """Give each row key of all tables one number of a colour, in order of appearance; identity is 0."""
    keys = dict.fromkeys(row["key"] for table in tables for row in table.rows if row["matcher"] != "identity")
    numbers = {key: 1 + place % SERIES for place, key in enumerate(keys)}
    return numbers | {row["key"]: 0 for table in tables for row in table.rows if row["matcher"] == "identity"}


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw in the page's style, whatever Matplotlib is set to elsewhere."""

    @wraps(draw)
    def within(*args: P.args, **options: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return within


@_styled
def by_threshold(table: Table, numbers: dict[str, int]) -> str:
    """Draw the share of pairs whose corner error is below a threshold, against the threshold."""
    figure, axes = _figure("threshold of the corner error, px", "pairs below it, %")
    limits = np.linspace(0, _REACH, 81)
    assert table.detail is not None
    for row in reversed(table.plotted):  # the best on top
        errors, look = table.detail.errors[row["key"]], _look(numbers[row["key"]])
        axes.plot(limits, [100 * success_rate(errors, limit) for limit in limits], color=look["color"])
        axes.plot(SR_PIXELS, [100 * success_rate(errors, limit) for limit in SR_PIXELS], linestyle="", **look)
    axes.set(xlim=(0, _REACH), xticks=[1, 3, 5, 10, 15, 20])
    return _svg(figure, f"{table.title} threshold")


@_styled
def by_seconds(table: Table, numbers: dict[str, int]) -> str:
    """Draw AUC@10 against seconds of a pair; identity, which takes none, is left out. Empty without any other."""
    rows = [row for row in table.rows if row["matcher"] != "identity"]
    if not rows:
        return ""
    figure, axes = _figure("seconds of a pair, median (log scale)", "AUC@10, %")
    places = np.array([[max(row["seconds"], 1e-4), 100 * row["AUC@10"]] for row in rows])
    top = max(10.0, min(100.0, places[:, 1].max() * 1.25))
    axes.set(xscale="log", ylim=(-0.03 * top, top))
    fastest, slowest = places[:, 0].min(), places[:, 0].max()
    axes.set_xlim(fastest / 1.5, slowest * 2 * (slowest / fastest) ** 0.45)
    for row, place in zip(rows, places, strict=True):
        axes.plot(*place, linestyle="", **_look(numbers[row["key"]]) | {"markersize": 7})
    at = axes.transAxes.inverted().transform(axes.transData.transform(places))
    at[:, 0] += 0.025
    heights = spread(at, np.array([0.02 * len(row["matcher"]) for row in rows]), 0.075)
    for row, (x, _), height in zip(rows, at, heights, strict=True):
        axes.text(x, height, row["matcher"], transform=axes.transAxes, va="center", fontsize=9.5, parse_math=False)
    _plain_decades(axes, *axes.get_xlim())
    return _svg(figure, f"{table.title} seconds")


def by_rotation(table: Table, numbers: dict[str, int]) -> str:
    """Draw SR at ``THRESHOLD`` in bins of the size of the rotation."""
    assert table.detail is not None
    sizes = np.abs(table.detail.rotations)
    return _by_bins(table, numbers, sizes, rotation_edges(sizes), "{:g}", "rotation between the images, degrees")


def by_scale(table: Table, numbers: dict[str, int]) -> str:
    """Draw SR at ``THRESHOLD`` in bins of the logarithm of the scale."""
    assert table.detail is not None
    scales = table.detail.scales
    return _by_bins(table, numbers, scales, scale_edges(scales), "{:.2f}", "scale of image1 against image0 (log)")


def rotation_edges(sizes: ArrayLike) -> NDArray[np.float64]:
    """Return edges of at most seven round bins from 0 to beyond the largest size, in degrees."""
    top = float(np.max(np.asarray(sizes, dtype=np.float64)))
    step = next(step for step in (5, 10, 15, 30) if top <= 7 * step)
    return np.arange(0.0, step * max(1, math.ceil(top / step - 1e-6)) + step / 2, step)


def scale_edges(scales: ArrayLike) -> NDArray[np.float64]:
    """Return edges of six bins of equal ratio between the smallest and largest scale, of one where all are alike."""
    low, high = float(np.min(np.asarray(scales))), float(np.max(np.asarray(scales)))
    if high / low < 1.05:
        return np.array([low / 1.05, high * 1.05])
    return np.geomspace(low, high, 7)


def bins(values: ArrayLike, edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin (N,) of each value; the last bin holds its upper edge."""
    return np.clip(np.searchsorted(edges, np.asarray(values), side="right") - 1, 0, len(edges) - 2)


def spread(places: ArrayLike, widths: ArrayLike, height: float) -> NDArray[np.float64]:
    """Return heights (N,) of labels so that none overlaps: those that would are moved up.

    Args:
        places: (N, 2) x of the left end and y of the middle of each label.
        widths: (N,) of the labels.
        height: of every label.
    """
    left, moved = np.array(places, dtype=np.float64).reshape(-1, 2).T
    right = left + np.asarray(widths, dtype=np.float64)
    done: list[int] = []
    for label in np.argsort(moved, kind="stable"):
        for other in sorted(done, key=lambda index: moved[index]):
            beside = left[label] < right[other] and left[other] < right[label]
            if beside and abs(moved[label] - moved[other]) < height:
                moved[label] = moved[other] + height
        done.append(label)
    return np.asarray(moved)


@_styled
def _by_bins(
    table: Table, numbers: dict[str, int], values: NDArray[np.float64], edges: NDArray[np.float64], form: str, axis: str
) -> str:
    figure, axes = _figure(axis, f"SR@{THRESHOLD:g}, %")
    where = bins(values, edges)
    held = [where == place for place in range(len(edges) - 1)]
    assert table.detail is not None
    for row in reversed(table.plotted):
        errors = table.detail.errors[row["key"]]
        rates = [100 * success_rate(errors[inside], THRESHOLD) if inside.any() else math.nan for inside in held]
        axes.plot(np.arange(len(held)) + 0.5, rates, **_look(numbers[row["key"]]))
    for place, inside in enumerate(held):
        text = f"n={inside.sum()}" if place == 0 else str(inside.sum())
        axes.text(place + 0.5, 107, text, ha="center", fontsize=8.5)
    axes.set_xticks(range(len(edges)), [form.format(edge) for edge in edges])
    axes.set_xlim(0, len(held))
    return _svg(figure, f"{table.title} {axis}")


def _figure(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.3), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y, ylim=(-3, 103))
    axes.tick_params(length=0, pad=5)
    return figure, axes


def _look(number: int) -> dict[str, Any]:
    return {"color": _series(number), "marker": "x" if number == 0 else _MARKERS[number - 1]}


def _series(number: int) -> str:
    return f"#0a0b{number + 16:02x}"


def _plain_decades(axes: Any, low: float, high: float) -> None:
    """Label a logarithmic axis by plain numbers, a few of them."""
    steps = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [step * 10.0**power for power in range(-5, 5) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _svg(figure: Any, title: str) -> str:
    """Write a figure as an SVG element: no prolog, no fixed size, unique ids, the page's colours and font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    text = f'<svg {box[0]} role="img" aria-label="{html.escape(title)}">' + text[text.index(">") + 1 :]
    text = text.replace("xlink:href", "href")
    prefix = re.sub(r"\W+", "-", title).lower() + "-"
    text = re.sub(r'\bid="|(?<=url\()#|(?<=href=")#', lambda found: found[0] + prefix, text)
    text = re.sub(r"(font: [^;\"]*?)'[^;\"]*", r"\1var(--font)", text)
    variables = {_INK: "ink", _RULE: "rule"} | {_series(number): f"m{number}" for number in range(SERIES + 1)}
    for colour, name in variables.items():
        text = text.replace(colour, f"var(--{name})")
    return text
