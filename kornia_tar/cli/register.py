"""``kornia-tar register``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kornia_tar.cli.command import AddCommand, steps
from kornia_tar.cli.options import (
    add_georeference,
    add_overwrite,
    add_pair,
    add_progress,
    add_registrar,
    add_steering,
    add_target,
    check_folder,
    files_of,
)
from kornia_tar.cli.pair import PairJob, register_pair, tell_outcome
from kornia_tar.outputs.registered import Target
from kornia_tar.registration.files import make_matcher, make_registrar


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
    add_target(parser)
    add_steering(parser)
    add_overwrite(parser)
    add_progress(parser)


def _do(a: argparse.Namespace) -> int:
    check_folder(a.out)
    job = PairJob(
        a.image0, a.image1, a.out, a.modality0, a.modality1, a.nodata0, a.nodata1, a.search_radius,
        not a.no_georeference, a.threshold, Target(a.resampling, a.grid, a.resolution), a.overwrite, a.line,
    )  # fmt: skip
    job.check(files_of(a.weights, a.bank))
    job.check_place()
    step = steps(4, a.progress)
    step("loading the weights")
    matcher = make_matcher(a.weights, a.device, a.threads, a.bank, ignore=a.ignore, prefer=a.prefer)
    registrar = make_registrar(matcher, a.model, a.rotations, a.min_probability)
    tell_line = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    found = register_pair(job, registrar, a.weights, step, tell_line)
    return tell_outcome(found.registration, a.out, found.seconds, found.ground, found.search)
