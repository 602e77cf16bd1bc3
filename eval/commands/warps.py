"""``python -m eval warps``, see :mod:`eval.benchmark.protocol`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import protocol
from eval.commands.options import AddParser, data_options, seed, words
from eval.datasets import open_dataset


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("warps", parents=[data_options()], help="draw and store the warps of a set, once")
    parser.add_argument(
        "--level", "--rung", type=words, default=list(protocol.LEVELS), help="comma-separated; default: all"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draw (%(default)s)")
    parser.add_argument("--warps", type=Path, default=protocol.WARPS, help="folder to store them in (eval/warps)")
    parser.set_defaults(do=_do, kept="finished files stay, the same command draws all again, alike")


def _do(args: argparse.Namespace) -> None:
    for dataset in (found for path in args.data for found in open_dataset(path, args.split)):
        for level in args.level:
            path = protocol.warps_path(dataset.name, level, args.warps)
            warps = protocol.draw_warps(dataset.names, level, args.seed)
            protocol.write_warps(path, dataset.name, level, args.seed, warps)
            print(f"{path.name}: {len(warps)} warps")
