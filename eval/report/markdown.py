"""Tables as Markdown: columns, cells, and the report that joins the tables of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.benchmark.provenance import made_by
from eval.benchmark.table import Table
from eval.report import published


def percent(share: float) -> str:
    """Write a share as percent with one decimal."""
    return f"{100 * share:.1f}"


def pixels(number: float) -> str:
    """Write pixels; a failure is infinite."""
    return f"{number:.2f}" if math.isfinite(number) else "inf"


def amount(number: float) -> str:
    """Write a number of parameters in millions."""
    return f"{number / 1e6:.2f} M" if number else "0"


@dataclass(frozen=True)
class Column:
    """A column of the tables: the rows' key, its head, how a value is written, what it says, whether more is better."""

    key: str
    head: str
    write: Callable[[float], str]
    says: str
    more: bool = True


COLUMNS = (
    *(Column(f"SR@{t}", f"SR@{t}", percent, f"% of pairs whose corner error is below {t} px") for t in (1, 3, 5, 10)),
    *(Column(f"AUC@{t}", f"AUC@{t}", percent, f"% of the area under SR up to {t} px") for t in (3, 5, 10)),
    *(Column(f"CMR@{t}", f"CMR@{t}", percent, f"% of pairs whose matches have RMSE below {t} px") for t in (1, 3, 5)),
    Column("accepted", "accepted", percent, "% of pairs whose registration the matcher itself accepts"),
    *(
        Column(f"SR@{t} accepted", f"SR@{t} acc.", percent, f"% of pairs found to {t} px and accepted by the matcher")
        for t in (3, 5, 10)
    ),
    Column("wrong accepted", "wrong acc.", percent, "% of pairs accepted though 10 px off or more", more=False),
    Column("tie RMSE", "tie RMSE", pixels, "median RMSE of the model at independent tie points, px", more=False),
    Column("CE90", "CE90", pixels, "median 90 % circular error at the tie points, px", more=False),
    Column("NCM", "NCM", "{:.1f}".format, "mean number of matches within 3 px of the truth"),
    Column("precision@3", "prec@3", percent, "mean % of matches within 3 px of the truth"),
    Column("failure", "fail", percent, "% of pairs without any model", more=False),
    Column("seconds", "seconds", "{:.3f}".format, "median CPU seconds of one pair's match, all threads", more=False),
    Column("peak MiB", "peak MiB", "{:.0f}".format, "peak resident memory of the process, MiB", more=False),
    Column(
        "gflops", "GFLOP", "{:.1f}".format, "floating-point operations of one pair, 10^9; 0 without torch", more=False
    ),
    Column("parameters", "params", amount, "learned numbers", more=False),
)


COMPACT = (
    "SR@1",
    "SR@3",
    "SR@5",
    "SR@10",
    "AUC@10",
    "CMR@5",
    "SR@5 accepted",
    "wrong accepted",
    "CE90",
    "NCM",
    "precision@3",
    "failure",
    "seconds",
    "parameters",
)


LEGEND = (
    "SR, AUC: mean corner error after one RANSAC at 3 px, the same for all. CMR: RMSE over matches. Shares in percent "
    "of all pairs; a failure is an infinite error. NCM, precision: within 3 px. SR acc.: found to so many px *and* "
    "accepted by the matcher's own judgement, which is what its user meets; wrong acc.: accepted though 10 px off or "
    "more. Seconds: median, of the match alone."
)


def columns(table: Table, keys: Sequence[str] | None = None) -> list[Column]:
    """Return the columns that some row has a number for, all or those of ``keys``."""
    wanted = [column for column in COLUMNS if keys is None or column.key in keys]
    return [column for column in wanted if any(column.key in row for row in table.rows)]


def cell(row: dict[str, Any], column: Column) -> str:
    """Write a row's number, or a dash where it has none."""
    return column.write(row[column.key]) if column.key in row else "–"


def markdown(table: Table, made: dict[str, Any]) -> str:
    """Lay a table out as Markdown, with all columns and provenance."""
    lines = [f"# {table.title}", "", table.about, f"Model: {table.model}. {LEGEND}", "", *_rows(table)]
    lines += [f"- {row['matcher']}: {row['settings']}; {_matched(row['predicted'])}" for row in table.rows]
    lines += ["", *made_by(made)]
    threads = sorted({row["predicted"]["threads"] for row in table.rows})
    lines += [f"Matched with {' or '.join(map(str, threads))} thread(s)."] if threads else []
    return "\n".join(lines) + "\n"


def _matched(made: dict[str, Any]) -> str:
    """Say at which commit and on what a row was matched: seconds of different machines are not alike."""
    return f"commit {made['commit']} on {made['hardware']}"


def joined(tables: Sequence[Table], made: dict[str, Any]) -> str:
    """Lay all tables of a run out as one Markdown report, with the published figures behind them."""
    lines = ["# Evaluation of optical–SAR matchers", "", LEGEND]
    for table in tables:
        lines += ["", f"## {table.title}", "", f"{table.about} Model: {table.model}.", "", *_rows(table, COMPACT)]
    lines += ["", "## Figures of others", "", f"**{published.MARK}**: never to be compared with the tables above."]
    lines += ["", published.TAR]
    for other in published.TABLES:
        lines += [
            "",
            f"### {other.title} ({published.MARK})",
            "",
            f"{other.source}. Protocol: {other.protocol}.",
        ]
        lines += [other.note] if other.note else []
        lines += ["", *grid(["method", *other.columns], other.cells)]
    return "\n".join([*lines, "", "## Provenance", "", *made_by(made)]) + "\n"


def _rows(table: Table, keys: Sequence[str] | None = None) -> list[str]:
    shown = columns(table, keys)
    cells = [[row["matcher"], *(cell(row, column) for column in shown)] for row in table.rows]
    lines = grid(["matcher", *(column.head for column in shown)], cells)
    if table.ceiling:
        reach = ", ".join(f"SR@{limit} {percent(table.ceiling[f'SR@{limit}'])}" for limit in (1, 3, 5, 10))
        lines += ["", f"True matches through the same estimator: {reach}."]
    return [*lines, "", *(f"- {name}: not run: {reason}" for name, reason in table.not_run.items())]


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> list[str]:
    """Lay cells out as the lines of a Markdown table.

    Args:
        heads: of the columns.
        rows: a cell for each column; a bar in a cell does not end it.
        text: how many columns, from the left, hold text; the others hold numbers and are set flush right.
    """
    lines = [_line(heads), "|" + "---|" * text + "---:|" * (len(heads) - text)]
    return lines + [_line([cell.replace("|", "\\|") for cell in row]) for row in rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
