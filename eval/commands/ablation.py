"""``python -m eval ablation``, see :mod:`eval.ablation`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval import run
from eval.commands.options import AddParser, positive, words


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "ablation", help="what text brings: a small network trained and examined, row by row; goes on where it stopped",
        epilog="example: python -m eval ablation --data ../shared/data --text ../shared/text --rows learned,remoteclip"
        " --out eval/results",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder of the train shards, val-000.tar and bench/")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text banks")
    parser.add_argument("--rows", type=words, help="comma-separated; default: all")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each row (%(default)s)")
    parser.add_argument("--steps", type=positive, default=200, help="of 8 pairs, each run (%(default)s)")
    parser.add_argument("--base-steps", type=positive, default=1200, help="of 16 pairs, the common start (%(default)s)")
    parser.add_argument("--limit", type=positive, default=80, help="pairs of each set in the exam (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of text-ablation.md, .json and .png")
    parser.set_defaults(
        do=_do,
        kept="finished runs and the last state of their common start are kept, the same command goes on from there",
    )


def _do(args: argparse.Namespace) -> None:
    from eval import ablation

    run.set_threads(args.threads)
    rows, results = args.rows or list(ablation.ROWS), []
    budget = args.seeds, args.steps, args.base_steps
    try:
        for result in ablation.measure(rows, *budget, args.data, args.text, args.runs, args.limit):
            results.append(result)
    finally:  # also after an interrupt: what there is makes a table
        if results:
            _table(args, results)


def _table(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    from eval import ablation, ablation_table

    labels = {"base": "the common start"} | {key: row.label for key, row in ablation.ROWS.items()}
    about = (
        f"A network of size XXS, trained without text for {args.base_steps} steps of {ablation.BASE.batch} pairs, then"
        f" {args.steps} steps of {ablation.RUN.batch} pairs with each text: all parameters, the same crops for all rows"
        f" of a seed, TAFE's gate open by {ablation.GATE:g} at the start. Single pass, {args.limit} pairs a set."
    )
    path = ablation_table.write(args.out, "text-ablation", results, labels, ablation.PLAIN, about)
    print(path.read_text())
