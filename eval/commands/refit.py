"""``python -m eval refit``, see :mod:`eval.calibration.refit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import GOES_ON, AddParser, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("refit", help="fit all that depends on the weights: confidence, tie points' errors, acceptance")
    parser.add_argument("checkpoint", type=Path, help="the new weights; never written")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets (val-000.tar, bench/)")
    parser.add_argument(
        "--store", type=Path, required=True, metavar="FILE", help="the weights with their fits, when all is done"
    )
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of what is kept (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.calibration.refit import count_pairs, refit

    predict.set_threads(args.threads)
    with tqdm(total=count_pairs(args.data), unit="pair") as bar:
        tables = refit(args.checkpoint, args.data, args.store, args.out, args.cache, bar.update)
    for table in tables:
        print(table.read_text())
    print(f"stored in {args.store}", file=sys.stderr)
