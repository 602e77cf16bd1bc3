"""The tables that subcommands write, and the options that all of these share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.benchmark import protocol, score
from eval.benchmark.table import Table
from eval.commands.options import positive
from eval.datasets import Dataset
from eval.report import write


def table_options() -> argparse.ArgumentParser:
    """Where matches and tables are, and of how many pairs; a parent of parsers."""
    tables = argparse.ArgumentParser(add_help=False)
    tables.add_argument("--out", type=Path, required=True, help="folder of the tables <set>.<level>.md and .json")
    tables.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches (%(default)s)")
    tables.add_argument("--warps", type=Path, default=protocol.WARPS, help="folder of the stored warps (eval/warps)")
    tables.add_argument("--limit", type=positive, help="only this many pairs, spread evenly over the set")
    tables.add_argument(
        "--keep", action="store_true", help="keep the rows of the table in --out whose matchers are not cached here"
    )
    return tables


def write_table(
    dataset: str, level: str, names: list[str], not_run: dict[str, str], *, cache: Path, warps: Path, out: Path,
    limit: int | None, keep: bool,
) -> Table:  # fmt: skip
    """Score what is cached of these pairs, write it and print it; what is written may keep earlier rows."""
    table = score.score(dataset, level, cache, names, not_run, warps)
    if keep:
        table = write.with_earlier_rows(table, out, limit)
    path = write.write(table, out, limit)
    written = f"{path} and {path.with_suffix('.json').name}"
    if level in protocol.LEVELS:
        from eval.report import deformation  # it needs matplotlib, which no table needs

        written += f", {deformation.draw(table, path.with_suffix('.png')).name}"
    print(path.read_text())
    print(f"written: {written}", file=sys.stderr)
    return table


def write_report(tables: list[Table], datasets: list[Dataset], *, cache: Path, out: Path, limit: int | None) -> None:
    """Join tables in a report."""
    page = write.write_report(tables, out, cache, datasets, limit)
    print(f"written: {page} and {page.with_suffix('.md').name}", file=sys.stderr)
