"""``python -m eval study chips``, see :mod:`eval.studies.chips`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict
from eval.commands.options import AddParser, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("chips", help="does the registrar find a chip in a large scene without a georeference?")
    parser.add_argument("--data", type=Path, required=True, help="folder of georeferenced scenes")
    parser.add_argument("--limit", type=positive, help="scenes to take (all)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>.chips.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.benchmark.forms import read_scenes
    from eval.peers.ours.tar import TAR
    from eval.studies import chips
    from kornia_tar import Registrar

    predict.set_threads(args.threads)
    scenes, peer = read_scenes(args.data)[: args.limit], TAR(args.checkpoint)
    if len(scenes) < 2:
        raise ValueError(f"{args.data}: {len(scenes)} scene; two are needed to form pairs of two places")
    with tqdm(total=4 * len(scenes) * len(chips.KINDS), unit="pair") as bar:
        found = chips.measure(Registrar(peer.net.fuse()), scenes, chips.KINDS, bar.update)
    title = (
        f"{args.data.name}, {len(scenes)} scenes, an optical and a SAR chip of each kind and scene in the other image; "
        f"found within {chips.RIGHT:g} px of the chip, its mean corner error; {peer.settings}"
    )
    print(chips.write(found, title, args.out / f"{args.data.name}.chips.md").read_text())
