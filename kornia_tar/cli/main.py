"""``kornia-tar``: register, register-many, apply, demo, match, landcover, train, export, info, qgis.

Exit codes: 0 done · 1 bad input, option or environment, one line says which · 2 the images could not be registered
reliably · 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import cv2

from kornia_tar import __version__
from kornia_tar.cli import apply, demo, export, info, landcover, match, register, train
from kornia_tar.cli.command import Parser, adder, run_command
from kornia_tar.cli.many import command as register_many
from kornia_tar.cli.qgis import command as qgis

COMMANDS = (register, register_many, apply, demo, match, landcover, train, export, info, qgis)  # as --help lists them
EXAMPLES = """examples:
  kornia-tar demo -o demo/                                the synthetic scene, with its known truth
  kornia-tar register optical.png sar.png -o out/         registered.png, matches.h5, report.json, report.html
  kornia-tar register optical.tif sar.tif -o out/         registered.tif on the optical image's grid (needs [geo])
  kornia-tar register-many pairs.csv -o out/ --workers 4  a table of pairs; summary.csv
  kornia-tar apply out/transform.json s1_vh.tif -o s1_vh_registered.tif   another band of the same product
  kornia-tar match a.png b.png -o matches.h5              matches alone
  kornia-tar landcover optical.png sar.png -o cover.png   the text's map of both images, with a legend
  kornia-tar train --data shards/ --text bank.npz --minutes 60 -o run/
  kornia-tar export tar.onnx --size 256                   the matcher as ONNX (needs [onnx])
  kornia-tar info
  kornia-tar qgis install                                 Processing algorithms in QGIS that call this command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(build_parser(), argv, also=(cv2.error,))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="kornia-tar", description="Optical–SAR image matching and registration (TAR, arXiv 2605.12064).",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"kornia-tar {__version__}")
    command = adder(parser)
    for module in COMMANDS:
        module.add(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
