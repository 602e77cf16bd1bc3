"""``python -m eval average``, see :mod:`eval.calibration.average`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.commands.options import AddParser


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("average", help="average two checkpoints, one of which was trained on from the other")
    parser.add_argument("first", help="a checkpoint, or the name of shipped weights")
    parser.add_argument("second", help="the same")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (%(default)s)")
    parser.add_argument("--store", type=Path, required=True, metavar="FILE", help="the mean; without fits, see refit")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from eval.calibration.average import average_checkpoints
    from kornia_tar.files import check_outputs
    from kornia_tar.network.checkpoint import resolve_weights

    check_outputs([args.store], [resolve_weights(name) for name in (args.first, args.second)], overwrite=True)
    average_checkpoints(args.first, args.second, args.share, args.store)
    print(f"stored in {args.store}", file=sys.stderr)
