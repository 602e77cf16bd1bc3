"""``kornia-tar match``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from kornia_tar.cli.command import AddCommand
from kornia_tar.cli.options import add_overwrite, add_pair, add_steering, add_threshold, inputs_of, read_pair
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.network.poses import SCALES, TURNS
from kornia_tar.outputs.matches import write_matches
from kornia_tar.registration.files import check_options, make_matcher, stretched


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "match", _do, "match two images and write the matches", "kornia-tar match a.png b.png -o matches.h5"
    )
    add_pair(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write, .h5 or .npz")
    add_threshold(parser, 0.1)
    parser.add_argument("--turns", type=int, choices=TURNS, default=4, help="4: images turned by any angle; 1: by up "
                        "to 45°, quicker where nothing matches (default: 4)")  # fmt: skip
    parser.add_argument("--scales", type=int, choices=SCALES, default=3, help="3: scales that differ by up to 2 times; "
                        "1: by up to 1.4, quicker where nothing matches (default: 3)")  # fmt: skip
    add_steering(parser)
    add_overwrite(parser)


def _do(a: argparse.Namespace) -> int:
    if a.out.suffix.lower() not in (".h5", ".hdf5", ".npz"):
        raise ValueError(f"{a.out}: matches are kept in .h5 or .npz")
    check_options(a.threshold)
    check_outputs([a.out], inputs_of(a.image0, a.image1, a.weights, a.bank), overwrite=a.overwrite)
    first, second = read_pair(a.image0, a.image1, a.nodata0, a.nodata1)
    matcher = make_matcher(a.weights, a.device, a.threads, a.bank, a.threshold, a.turns, a.scales, a.ignore, a.prefer)
    output_folder(a.out.parent)
    device = next(matcher.parameters()).device
    data: dict[str, Any] = {}
    pair = stretched(first, second, a.modality0, a.modality1)
    for k, (raster, (grey, modality)) in enumerate(zip((first, second), pair, strict=True)):
        data[f"image{k}"] = torch.from_numpy(grey).to(device)[None, None].float() / 255
        if not raster.mask.all():
            data[f"mask{k}"] = torch.from_numpy(raster.mask).to(device)[None]
        if modality is not None:
            data[f"modality{k}"] = modality
    with torch.inference_mode():
        found = matcher(data)
    keep = ("keypoints0", "keypoints1", "confidence", "std")
    write_matches(a.out, {k: found[k].cpu().numpy() for k in keep} | {"image0": str(a.image0), "image1": str(a.image1)})
    print(f"{len(found['confidence'])} matches in {a.out}")
    return 0
