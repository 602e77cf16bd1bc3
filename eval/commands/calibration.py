"""``python -m eval calibration``, see :mod:`eval.calibration.confidence`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.benchmark import predict, protocol
from eval.commands.options import GOES_ON, AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("calibration", help="do TAR's confidence and std mean what they say?")
    parser.add_argument("--data", required=True, help="an optical–SAR set with stored warps")
    parser.add_argument(
        "--level", "--rung", choices=tuple(protocol.LEVELS), default="tar", help="deformation (%(default)s)"
    )
    parser.add_argument(
        "--limit", type=positive, default=200, help="pairs matched in one pass, and a fourth as many of each modality "
        "with itself (%(default)s)"
    )  # fmt: skip
    parser.add_argument(
        "--registrations",
        type=positive,
        default=80,
        help="pairs registered for the tie points, and a fourth as many of each modality with itself (%(default)s)",
    )
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    weights.add_argument(
        "--store",
        type=Path,
        metavar="CHECKPOINT",
        help="as --checkpoint, and store the fitted calibration in that file",
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches, %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.calibration import confidence as calibration

    predict.set_threads(args.threads)
    dataset, checkpoint = one_set(args.data), args.store or args.checkpoint
    todo = calibration.plans(dataset.names, args.limit, args.registrations)
    with tqdm(total=sum(len(plan.names) for plan in todo), unit="pair") as bar:
        found = calibration.collect(dataset, args.level, todo, checkpoint, args.cache, bar.update)
    rows, fits = calibration.judge(found)
    print(calibration.write(args.out, dataset.name, args.level, rows, fits).read_text())
    if args.store is not None:
        words = f"to {dataset.name}, level {args.level}, {args.limit} pairs, {args.registrations} of them registered"
        calibration.store(args.store, words, matches=fits.matches, tie_points=fits.tie_points)
        print(f"stored in {args.store}", file=sys.stderr)
