"""``python -m eval study loftr``, see :mod:`eval.studies.loftr.training`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.commands.options import AddParser, positive, seed


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "loftr", help="train LoFTR's architecture from scratch as our own network is, for the matcher "
        "eval.studies.loftr.matcher:create",
        epilog="example: python -m eval study loftr --data ../shared/data --minutes 30 --threads 1 -o runs/loftr",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder with train-*.tar (and optical_only-*.tar)")
    parser.add_argument("--minutes", type=float, required=True, help="length of the run in minutes of stepping")
    parser.add_argument("--seed", type=seed, default=0, help="of weights and batches (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--limit", type=positive, help="use only so many pairs, such as 16 to see it overfit")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for weights, state and log")
    parser.set_defaults(
        do=_do,
        kept="--resume goes on from the last state, one is saved every two minutes; without it the run starts over",
    )


def _do(args: argparse.Namespace) -> None:
    import torch

    from eval.studies.loftr import training as loftr_training
    from kornia_tar.files import output_folder
    from kornia_tar.training.data import find_shards, read_optical, read_pairs
    from kornia_tar.training.loop import TrainConfig

    if args.minutes <= 0:
        raise ValueError(f"--minutes must be positive, got {args.minutes:g}")
    torch.set_num_threads(args.threads)
    shards, out = find_shards(args.data), output_folder(args.out)
    alone = sorted(args.data.glob("optical_only-*.tar")) if args.limit is None else []
    pairs = read_pairs(shards, limit=args.limit)
    pairs = pairs + read_optical(alone, size=pairs.sar.shape[-1]) if alone else pairs
    config = TrainConfig(minutes=args.minutes, seed=args.seed, **loftr_training.OWN)
    names = tuple(shard.name for shard in (*shards, *alone))
    print(f"written: {loftr_training.train(pairs, out, config, resume=args.resume, data=names)}")
