"""Command line: ``python -m eval --help`` lists the subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from eval.commands import acceptance, average, calibration, failures, forms, refit, rejection, run, score, speed, warps
from eval.studies import commands as studies
from kornia_tar.cli.command import BAD_INPUT, Parser

# As --help lists them.
_COMMANDS = (warps, run, score, rejection, calibration, acceptance, average, refit, forms, failures, speed, studies)
_EXAMPLES = """examples, from the checkout's root, with DATA for ../shared/data:
  python -m eval warps --data DATA/val-000.tar --level tar,hard --seed 0
  python -m eval run --matchers tar,tar_registrar,sift,aliked,aliked@4 --data DATA/val-000.tar --out eval/results
  python -m eval run --matchers tar --checkpoint runs/a/checkpoint.safetensors --data DATA --limit 100 --out runs/a
  python -m eval run --matchers sift --data DATA/bench/srif-opt-sar --level real --out eval/results
  python -m eval run --matchers aliked,my_package.matcher:build --data my/pairs --level real --out runs/mine
  python -m eval score --set val-000 --level tar --out eval/results
  python -m eval rejection --data DATA/val-000.tar --level tar --mismatched 500 --out eval/results
  python -m eval calibration --data DATA/val-000.tar --level tar --out eval/results
  python -m eval acceptance --pairs DATA/val-000.tar:tar:60:60 DATA/bench/srif-opt-ir:real:20:20 --out eval/results
  python -m eval refit runs/a/checkpoint.safetensors --data DATA --store runs/a/fitted.safetensors --out runs/a
  python -m eval forms --data DATA/scenes --out eval/results
  python -m eval failures --data DATA/val-000.tar --level hard --matcher tar_registrar --count 4 --out runs
  python -m eval speed --sizes 512 --threads 2
  python -m eval study --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns 0, 1 for a user's error (one line on stderr), 130 after an interrupt."""
    args = _parser().parse_args(argv)
    try:
        args.do(args)
    except (ValueError, FileNotFoundError, TypeError) as error:
        print(f"eval: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"eval: interrupted; {args.kept}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
