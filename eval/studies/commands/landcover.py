"""``python -m eval study landcover``, see :mod:`eval.studies.landcover`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.commands.options import AddParser, positive


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("landcover", help="is the land-cover map true? scenes whose class is known by name")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a WebDataset tar of RSSCN7 or SEN1-2 images, named by their classes; "
        "or the folder of the data sets: all that is measured of the words, see eval/studies/text/words.py",
    )
    parser.add_argument("--limit", type=positive, help="only so many images of each modality, spread over the classes")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do)


def _do(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from eval.studies import landcover
    from eval.studies.text import words
    from kornia_tar import TARMatcher

    torch.set_num_threads(args.threads)
    if args.data.is_dir():
        matcher = TARMatcher(args.checkpoint or "optical-sar").fuse()
        found = words.measure_words(args.data, matcher, lambda names: tqdm(names, unit="image"))
        title = "the shipped weights" if args.checkpoint is None else args.checkpoint.name
        print(words.write(args.out, title, found).read_text())
        return
    if not args.data.is_file():
        raise FileNotFoundError(f"{args.data}: no such file; need a tar of images")
    matcher = TARMatcher(args.checkpoint or "optical-sar").fuse()
    rows, same = landcover.measure(args.data, matcher, args.limit, lambda names: tqdm(names, unit="image"))
    print(landcover.write(args.out, args.data, rows, same).read_text())
