"""``python -m eval study teacher``, see :mod:`eval.studies.teacher`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import ROOT, AddParser, positive
from eval.peers.learned import xfeat
from eval.peers.store import Store


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("teacher", help="is MSFL better begun by itself, or taught by XFeat, at equal minutes?")
    parser.add_argument("--data", type=Path, required=True, help="folder of the train shards, val-000.tar and bench/")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each (%(default)s)")
    parser.add_argument("--limit", type=positive, default=80, help="pairs of each set in the exam (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--weights", type=Path, default=ROOT.parent / "shared" / "weights", help="folder of XFeat's")
    parser.add_argument("--runs", type=Path, default=Path("runs/teacher"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of teacher.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from eval.studies import teacher

    predict.set_threads(args.threads)
    store = Store(args.weights)
    lesson = teacher.teacher_of(xfeat.build(store))
    title = (
        f"Runs of {args.minutes:g} minutes of stepping from nothing ({teacher.SIZE_NAME}, no text), {args.threads} "
        f"CPU thread(s), bf16 where the CPU has it; then one look at {args.limit} pairs of each set. XFeat: "
        f"{store.settings}."
    )
    found = list(teacher.measure(args.data, lesson, args.runs, args.minutes, args.seeds, args.limit))
    print(teacher.write(found, title, args.out / "teacher.md").read_text())
