"""``python -m eval study graphics``, see :mod:`eval.studies.graphics`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict, protocol
from eval.commands.options import AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("graphics", help="what the registrar does where both images carry the same graphics")
    parser.add_argument("--data", required=True, help="an optical–SAR set with stored warps")
    parser.add_argument("--level", "--rung", choices=tuple(protocol.LEVELS), default="tar", help="(%(default)s)")
    parser.add_argument("--limit", type=positive, default=4, help="pairs of each kind of graphics (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.<level>.graphics.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.peers.ours.tar import TAR
    from eval.studies import graphics

    predict.set_threads(args.threads)
    dataset, peer = one_set(args.data), TAR(args.checkpoint)
    with tqdm(total=4 * min(args.limit, len(dataset.names)) * len(graphics.KINDS), unit="pair") as bar:
        found = graphics.measure(peer.net.fuse(), dataset, args.level, list(graphics.KINDS), args.limit, bar.update)
    title = f"{dataset.name}, level {args.level}; right within {graphics.RIGHT:g} px; {peer.settings}"
    path = args.out / f"{dataset.name}.{args.level}.graphics.md"
    print(graphics.write(found, title, path).read_text())
