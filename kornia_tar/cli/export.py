"""``kornia-tar export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch

from kornia_tar.cli.command import AddCommand, steps
from kornia_tar.cli.options import MODALITY_CHOICES, add_overwrite, add_progress, add_threshold, add_weights, files_of
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.matching.export import FixedMatcher, Precision, check_export, compare, write_exported
from kornia_tar.matching.matcher import TARMatcher

MOST_APART = 8.0  # px on the drawn scene: half precision moves a few matches, a graph that is wrong all


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "export", _do, "write the matcher as ONNX, for images of stated sizes",
        "kornia-tar export tar.onnx --size 256\n"
        "  kornia-tar export tar.onnx --size 512 384 --precision float16 --matches 2048\n"
        "  kornia-tar export tar.pt2 --size 256                    for torch.export.load",
    )  # fmt: skip
    parser.add_argument("out", type=Path, help="file to write, .onnx (needs [onnx]) or .pt2")
    parser.add_argument("--size", type=int, nargs="+", required=True, metavar="PX", help="of both images, or height "
                        "and width of both, or of image0 and image1: 256, 512 384, 512 384 256 256")  # fmt: skip
    for k, default in enumerate(("optical", "sar")):
        parser.add_argument(f"--modality{k}", choices=MODALITY_CHOICES, default=default,
                            help=f"of image{k}; auto: inferred in the graph (default: {default})")  # fmt: skip
    parser.add_argument("--matches", type=int, default=1024, help="how many come out, the most confident ones, each "
                        "with a flag (default: 1024)")  # fmt: skip
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of the stored weights; "
                        "float16 halves an .onnx file (default: float32)")  # fmt: skip
    parser.add_argument("--looks", type=int, help="1: quicker, and coarser (default: what the weights were trained "
                        "for, 2)")  # fmt: skip
    add_threshold(parser, 0.1)
    add_weights(parser)
    parser.add_argument("--bank", type=Path, help="text bank instead of the weights' own text, baked in")
    add_overwrite(parser)
    add_progress(parser)


def _do(a: argparse.Namespace) -> int:
    from kornia_tar.raster.synthetic import draw_scene

    if len(a.size) not in (1, 2, 4):
        raise ValueError(f"--size takes one, two or four numbers, got {len(a.size)}")
    size0 = (a.size[0], a.size[-1] if len(a.size) < 4 else a.size[1])
    size1 = size0 if len(a.size) < 4 else (a.size[2], a.size[3])
    check_export(a.out, size0, size1, a.precision)
    check_outputs([a.out], files_of(a.weights, a.bank), overwrite=a.overwrite)
    step = steps(3, a.progress)
    step("loading the weights")
    matcher = TARMatcher(a.weights, threshold=a.threshold, looks=a.looks)
    if a.bank is not None:
        matcher.set_text_prior("bank", path=a.bank)
    modality0, modality1 = (None if name == "auto" else name for name in (a.modality0, a.modality1))
    fixed = FixedMatcher(matcher, modality0, modality1, a.matches)
    output_folder(a.out.parent)
    step("writing, which takes a minute or two")
    write_exported(a.out, fixed, size0, size1, a.precision)
    step("checking")
    scene = draw_scene(0, max(*size0, *size1))
    image0, image1 = (
        torch.from_numpy(image[: size[0], : size[1]].copy())[None, None].float() / 255
        for image, size in ((scene.optical.mean(2).round(), size0), (scene.sar, size1))
    )
    found, megabytes = compare(a.out, fixed, image0, image1), a.out.stat().st_size / 1e6
    told = f"{found.matches} matches of a drawn scene, {found.expected} of the matcher, {found.farthest:.1g} px apart"
    print(f"{a.out}: {megabytes:.1f} MB; {told} at most")
    if not found.farthest < MOST_APART:
        raise ValueError(f"{a.out}: says something else than the matcher, see the line above; do not use it")
    return 0
