"""``python -m eval study negatives``, see :mod:`eval.studies.negatives`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict, protocol, turned
from eval.commands.options import ROOT, AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("negatives", help="what a matcher states on noise and on images of different places")
    parser.add_argument("--data", required=True, help="an optical–SAR set with stored warps")
    parser.add_argument("--level", "--rung", choices=tuple(protocol.LEVELS), default="tar", help="(%(default)s)")
    parser.add_argument("--matcher", default="tar", help="as in run (%(default)s)")
    parser.add_argument("--places", type=positive, default=100, help="pairs of different places (%(default)s)")
    parser.add_argument("--noises", type=positive, default=6, help="pairs of each kind of noise (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--weights", type=Path, default=ROOT.parent / "shared" / "weights", help="peers' weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.<level>.negatives.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.studies import negatives

    predict.set_threads(args.threads)
    dataset = one_set(args.data)
    turned.check([args.matcher])
    matcher = turned.create(args.matcher, args.weights, args.checkpoint)
    total = args.noises * len(negatives.NOISE) + min(args.places, len(dataset.names))
    with tqdm(total=total, unit="pair") as bar:
        found = negatives.measure(matcher, dataset, args.level, args.places, args.noises, bar.update)
    title = f"All matches are wrong. {dataset.name}, level {args.level}; {matcher.settings}"
    path = args.out / f"{dataset.name}.{args.level}.negatives.md"
    print(negatives.write(found, matcher.name, title, path).read_text())
