"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from kornia_tar.conventions import MODALITIES
from kornia_tar.network.checkpoint import resolve_weights
from kornia_tar.outputs.registered import GridChoice, Resampling
from kornia_tar.raster import Raster, read_image, remarks, source_files
from kornia_tar.raster.image import IMAGE_SUFFIXES
from kornia_tar.registration.acceptance import RIGHT, AcceptanceConfig
from kornia_tar.registration.config import RegistrationModel

MODALITY_CHOICES = (*MODALITIES, "auto")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Whose weights."""
    parser.add_argument("--weights", default="optical-sar", help="name of shipped weights or a .safetensors file")


def add_matcher(parser: argparse.ArgumentParser) -> None:
    """Which matcher, and where it runs; see :func:`kornia_tar.registration.files.make_matcher`."""
    add_weights(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--bank", type=Path, help="text bank (.npz, .safetensors, .h5) instead of the weights' own text"
    )


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Two images, how they are read, and the matcher for them."""
    parser.add_argument("image0", type=Path, help="reference image, usually optical")
    parser.add_argument("image1", type=Path, help="image to bring onto it, usually SAR")
    add_reading(parser)
    add_matcher(parser)


def add_reading(parser: argparse.ArgumentParser, which: str = "") -> None:
    """How images are read, and which ones if not all; see :func:`kornia_tar.registration.files.stretched`."""
    for k, default in enumerate(("optical", "sar")):
        parser.add_argument(f"--modality{k}", choices=MODALITY_CHOICES, default=default,
                            help=f"of image{k}{which}; auto: by its bands and depth, "
                            f"else inferred by the network (default: {default})")  # fmt: skip
    for k in range(2):
        parser.add_argument(f"--nodata{k}", type=float, metavar="V", help=f"value of missing pixels of image{k}"
                            f"{which}, beside what the file declares; --nodata{k}=-9999 with the =")  # fmt: skip


def add_threshold(parser: argparse.ArgumentParser, default: float) -> None:
    """Which matches or tie points are written: the calibrated probability of an error below 3 px."""
    parser.add_argument(
        "--threshold", type=float, default=default, help="least confidence of what is written, the probability that it "
        f"is right to 3 px (default: {default:g})"
    )  # fmt: skip


def add_registrar(parser: argparse.ArgumentParser) -> None:
    """How to register; see :func:`kornia_tar.registration.files.make_registrar`."""
    add_threshold(parser, 0.0)
    parser.add_argument("--model", choices=get_args(RegistrationModel), default="affine",
                        help="transform to fit; spline: an affine one and a smooth field, for relief; auto: the "
                        "simplest that cells which were held out do not reject (default: affine)")  # fmt: skip
    parser.add_argument("--rotations", type=int, choices=(1, 4, 8), default=8, help="8: any rotation; 4: "
                        "multiples of 90° only, faster on refused pairs; 1: no search (default: 8)")  # fmt: skip
    parser.add_argument("--min-probability", type=float, default=AcceptanceConfig.min_probability, help="least "
                        f"probability that the transform is right to {RIGHT:g} px, in [0, 1]; below it the pair is "
                        "refused (default: %(default)s)")  # fmt: skip


def add_steering(parser: argparse.ArgumentParser) -> None:
    """Which words steer; see :mod:`kornia_tar.matching.steer`."""
    parser.add_argument("--ignore", type=_words, default=(), metavar="WORDS", help="cells that bear these words of the "
                        "text, or of these groups, have no vote, comma-separated: water, flood, ...")  # fmt: skip
    parser.add_argument("--prefer", type=_words, default=(), metavar="WORDS", help="cells that bear these words or "
                        "groups count for more: road, built-up, ...")  # fmt: skip


def _words(told: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in told.split(",") if word.strip())


def add_overwrite(parser: argparse.ArgumentParser, what: str = "earlier results") -> None:
    """Whether earlier results may be replaced; see :func:`kornia_tar.files.check_outputs`."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}; an input is never replaced")


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Whether to say what goes on; see :func:`kornia_tar.cli.command.steps`."""
    parser.add_argument("--progress", action="store_true", help="say on stderr what goes on, as [2/4] reading")


def add_target(parser: argparse.ArgumentParser) -> None:
    """On which grid pixels are written, and how; see :class:`kornia_tar.outputs.registered.Target`."""
    parser.add_argument("--grid", choices=get_args(GridChoice), default="reference", help="to write on: image0's, or "
                        "image1's own reference system, pixels and extent, its content moved to where it belongs "
                        "(default: reference)")  # fmt: skip
    parser.add_argument("--resolution", type=float, metavar="UNITS", help="sides of the written pixels, in units of "
                        "the grid's reference system: metres of UTM, degrees of EPSG:4326 (default: its "
                        "own)")  # fmt: skip
    parser.add_argument("--resampling", choices=get_args(Resampling), default="bilinear", help="onto that grid; "
                        "nearest mixes nothing, else what is finer is averaged over areas first "
                        "(default: bilinear)")  # fmt: skip


def seed(text: str) -> int:
    """A seed as argparse reads it; the option is named by argparse."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def check_folder(out: Path) -> None:
    """Refuse ``-o x.tif`` where a folder is meant, which would make one of that name.

    Raises:
        ValueError: it is an image's name, and no folder is there.
    """
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
        raise ValueError(f"{out}: -o is a folder for all results here, not an image; leave {out.suffix} off")


def inputs_of(image0: Path, image1: Path, weights: str, bank: Path | None) -> list[Path]:
    """List all files that the options of :func:`add_pair` name."""
    return [*source_files(image0), *source_files(image1), *files_of(weights, bank)]


def files_of(weights: str, bank: Path | None) -> list[Path]:
    """List all files that the options of :func:`add_matcher` name.

    Raises:
        FileNotFoundError: no such weights.
    """
    return [resolve_weights(weights), *([] if bank is None else [bank])]


def add_georeference(parser: argparse.ArgumentParser) -> None:
    """How georeferences are used; see :func:`kornia_tar.registration.register_georeferenced`."""
    parser.add_argument("--search-radius", type=float, metavar="METRES", help="how far image1 may lie from where its "
                        "georeference says (default: by the data; 500 m or more at 10 m)")  # fmt: skip
    parser.add_argument("--no-georeference", action="store_true", help="search by the pixels alone, as without "
                        "georeferences; not with --search-radius")  # fmt: skip


def read_pair(image0: Path, image1: Path, nodata0: float | None, nodata1: float | None) -> tuple[Raster, Raster]:
    """Read both images; what their user should know, such as an undeclared nodata value, goes to stderr in a line."""
    pair = read_image(image0, nodata=nodata0, windowed=True), read_image(image1, nodata=nodata1, windowed=True)
    for k, raster in enumerate(pair):
        for told in remarks(raster, f"--nodata{k}"):
            print(f"warning: {told}", file=sys.stderr)
    return pair
