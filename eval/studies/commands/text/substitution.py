"""``python -m eval study text-substitution``, see :mod:`eval.studies.text.substitution`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import LEVELS_OR_REAL, AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "text-substitution", help="what text does in a checkpoint: other words, no training",
        epilog="example: python -m eval study text-substitution --data ../shared/data/val-000.tar "
        "--text ../shared/text --out runs/a",
    )  # fmt: skip
    parser.add_argument("--data", required=True, help="a set of optical and SAR images with stored warps")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text banks")
    parser.add_argument("--level", "--rung", default="tar", help=f"{LEVELS_OR_REAL.split(';')[0]} (%(default)s)")
    parser.add_argument("--limit", type=positive, default=200, help="pairs (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of text-substitution.md and .json")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from eval.peers.ours.tar import TAR
    from eval.studies.text import single_pass, substitution

    predict.set_threads(args.threads)
    dataset = one_set(args.data)
    made = substitution.variants(TAR(args.checkpoint).net.net, args.text)
    answers = substitution.measure(made, single_pass.read_questions(dataset, args.level, args.limit))
    print(substitution.write(args.out, f"{dataset.name}, {args.level}", answers).read_text())
