"""``python -m eval score``, see :mod:`eval.benchmark.score`."""

from __future__ import annotations

import argparse

from eval.benchmark import pairs, score
from eval.commands.options import LEVELS_OR_REAL, AddParser, words
from eval.commands.tables import table_options, write_report, write_table
from eval.datasets import open_dataset


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("score", parents=[table_options()], help="score what is cached, without matching")
    parser.add_argument("--data", nargs="+", default=[], help="the sets themselves, for pictures in the report")
    parser.add_argument("--split", help="as in run")
    parser.add_argument("--set", dest="sets", type=words, required=True, help="names of sets, such as val-000")
    parser.add_argument("--level", "--rung", type=words, default=["tar"], help=f"{LEVELS_OR_REAL} (tar)")
    parser.set_defaults(do=_do, kept="finished tables stay, the same command scores all again")


def _do(args: argparse.Namespace) -> None:
    tables, places = [], {"cache": args.cache, "out": args.out, "limit": args.limit}
    for dataset in args.sets:
        for level in args.level:
            names = pairs.subsample(score.cached_names(dataset, level, args.cache), args.limit)
            tables.append(write_table(dataset, level, names, {}, warps=args.warps, keep=args.keep, **places))
    write_report(tables, [d for path in args.data for d in open_dataset(path, args.split)], **places)
