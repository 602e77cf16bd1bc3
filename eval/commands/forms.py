"""``python -m eval forms``, see :mod:`eval.benchmark.forms` and :mod:`eval.report.forms`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from eval.commands.options import AddParser, positive, words
from kornia_tar import RegistrationModel


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("forms", help="do georeferenced scenes register in every form that files have?")
    parser.add_argument("--data", type=Path, required=True, help="folder of the scenes, with georeference.json")
    parser.add_argument("--scenes", type=words, help="some of them, comma-separated (all)")
    parser.add_argument(
        "--model", choices=get_args(RegistrationModel), default="affine", help="that is fitted (%(default)s)"
    )
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from eval.benchmark.forms import FORMS, read_scenes
    from eval.peers.ours.tar import TAR
    from eval.report import forms
    from kornia_tar import Registrar, RegistrarConfig

    torch.set_num_threads(args.threads)
    scenes = [scene for scene in read_scenes(args.data) if args.scenes is None or scene.name in args.scenes]
    if not scenes:
        raise ValueError(f"--scenes {','.join(args.scenes or [])}: {args.data} holds none of these")
    with tqdm(total=len(scenes) * len(FORMS), unit="pair") as bar:
        registrar = Registrar(TAR(args.checkpoint).net.fuse(), RegistrarConfig(model=args.model))
        outcomes = forms.measure(registrar, scenes, lambda _: bar.update(1))
    print(forms.write(args.out, outcomes, args.model).read_text())
