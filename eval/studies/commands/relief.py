"""``python -m eval study relief``, see :mod:`eval.studies.relief`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import predict, protocol
from eval.commands.options import AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("relief", help="a field against one matrix, on ground with and without relief")
    parser.add_argument("--scenes", required=True, help="a set of large pairs on one grid")
    parser.add_argument("--scene", default="003", help="which of them (%(default)s)")
    parser.add_argument("--data", required=True, help="an optical–SAR set with stored warps")
    parser.add_argument("--level", "--rung", choices=tuple(protocol.LEVELS), default="tar", help="(%(default)s)")
    parser.add_argument("--limit", type=positive, default=16, help="pairs of it (%(default)s)")
    parser.add_argument("--amplitude", type=float, default=10.0, help="of the scene's field, px (%(default)g)")
    parser.add_argument("--fields", type=positive, default=2, help="that the scene is bent by (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", default="optical-sar", help="weights (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of relief.md")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.studies import relief
    from kornia_tar import TARMatcher

    predict.set_threads(args.threads)
    scenes, dataset = one_set(args.scenes), one_set(args.data)
    sample = scenes.read(args.scene)
    register = relief.registrar(TARMatcher(args.checkpoint).fuse())
    answers = []
    asked = relief.ask_scene(register, sample.optical, sample.other, args.amplitude, range(args.fields))
    for part in (asked, relief.ask_pairs(register, dataset, args.level, args.limit, args.amplitude * 0.6)):
        answers += list(tqdm(part, unit="registration"))
    print(relief.write(answers, args.scene, args.out / "relief.md").read_text())
