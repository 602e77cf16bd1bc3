"""``python -m eval study starts``, see :mod:`eval.studies.text.starts`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import AddParser, positive, seed


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "starts", help="do land-cover maps find pairs that the Registrar lost?",
        epilog="example: python -m eval study starts --data val-000.tar --level hard --cache runs/eval --out runs/a",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="a set with stored warps")
    parser.add_argument("--level", choices=("tar", "hard"), default="hard", help="deformation (%(default)s)")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder where 'eval run' kept the Registrar's matches"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the shuffled names (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.<level>.starts.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.benchmark.pairs import LevelPairs
    from eval.datasets import one_set
    from eval.studies.text import starts
    from kornia_tar import TARMatcher

    predict.set_threads(args.threads)
    dataset = one_set(args.data)
    lost, found = starts.choose(dataset.name, args.level, args.cache)
    matcher = TARMatcher(args.checkpoint or "optical-sar").fuse()
    with tqdm(total=len(lost) + len(found), unit="pair") as bar:
        results = starts.measure(matcher, LevelPairs.open(dataset, args.level), lost, found, args.seed, tick=bar.update)
    path = args.out / f"{dataset.name}.{args.level}.starts.md"
    title = f"{dataset.name}, level {args.level}; words of {matcher.weights}; names shuffled by seed {args.seed}"
    print(starts.write(results, title, path).read_text())
