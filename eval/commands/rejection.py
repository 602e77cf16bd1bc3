"""``python -m eval rejection``, see :mod:`eval.calibration.rejection`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.benchmark import protocol
from eval.commands.options import GOES_ON, AddParser, positive
from eval.datasets import one_set


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("rejection", help="does the registrar refuse images of different places?")
    parser.add_argument("--data", required=True, help="a set with stored warps")
    parser.add_argument(
        "--level", "--rung", choices=tuple(protocol.LEVELS), default="tar", help="deformation (%(default)s)"
    )
    parser.add_argument("--true", type=positive, default=200, help="true pairs (%(default)s)")
    parser.add_argument("--mismatched", type=positive, default=500, help="mismatched pairs (%(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of kept outcomes (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from eval.calibration import outcomes, rejection

    torch.set_num_threads(args.threads)
    dataset = one_set(args.data)
    count = len(dataset.names)
    with tqdm(total=min(args.true, count) + min(args.mismatched, count), unit="pair") as bar:
        found = outcomes.measure(
            dataset, args.level, args.true, args.mismatched, args.checkpoint, args.cache, bar.update
        )
    print(rejection.write(args.out, dataset.name, args.level, *found).read_text())
