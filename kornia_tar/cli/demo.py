"""``kornia-tar demo``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from kornia_tar import __version__
from kornia_tar.cli.command import AddCommand
from kornia_tar.cli.options import add_matcher, add_overwrite, add_registrar, check_folder, files_of, seed
from kornia_tar.cli.pair import tell_outcome
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.geometry import corner_error
from kornia_tar.outputs.results import NAMES, write_results
from kornia_tar.raster import Raster, write_image
from kornia_tar.raster.write import check_sidecars
from kornia_tar.registration.files import check_options, make_matcher, make_registrar, registrar_settings


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command("demo", _do, "register the synthetic demo scene and compare with its truth", "kornia-tar demo")
    parser.add_argument("-o", "--out", type=Path, default=Path("demo"), help="folder for the results (default: demo)")
    parser.add_argument("--seed", type=seed, default=0, help="which scene is drawn (default: 0)")
    add_matcher(parser)
    add_registrar(parser)
    add_overwrite(parser)


def _do(a: argparse.Namespace) -> int:
    from kornia_tar.raster.synthetic import demo_pair

    check_options(a.threshold)
    check_folder(a.out)
    outputs = [a.out / name for name in ("optical.png", "sar.png", *NAMES)]
    check_outputs(outputs, files_of(a.weights, a.bank), overwrite=a.overwrite)
    check_sidecars(outputs)
    matcher, out = make_matcher(a.weights, a.device, a.threads, a.bank), output_folder(a.out)
    optical, sar, truth = demo_pair(a.seed)
    write_image(out / "optical.png", optical)
    write_image(out / "sar.png", sar)
    started = time.perf_counter()
    registrar = make_registrar(matcher, a.model, a.rotations, a.min_probability)
    outcome = registrar(optical, sar)
    seconds = time.perf_counter() - started
    outcome = outcome.confident(a.threshold)
    error = corner_error(outcome.matrix, truth, optical.shape[:2])
    report = {"scene": f"synthetic, seed {a.seed}", "truth": truth, "corner_error_px": error, **outcome.report(),
              "seconds": round(seconds, 2), "weights": str(a.weights), "kornia_tar": __version__,
              "settings": {"seed": a.seed, "threshold": a.threshold, **registrar_settings(registrar)},
              "command": a.line}  # fmt: skip
    first = Raster(optical, np.ones(optical.shape[:2], bool), None, out / "optical.png")
    second = Raster(sar, np.ones(sar.shape, bool), None, out / "sar.png")
    headline = f"synthetic scene, seed {a.seed}: mean corner error {error:.2f} px against the known truth"
    write_results(out, outcome, report, first, second, sar, headline)
    print(f"mean corner error against the known truth: {error:.2f} px")
    return tell_outcome(outcome, out, seconds)
