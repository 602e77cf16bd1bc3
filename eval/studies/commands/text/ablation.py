"""``python -m eval study text-ablation``, see :mod:`eval.studies.text.ablation`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.benchmark import predict
from eval.commands.options import AddParser, positive, words
from kornia_tar.network.checkpoint import resolve_weights


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "text-ablation", help="what text brings: a network trained and examined, row by row; goes on where it stopped",
        epilog="examples: python -m eval study text-ablation --data ../shared/data --text ../shared/text "
        "--rows learned,remoteclip --out eval/results; the same with --base optical-sar --steps 150",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder of the train shards, val-000.tar and bench/")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text banks")
    parser.add_argument("--rows", type=words, help="comma-separated; default: all")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each row (%(default)s)")
    parser.add_argument("--steps", type=positive, default=200, help="of 8 pairs, each run (%(default)s)")
    parser.add_argument(
        "--base",
        help="checkpoint, or shipped weights by name such as optical-sar, to start from; default: a small one, trained"
        " here",
    )
    parser.add_argument("--base-steps", type=positive, default=1200, help="of 16 pairs, the common start (%(default)s)")
    parser.add_argument("--limit", type=positive, default=80, help="pairs of each set in the exam (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument(
        "--runs", type=Path, help="folder of the runs (runs/ablation; with --base runs/ablation-finished)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of text-ablation[-finished].md, .json and .png")
    parser.set_defaults(
        do=_do,
        kept="finished runs and the last state of their common start are kept, the same command goes on from there",
    )


def _do(args: argparse.Namespace) -> None:
    from eval.studies.text import ablation

    predict.set_threads(args.threads)
    rows, results = args.rows or list(ablation.ROWS), []
    runs = args.runs or Path("runs/ablation" if args.base is None else "runs/ablation-finished")
    base = args.base_steps if args.base is None else resolve_weights(args.base)
    budget = args.seeds, args.steps, base
    try:
        for result in ablation.measure(rows, *budget, args.data, args.text, runs, args.limit):
            results.append(result)
    finally:  # also after an interrupt: what there is makes a table
        if results:
            _write(results, args.base, args.base_steps, args.steps, args.limit, args.out)


def _write(results: list[dict[str, Any]], base: str | None, base_steps: int, steps: int, limit: int, out: Path) -> None:
    from eval.studies.text import ablation
    from eval.studies.text import table as ablation_table

    labels = {"base": "the common start"} | {key: row.label for key, row in ablation.ROWS.items()}
    if base is None:
        name = "text-ablation"
        about = (
            f"A network of size XXS, trained without text for {base_steps} steps of {ablation.BASE.batch} pairs, "
            f"then {steps} steps of {ablation.RUN.batch} pairs with each text: all parameters"
        )
    else:
        name = "text-ablation-finished"
        about = (
            f"The checkpoint {base}, its TAFE drawn anew, then {steps} steps of {ablation.FINISHED.batch} "
            "pairs with each text: TAFE, CFDM's attention, descriptor and head; MSFL as it was. The common start is "
            "the checkpoint itself, with its own TAFE"
        )
    about += (
        f". The same crops for all rows of a seed, TAFE's gate open by {ablation.GATE:g} at the start."
        f" Single pass, {limit} pairs a set."
    )
    path = ablation_table.write(out, name, results, labels, ablation.PLAIN, about)
    print(path.read_text())
