"""``python -m eval study estimators``, see :mod:`eval.studies.estimators`."""

from __future__ import annotations

import argparse
import sys

from eval.commands.options import LEVELS_OR_REAL, AddParser, words
from eval.commands.tables import table_options
from eval.studies import estimators
from kornia_tar.files import write_text


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("estimators", parents=[table_options()], help="compare robust estimators on cached matches")
    parser.add_argument("--set", dest="sets", type=words, required=True, help="names of sets, such as val-000")
    parser.add_argument("--level", "--rung", type=words, default=["tar"], help=f"{LEVELS_OR_REAL} (tar)")
    parser.add_argument("--matcher", default="tar", help="whose matches (%(default)s)")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    tables = [
        estimators.compare(dataset, level, args.matcher, args.cache, args.limit)
        for dataset in args.sets for level in args.level
    ]  # fmt: skip
    path = write_text(args.out / "estimators.md", estimators.markdown(tables))
    print(path.read_text())
    print(f"written: {path}", file=sys.stderr)
