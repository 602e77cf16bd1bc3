"""``python -m eval study initialisation``, see :mod:`eval.studies.initialisation`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import pairs, predict, protocol
from eval.commands.options import AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("initialisation", help="accuracy and time of the registrar by where it starts")
    parser.add_argument("--data", required=True, help="a set with stored warps")
    parser.add_argument(
        "--level", "--rung", choices=tuple(protocol.LEVELS), default="hard", help="deformation (%(default)s)"
    )
    parser.add_argument("--limit", type=positive, help="only this many pairs, spread evenly over the set")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch and OpenCV, each (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--warps", type=Path, default=protocol.WARPS, help="folder of the stored warps (eval/warps)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of <set>.<level>.initialisation.md, .json and .png"
    )
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.studies import initialisation

    predict.set_threads(args.threads)
    dataset = one_set(args.data)
    names = pairs.subsample(dataset.names, args.limit)
    with tqdm(total=len(names) * (1 + len(initialisation.VARIANTS)), unit="call") as bar:
        found = initialisation.measure(dataset, args.level, names, args.checkpoint, args.warps, bar.update)
    print(initialisation.write(found, args.out, args.limit).read_text())
