"""Write tables and reports to disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eval.benchmark.provenance import provenance
from eval.benchmark.table import Table
from eval.datasets import Dataset
from eval.report.markdown import joined, markdown
from eval.report.page.build import build as build_page
from kornia_tar.files import write_text


def write(table: Table, folder: Path, limit: int | None = None) -> Path:
    """Write ``<set>.<level>.md`` and ``.json`` (with ``.limit<N>`` in the name of a partial run); returns the first."""
    made = provenance()
    stem = f"{table.dataset}.{table.level}" + part(limit)
    content = {key: value for key, value in asdict(table).items() if key != "detail"}
    content["rows"] = [{key: _finite(value) for key, value in row.items()} for row in table.rows]
    write_text(folder / f"{stem}.json", json.dumps(content | {"scored": made}, indent=1) + "\n")
    write_text(folder / f"{stem}.md", markdown(table, made))
    return folder / f"{stem}.md"


def with_earlier_rows(table: Table, folder: Path, limit: int | None = None) -> Table:
    """Add the rows of the table that ``folder`` holds whose matchers are not in this one; each names its own commit.

    A cache of matches does not last as long as the table made of it, and a matcher that nobody changed need not run
    again for every new one beside it.

    Raises:
        ValueError: the file in the folder is no table, or one of other pairs.
    """
    path = folder / f"{table.dataset}.{table.level}{part(limit)}.json"
    if not path.is_file():
        return table
    try:
        earlier = json.loads(path.read_text("utf-8"))
        told = {name: (earlier[name], getattr(table, name)) for name in ("pairs", "drawn", "model")}
        if other := [f"{name} {before!r}, not {now!r}" for name, (before, now) in told.items() if before != now]:
            raise ValueError(f"it is of {'; '.join(other)}")
        known = {row["key"] for row in table.rows} | {name.replace(":", "-") for name in table.not_run}
        names = {row["matcher"] for row in table.rows} | set(table.not_run)
        kept = [
            {k: math.inf if v is None and k in ("tie RMSE", "CE90") else v for k, v in row.items()}
            for row in earlier["rows"] if row["key"] not in known and row["matcher"] not in names
        ]  # fmt: skip
        rows = sorted([*table.rows, *kept], key=lambda row: (row["AUC@10"], row["AUC@5"], row["NCM"]), reverse=True)
        have = {row["key"] for row in rows} | {row["matcher"] for row in rows}
        not_run = {**earlier["not_run"], **table.not_run}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its rows cannot be kept ({error}); write the table elsewhere") from error
    left = {name: why for name, why in not_run.items() if name not in have and name.replace(":", "-") not in have}
    return replace(table, rows=rows, not_run=left)


def write_report(
    tables: Sequence[Table],
    folder: Path,
    cache: Path,
    datasets: Sequence[Dataset] = (),
    limit: int | None = None,
) -> Path:
    """Write ``report.md`` and the self-contained ``report.html``, which join all tables of a run; returns the latter.

    Args:
        tables: the tables, in the order to show them.
        folder: where to write.
        cache: folder of the cached matches, for the pictures.
        datasets: the sets, for the pictures; the page says so where the set of a table is not among them.
        limit: of a partial run, part of the names as in ``write``.

    Raises:
        ValueError: without tables.
    """
    if not tables:
        raise ValueError("no tables to report: score at least one set and level")
    made = provenance()
    write_text(folder / f"report{part(limit)}.md", joined(tables, made))
    path = folder / f"report{part(limit)}.html"
    write_text(path, build_page(tables, made, cache, datasets))
    return path


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no infinity


def part(limit: int | None) -> str:
    """What a partial run adds to the names of its files."""
    return f".limit{limit}" if limit else ""
