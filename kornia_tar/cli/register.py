"""``kornia-tar register``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kornia_tar import __version__
from kornia_tar.cli.command import AddCommand
from kornia_tar.cli.options import (
    add_georeference,
    add_overwrite,
    add_pair,
    add_registrar,
    add_resampling,
    inputs_of,
    make_matcher,
    make_registrar,
    read_pair,
    stretched,
)
from kornia_tar.cli.outcome import tell
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.outputs.ground import ground_report
from kornia_tar.outputs.results import NAMES, write_results
from kornia_tar.registration import register_georeferenced


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "register", _do, "lay the second image exactly onto the first",
        "kornia-tar register optical.png sar.png -o out/",
    )  # fmt: skip
    add_pair(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results; made when missing")
    add_registrar(parser)
    add_georeference(parser)
    add_resampling(parser)
    add_overwrite(parser)


def _do(a: argparse.Namespace) -> int:
    check_outputs(
        (a.out / name for name in NAMES), inputs_of(a.image0, a.image1, a.weights, a.bank), overwrite=a.overwrite
    )
    first, second = read_pair(a.image0, a.image1, a.nodata0, a.nodata1)
    matcher, out = make_matcher(a.weights, a.device, a.threads, a.bank), output_folder(a.out)
    (grey0, modality0), (grey1, modality1) = stretched(first, second, a.modality0, a.modality1)
    started = time.perf_counter()
    outcome, search = register_georeferenced(
        make_registrar(matcher, a.model, a.rotations, a.min_probability), first, second, grey0, grey1,
        modality0, modality1, radius=a.search_radius, use=not a.no_georeference,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    outcome = outcome.confident(a.threshold)
    ground = ground_report(outcome, first, second)
    report = {"image0": str(a.image0), "image1": str(a.image1), **outcome.report(), **ground,
              "search": search._asdict(), "seconds": round(seconds, 2),
              "weights": str(a.weights), "kornia_tar": __version__}  # fmt: skip
    write_results(out, outcome, report, first, second, grey1, how=a.resampling)
    return tell(outcome, out, seconds, ground, search)
