"""The report as one self-contained HTML page: tables, plots, pictures and provenance, with nothing to fetch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.benchmark.table import Table
from eval.datasets import Dataset
from eval.report import markdown, published
from eval.report.page import pictures as page_pictures
from eval.report.page import plots as page_plots
from eval.report.page.pictures import Example
from kornia_tar.outputs.drawing import data_uri

BUDGET = 6_000_000  # bytes of the page; pictures are coded more coarsely until it fits
_QUALITIES = (72, 55, 40, 25)
_FOLDER = Path(__file__).parent
_OVERVIEW = "SR@5"


def build(tables: Sequence[Table], made: dict[str, Any], cache: Path, datasets: Sequence[Dataset] = ()) -> str:
    """Build the page.

    Args:
        tables: the tables, in the order to show them.
        made: provenance of the scores, see ``report.provenance``.
        cache: folder of the cached matches, for the pictures.
        datasets: the sets, for the pictures.

    Returns:
        The HTML, at most about ``BUDGET`` bytes of it.

    Raises:
        ValueError: when Matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401, its absence is to be told before the work
    except ImportError as error:
        raise ValueError(f"report.html needs {error.name}: pip install 'kornia-tar[eval]'") from error

    sets = {dataset.name: dataset for dataset in datasets}
    numbers = page_plots.colours(tables)
    sections = [_section(table, numbers) for table in tables]
    pictures = [
        page_pictures.examples(table, sets[table.dataset], cache) if table.dataset in sets else [] for table in tables
    ]
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    page = ""
    for quality in _QUALITIES:
        shown = [[_example(example, numbers, quality) for example in drawn] for drawn in pictures]
        page = template.render(
            sections=[section | {"examples": drawn} for section, drawn in zip(sections, shown, strict=True)],
            overview=_overview(tables, numbers),
            published=published,
            legend=markdown.LEGEND,
            columns=markdown.COLUMNS,
            grades=page_pictures.GRADES,
            sample=page_pictures.LINES,
            made=made,
            css=(_FOLDER / "page.css").read_text(encoding="utf-8"),
            js=(_FOLDER / "page.js").read_text(encoding="utf-8"),
        )
        if len(page.encode()) <= BUDGET:
            break
    return page


def _section(table: Table, numbers: dict[str, int]) -> dict[str, Any]:
    columns = markdown.columns(table)
    best = {column.key: _best(table, column) for column in columns}
    rows = [
        {
            "name": row["matcher"],
            "number": numbers[row["key"]],
            "cells": [
                {
                    "text": markdown.cell(row, column),
                    "value": str(row.get(column.key, -math.inf)).replace("inf", "Infinity"),  # as JavaScript reads it
                    "best": best[column.key] is not None and row.get(column.key) == best[column.key],
                }
                for column in columns
            ],
            "settings": row["settings"],
            "predicted": row["predicted"],
        }
        for row in table.rows
    ]
    return {
        "id": re.sub(r"\W+", "-", table.title).lower(),
        "table": table,
        "about": table.about.replace("+-", "±").replace(" deg", "°"),
        "columns": columns,
        "rows": rows,
        "ceiling": ", ".join(f"SR@{t} {markdown.percent(table.ceiling[f'SR@{t}'])}" for t in (1, 3, 5, 10))
        if table.ceiling
        else "",
        "plots": _plots(table, numbers) if table.rows and table.detail else [],
        "led": [row["matcher"] for row in page_pictures.contenders(table)],
    }


def _best(table: Table, column: markdown.Column) -> float | None:
    """The best number of a column among the matchers, None where it says nothing: one matcher, or all alike."""
    values = [row[column.key] for row in table.rows if row["matcher"] != "identity" and column.key in row]
    if len(set(values)) < 2:
        return None
    return max(values) if column.more else min(values)


def _plots(table: Table, numbers: dict[str, int]) -> list[dict[str, str]]:
    hardware = sorted({str(row["predicted"]["hardware"]) for row in table.rows})
    threads = sorted({row["predicted"]["threads"] for row in table.rows})
    machines = f"Measured on {'; '.join(hardware)} with {' or '.join(map(str, threads))} thread(s)"
    machines += "." if len(hardware) == len(threads) == 1 else ": not all on one footing."
    noise = (
        "Each point is one bin, with the number of its pairs above it; with n pairs a rate near 50 % is uncertain by "
        "about ±98/√n points. Flat is good: the matcher does not mind the turn."
    )
    threshold = f"{page_plots.THRESHOLD:g}"
    drawn = [
        {
            "title": "Accuracy against threshold",
            "svg": page_plots.by_threshold(table, numbers),
            "caption": "The share of pairs registered to within a mean corner error. Higher and further left is "
            "better; the markers are the table's SR@1, 3, 5 and 10. A curve that stays flat has failed on the rest.",
        },
        {
            "title": "Accuracy against seconds",
            "svg": page_plots.by_seconds(table, numbers),
            "caption": f"Up and to the left is better. The match alone, without reading and fitting. {machines} "
            "Identity takes no time and is left out.",
        },
        {
            "title": "Accuracy against rotation",
            "svg": page_plots.by_rotation(table, numbers),
            "caption": f"SR@{threshold} by how far image1 is turned, either way. {noise}",
        },
        {
            "title": "Accuracy against scale",
            "svg": page_plots.by_scale(table, numbers),
            "caption": f"SR@{threshold} by how much larger things are in image1; below 1 they are smaller. "
            "Bins of equal ratio, numbers of pairs above them. A peak at 1 is a matcher that needs equal scales.",
        },
    ]
    return [plot for plot in drawn if plot["svg"]]


def _overview(tables: Sequence[Table], numbers: dict[str, int]) -> dict[str, Any]:
    names = {row["key"]: row["matcher"] for table in tables for row in table.rows}
    found = {key: [_row(table, key) for table in tables] for key in names}

    def mean(key: str) -> tuple[bool, float]:
        shares = [row[_OVERVIEW] for row in found[key] if row]
        return names[key] != "identity", sum(shares) / len(shares)

    rows = [
        {
            "name": names[key],
            "number": numbers[key],
            "cells": [
                {"text": markdown.percent(row[_OVERVIEW]), "value": row[_OVERVIEW]}
                if row
                else {"text": "–", "value": -1}
                for row in found[key]
            ],
        }
        for key in sorted(names, key=mean, reverse=True)
    ]
    return {"head": _OVERVIEW, "rows": rows, "sets": len({table.dataset for table in tables})}


def _row(table: Table, key: str) -> dict[str, Any] | None:
    return next((row for row in table.rows if row["key"] == key), None)


def _example(example: Example, numbers: dict[str, int], quality: int) -> dict[str, Any]:
    def coded(picture: page_pictures.Picture) -> dict[str, Any]:
        height, width = picture.shape[:2]
        return {"src": data_uri(picture, quality), "width": width, "height": height}

    return {
        "example": example,
        "images": [coded(image) for image in example.images],
        "answers": [
            {
                "answer": answer,
                "number": numbers[answer.key],
                "error": "no model found" if math.isinf(answer.error) else f"corner error {answer.error:.2f} px",
                "lines": coded(answer.lines),
                "board": None if answer.board is None else coded(answer.board),
            }
            for answer in example.answers
        ],
    }
