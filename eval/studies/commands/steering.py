"""``python -m eval study steering``, see :mod:`eval.studies.text.steering`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import AddParser, one_set, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "steering", help="does it help to ignore the flood?",
        epilog="example: python -m eval study steering --data ../shared/data/val-000.tar "
        "--masks ../shared/data/ombria-floods.tar --out runs/a",
    )  # fmt: skip
    parser.add_argument("--data", required=True, help="a set with OMBRIA's after pairs of held-out events")
    parser.add_argument("--masks", type=Path, required=True, help="a tar of <name>.flood.png")
    parser.add_argument("--draws", type=positive, default=4, help="warps of each pair (%(default)s)")
    parser.add_argument("--limit", type=positive, help="only so many pairs")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of steering.md and .json")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.studies.text import steering
    from kornia_tar import TARMatcher

    predict.set_threads(args.threads)
    dataset, matcher = one_set(args.data), TARMatcher(args.checkpoint or "optical-sar").fuse()
    with tqdm(unit="pair") as bar:
        found = steering.measure(
            matcher, steering.read_flooded(dataset, args.masks, args.draws, args.limit), bar.update
        )
    print(steering.write(args.out, f"{dataset.name}, tar warps", found).read_text())
