"""``python -m eval failures``, see :mod:`eval.report.failures`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.benchmark import protocol
from eval.commands.options import AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("failures", help="pictures of the worst pairs, from the cached matches")
    parser.add_argument("--data", required=True, help="the set")
    parser.add_argument(
        "--level",
        "--rung",
        default="tar",
        help=f"{', '.join(protocol.LEVELS)}; {protocol.REAL} of itself (%(default)s)",
    )
    parser.add_argument("--matcher", default="tar_registrar", help="whose matches (%(default)s)")
    parser.add_argument("--count", type=positive, default=4, help="number of pairs (%(default)s)")
    parser.add_argument("--drawing", action="store_true", help="outlines and arrows alone, nothing of the images")
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of failures.png or failures-drawing.png")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from eval.report import failures  # it needs matplotlib, which no table needs

    dataset = one_set(args.data)
    (level,) = protocol.levels_for(dataset, [args.level])
    found = failures.worst(dataset, level, args.matcher, args.count, args.cache)
    for failure in found.failures:
        print(f"{failure.pair.name}: {failure.caption}")
    if args.drawing:
        path = failures.draw_outlines(found, args.out / "failures-drawing.png")
    else:
        path = failures.draw_images(found, args.out / "failures.png")
    print(f"written: {path}", file=sys.stderr)
