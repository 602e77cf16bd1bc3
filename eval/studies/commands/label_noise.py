"""``python -m eval study label-noise``, see :mod:`eval.studies.label_noise`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.commands.options import AddParser, words
from eval.studies import label_noise
from kornia_tar.files import write_text


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "label-noise", help="how much of the error is the labels', from cached matches under two levels",
        epilog="example: python -m eval study label-noise --set val-000 --level tar,hard --out eval/results",
    )  # fmt: skip
    parser.add_argument("--set", required=True, help="name of a set, such as val-000")
    parser.add_argument(
        "--level", "--rung", type=words, default=["tar", "hard"], help="two; the second is scored (tar,hard)"
    )
    parser.add_argument("--matcher", default="tar_registrar", help="whose matches (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.label_noise.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    if len(args.level) != 2:
        raise ValueError(f"--level {','.join(args.level)}: name two")
    found = label_noise.measure(args.set, (args.level[0], args.level[1]), args.matcher, args.cache)
    path = write_text(args.out / f"{args.set}.label_noise.md", label_noise.describe(found, args.set, args.matcher))
    print(path.read_text())
    print(f"written: {path}", file=sys.stderr)
