"""``python -m eval study mismatched``, see :mod:`eval.studies.mismatched`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import GOES_ON, AddParser, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("mismatched", help="does the registrar refuse large crops of different places?")
    parser.add_argument("--data", type=Path, required=True, help="folder of georeferenced scenes")
    parser.add_argument("--count", type=positive, default=100, help="pairs of each size (%(default)s)")
    lie = "the SAR crop's georeference says that it shows the optical one's ground; else there is none"
    parser.add_argument("--georeferenced", action="store_true", help=lie)
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of kept outcomes (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.mismatched*.md")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.benchmark.forms import read_scenes
    from eval.peers.ours.tar import TAR
    from eval.studies import mismatched
    from kornia_tar import Registrar

    predict.set_threads(args.threads)
    scenes, peer = read_scenes(args.data, mosaics=True), TAR(args.checkpoint)
    registrar = Registrar(peer.net.fuse())
    with tqdm(total=args.count * len(mismatched.SIDES), unit="pair") as bar:
        found = {
            side: mismatched.measure(
                registrar, peer.settings, scenes, side, args.count, args.cache, bar.update, args.georeferenced
            )
            for side in mismatched.SIDES
        }
    told = ", whose georeference says that it is the same" if args.georeferenced else ""
    title = f"{args.data.name}: an optical and a SAR crop without common ground{told}; {peer.settings}"
    part = ".georeferenced" if args.georeferenced else ""
    print(mismatched.write(found, title, args.out / f"{args.data.name}.mismatched{part}.md").read_text())
