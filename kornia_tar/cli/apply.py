"""``kornia-tar apply``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kornia_tar.cli.command import AddCommand, steps
from kornia_tar.cli.options import add_overwrite, add_progress, add_target
from kornia_tar.outputs.apply import applied
from kornia_tar.outputs.registered import Target


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "apply", _do, "lay other bands, polarisations or resolutions of image1's product onto image0",
        "kornia-tar apply out/transform.json s1_vh.tif -o s1_vh_registered.tif\n"
        "  kornia-tar apply out/transform.json s1_vv.tif s1_vh.tif incidence.tif -o registered/",
    )  # fmt: skip
    parser.add_argument("transform", type=Path, help="transform.json of a registration")
    parser.add_argument("images", type=Path, nargs="+", help="files of the product that image1 is of; by their own "
                        "georeferences where both have one, else as pictures of the same extent")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write, .tif, or .png where 8 "
                        "or 16 bits hold the values; or a folder, for NAME_registered.tif of each image")  # fmt: skip
    add_target(parser)
    parser.add_argument("--nodata", type=float, metavar="V", help="value of the images' missing pixels, beside what "
                        "the files declare; --nodata=-9999 with the =")  # fmt: skip
    parser.add_argument("--refused", action="store_true", help="apply a transform that the registration refused, too")
    add_overwrite(parser)
    add_progress(parser)


def _do(a: argparse.Namespace) -> int:
    done = applied(
        a.transform, a.images, a.out, Target(a.resampling, a.grid, a.resolution), a.nodata, a.refused, a.overwrite,
        steps(len(a.images), a.progress),
    )  # fmt: skip
    for file in done:
        for told in file.warnings:
            print(f"warning: {told}", file=sys.stderr)
        print(f"{file.path}: {file.share:.0%} of the grid")
    return 0
