"""``python -m eval study steering``, see :mod:`eval.studies.text.steering`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import AddParser, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "steering", help="does it help to ignore the flood?",
        epilog="example: python -m eval study steering --data ../shared/data --checkpoint w.safetensors --out runs/a",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the shards with OMBRIA's pairs, and of ombria-floods.tar"
    )
    parser.add_argument("--draws", type=positive, default=4, help="warps of each pair (%(default)s)")
    parser.add_argument("--limit", type=positive, help="only so many pairs")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of steering.md and .json")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.studies.text import steering, words
    from kornia_tar import TARMatcher

    predict.set_threads(args.threads)
    matcher = TARMatcher(args.checkpoint or "optical-sar").fuse()
    pairs = words.read_flooded(args.data, args.limit)
    with tqdm(total=args.draws * len(pairs), unit="pair") as bar:
        found = steering.measure(matcher, steering.warp_flooded(pairs, args.draws), bar.update)
    print(steering.write(args.out, "OMBRIA's test images after the flood, tar warps", found).read_text())
