"""One pair of files, registered into a folder, and how that ended.

``register`` does it once, ``register-many`` for each row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kornia_tar import __version__
from kornia_tar.cli.command import Step
from kornia_tar.cli.options import read_pair
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.geometry import Transform
from kornia_tar.outputs.ground import ground_report
from kornia_tar.outputs.journal import FolderJournal
from kornia_tar.outputs.registered import Target
from kornia_tar.outputs.results import NAMES, write_results
from kornia_tar.raster import source_files
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.read import remarks
from kornia_tar.raster.write import check_sidecars
from kornia_tar.registration import Registrar, Registration, Search
from kornia_tar.registration.files import check_options, register_rasters, registrar_settings, unused_radius

NOT_REGISTERED = 2  # exit code
NO_SETTINGS = ("image0", "image1", "out", "overwrite", "command")  # of a job: what it is of, not how it is done


@dataclass(frozen=True)
class PairJob:
    """Two files, the folder of their results, and what is told of them; as the options of ``register`` have it."""

    image0: Path
    image1: Path
    out: Path
    modality0: str = "optical"
    modality1: str = "sar"
    nodata0: float | None = None
    nodata1: float | None = None
    search_radius: float | None = None
    use_georeference: bool = True
    threshold: float = 0.0
    target: Target = field(default_factory=Target)
    overwrite: bool = False
    command: str = ""  # as it was typed

    def __post_init__(self) -> None:
        check_options(self.threshold, self.search_radius, self.use_georeference)

    def check(self, more: list[Path]) -> None:
        """Refuse to write over an input, ``more`` among them, or over other files without being told to."""
        read = [*source_files(self.image0), *source_files(self.image1), *more]
        check_outputs((self.out / name for name in NAMES), read, overwrite=self.overwrite)

    def check_place(self) -> None:
        """Refuse to write images beside files that would say of them where they lie."""
        check_sidecars(self.out / name for name in NAMES)


class PairOutcome(NamedTuple):
    """What became of a pair."""

    registration: Registration
    search: Search
    ground: dict[str, Any]  # see ``outputs.ground.ground_report``
    seconds: float  # without reading and writing


def register_pair(
    job: PairJob, registrar: Registrar, weights: str, step: Step = lambda text: None,
    tell: Callable[[str], None] | None = None,
) -> PairOutcome:  # fmt: skip
    """Read two files, register them, and write all results into the job's folder.

    What the tiles of large images say is kept in the folder until then: a run that is interrupted goes on there.

    Args:
        job: the files.
        registrar: how.
        weights: their name, for the report.
        step: is told which step of three begins.
        tell: is handed the progress of a run of many minutes, in lines.

    Raises:
        FileNotFoundError, ValueError, ImportError: a file that cannot be read or written, named.
    """
    step("reading")
    first, second = read_pair(job.image0, job.image1, job.nodata0, job.nodata1)
    job.target.reached(Transform(np.eye(3)), Grid.of(first), Grid.of(second))  # what cannot be is said before the work
    out = output_folder(job.out)
    step("registering")
    journal = FolderJournal(out, tell)
    outcome, search, grey1, seconds = register_rasters(
        registrar.with_journal(journal), first, second, job.modality0, job.modality1,
        job.search_radius, job.use_georeference, job.threshold,
    )  # fmt: skip
    if not outcome.registered:
        outcome = outcome.because(*remarks(first, "--nodata0"), *remarks(second, "--nodata1"))
    if told := unused_radius(job.search_radius, search):
        print(f"warning: {told}", file=sys.stderr)
    step("writing")
    ground = ground_report(outcome, first, second)
    settings = {k: v for k, v in asdict(job).items() if k not in NO_SETTINGS} | registrar_settings(registrar)
    report = {"image0": str(job.image0), "image1": str(job.image1), **outcome.report(), **ground,
              "search": search._asdict(), "seconds": round(seconds, 2),
              "weights": weights, "kornia_tar": __version__, "settings": settings, "command": job.command}  # fmt: skip
    written = write_results(out, outcome, report, first, second, grey1, target=job.target)
    if written and written["stretched"]:
        print(f"warning: {out / 'registered.png'}: {written['stretched']}", file=sys.stderr)
    journal.remove()
    return PairOutcome(outcome, search, ground, seconds)


def tell_outcome(
    outcome: Registration,
    out: Path,
    seconds: float,
    ground: Mapping[str, Any] | None = None,
    search: Search | None = None,
) -> int:
    """Say in one line how a registration ended; returns the exit code.

    Args:
        outcome: what the registrar says.
        out: folder of the results.
        seconds: that it took.
        ground: as :func:`kornia_tar.outputs.ground.ground_report` gives it.
        search: which search led to it, if there was a choice.
    """
    count = f"{int(outcome.inliers.sum())} inliers of {len(outcome.matches)} matches, {seconds:.1f} s"
    ground = ground or {}
    if not outcome.registered:
        told = refusal(outcome, ground, search)
        print(f"not registered: {told} ({count}); see {out / 'report.html'}", file=sys.stderr)
        return NOT_REGISTERED
    error, shift = ground.get("error_estimate_metres"), ground.get("shift_metres")
    parts = [
        f"probability {outcome.probability:.2f}, estimated error {outcome.error_estimate:.2f} px"
        + ("" if error is None else f" ({error:.1f} m)")
    ]
    if shift is not None:
        parts.append(f"image1's georeference is off by {round(shift['east'])} m east, {round(shift['north'])} m north")
    if searched := _searched(search, ground):
        parts.append(searched)
    print(f"registered: {', '.join([*parts, count])}; see {out / 'report.html'}")
    return 0


def refusal(outcome: Registration, ground: Mapping[str, Any], search: Search | None) -> str:
    """Say why a pair is refused, and where it was looked for."""
    searched = _searched(search, ground)
    tried = f" — {searched}" if searched else ""
    tried += "; --search-radius widens it" if search is not None and search.radius is not None else ""
    return "; ".join(outcome.reasons) + tried


def _searched(search: Search | None, ground: Mapping[str, Any]) -> str:
    """Which search it was, in words; empty where no file says where it lies, for then there was no choice."""
    georeferenced = any(ground.get(key) is not None for key in ("gsd0_metres", "gsd1_metres"))
    return search.why if search is not None and georeferenced else ""
