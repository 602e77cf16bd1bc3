"""``python -m eval speed``, see :mod:`eval.benchmark.speed`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.commands.options import AddParser, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("speed", help="seconds and memory beside kornia's LoFTR on one pair")
    parser.add_argument("--size", type=positive, default=512, help="side in pixels (%(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=5, help="warm calls to take the median of (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from eval.benchmark.speed import compare

    for name, value in compare(args.checkpoint, args.size, args.threads, args.repeats).items():
        print(f"{name}: {value:.2f}")
