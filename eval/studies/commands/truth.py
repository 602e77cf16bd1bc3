"""``python -m eval study truth``, see :mod:`eval.studies.truth`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.commands.options import AddParser
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "truth", help="how good is the truth of a set of like images, from cached matches",
        epilog="example: python -m eval study truth --data DATA/bench/srif-opt-opt --out eval/results",
    )  # fmt: skip
    parser.add_argument("--data", required=True, help="a set that brings its truth")
    parser.add_argument("--matcher", default="tar_registrar", help="whose matches (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.truth.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.studies import truth
    from kornia_tar.files import write_text

    dataset = one_set(args.data)
    with tqdm(total=len(dataset.names), unit="pair") as bar:
        found = truth.measure(dataset, args.matcher, args.cache, bar.update)
    text = truth.describe(dataset.name, args.matcher, args.cache, found)
    print(write_text(args.out / f"{dataset.name}.truth.md", text).read_text())
