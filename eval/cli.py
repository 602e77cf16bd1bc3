"""Command line: ``python -m eval --help`` lists the subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from eval.commands import (
    ablation,
    calibration,
    estimators,
    failures,
    labels,
    landcover,
    refusals,
    run,
    score,
    speed,
    starts,
    swap,
    train_loftr,
    warps,
)

# As --help lists them.
_COMMANDS = (
    warps, run, refusals, calibration, starts, failures, landcover, speed, train_loftr, ablation, swap, score,
    estimators, labels,
)  # fmt: skip
_EXAMPLES = """examples, from the checkout's root:
  python -m eval warps --data ../shared/data/val-000.tar --rung tar,hard --seed 0
  python -m eval run --matchers tar,sift,aliked,xfeat --data ../shared/data/val-000.tar --rung tar --out eval/results
  python -m eval run --matchers tar --checkpoint runs/a/last.safetensors --data ../shared/data --limit 100 --out runs/a
  python -m eval run --matchers sift --data ../shared/data/bench/srif-opt-sar --rung real --out eval/results
  python -m eval run --matchers aliked,aliked@4,my_package.matcher:build --data my/pairs --out runs/mine
  python -m eval estimators --set val-000 --rung tar,hard --matcher tar --out eval/results
  python -m eval refusals --data ../shared/data/val-000.tar --rung tar --mismatched 500 --out eval/results
  python -m eval calibration --data ../shared/data/val-000.tar --rung tar --out eval/results
  python -m eval starts --data ../shared/data/val-000.tar --rung hard --limit 60 --threads 1 --out eval/results
  python -m eval failures --data ../shared/data/val-000.tar --rung hard --matcher tar_registrar --count 4 --out runs
  python -m eval landcover --data ../shared/data/optical_only-000.tar --out eval/results
  python -m eval speed --size 512 --threads 2
  python -m eval train-loftr --data ../shared/data --minutes 30 --threads 1 -o runs/loftr
  python -m eval run --matchers loftr_ours --weights runs/loftr --data ../shared/data/val-000.tar --out eval/results
  python -m eval ablation --data ../shared/data --text ../shared/text --runs runs/ablation --out eval/results
  python -m eval swap --data ../shared/data/val-000.tar --text ../shared/text --limit 200 --out eval/results
  python -m eval labels --set val-000 --rung tar,hard --out eval/results
  python -m eval score --set val-000 --rung tar --out eval/results
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns 0, 2 for a user's error (one line on stderr), 130 after an interrupt."""
    args = _parser().parse_args(argv)
    try:
        args.do(args)
    except (ValueError, FileNotFoundError, TypeError) as error:
        print(f"eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"eval: interrupted; {args.kept}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(kept="nothing is kept, the same command starts over")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in _COMMANDS:
        command.add(commands.add_parser)
    return parser
