"""``python -m eval acceptance``, see :mod:`eval.calibration.acceptance`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eval.benchmark import predict, protocol
from eval.commands.options import GOES_ON, LEVELS_OR_REAL, AddParser, positive

if TYPE_CHECKING:
    from eval.calibration.acceptance import Plan


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("acceptance", help="fit and judge when the registrar trusts a transform")
    parser.add_argument(
        "--pairs", nargs="+", required=True, metavar="SET:LEVEL:TRUE:MISMATCHED[:SIDE]",
        help=f"path of a set, a level ({LEVELS_OR_REAL}), how many true and mismatched pairs, and the side in px to "
        "which the middle of both images is cut",
    )  # fmt: skip
    parser.add_argument("--min-probability", type=float, default=0.55, help="least that is accepted (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    weights.add_argument(
        "--store", type=Path, metavar="CHECKPOINT", help="as --checkpoint, and store the fit to all pairs in that file"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of kept outcomes (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.calibration import acceptance, confidence

    predict.set_threads(args.threads)
    plans = [_plan(text) for text in args.pairs]
    with tqdm(total=sum(plan.pairs for plan in plans), unit="pair") as bar:
        kinds = acceptance.collect(plans, args.store or args.checkpoint, args.cache, bar.update)
    print(acceptance.write(args.out, kinds, args.min_probability).read_text())
    if args.store is not None:
        confidence.store(args.store, f"to {', '.join(args.pairs)}", registration=acceptance.fit(kinds))
        print(f"stored in {args.store}", file=sys.stderr)


def _plan(text: str) -> Plan:
    """Read ``SET:LEVEL:TRUE:MISMATCHED[:SIDE]``; the path of a set may hold colons itself."""
    from eval.calibration.acceptance import Plan

    parts = text.split(":")
    level = next((k for k in range(len(parts) - 1, 0, -1) if parts[k] in (*protocol.LEVELS, protocol.REAL)), 0)
    numbers = parts[level + 1 :]
    if not level or len(numbers) not in (2, 3) or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"--pairs {text!r}: need SET:LEVEL:TRUE:MISMATCHED[:SIDE], such as val-000.tar:tar:60:60:128")
    true, mismatched, *side = map(int, numbers)
    return Plan(":".join(parts[:level]), parts[level], true, mismatched, side[0] if side else None)
