"""One pair of files, registered into a folder: what ``register`` does once and ``register-many`` for each row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kornia_tar import __version__
from kornia_tar.cli.options import read_pair, stretched
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.outputs.ground import ground_report
from kornia_tar.outputs.journal import FolderJournal
from kornia_tar.outputs.registered import Resampling
from kornia_tar.outputs.results import NAMES, write_results
from kornia_tar.raster import source_files
from kornia_tar.registration import Registrar, Registration, Search, register_georeferenced


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
    resampling: Resampling = "bilinear"
    overwrite: bool = False

    def check(self, more: list[Path]) -> None:
        """Refuse to write over an input, ``more`` among them, or over other files without being told to."""
        read = [*source_files(self.image0), *source_files(self.image1), *more]
        check_outputs((self.out / name for name in NAMES), read, overwrite=self.overwrite)


class PairOutcome(NamedTuple):
    """What became of a pair."""

    registration: Registration
    search: Search
    ground: dict[str, Any]  # see ``outputs.ground.ground_report``
    seconds: float  # without reading and writing


def register_pair(
    job: PairJob, registrar: Registrar, weights: str, tell: Callable[[str], None] | None = None
) -> PairOutcome:
    """Read two files, register them, and write all results into the job's folder.

    What the tiles of large images say is kept in the folder until then: a run that is interrupted goes on there.

    Args:
        job: the files.
        registrar: how.
        weights: their name, for the report.
        tell: is handed the progress of a run of many minutes, in lines.

    Raises:
        FileNotFoundError, ValueError, ImportError: a file that cannot be read or written, named.
    """
    first, second = read_pair(job.image0, job.image1, job.nodata0, job.nodata1)
    out = output_folder(job.out)
    (grey0, modality0), (grey1, modality1) = stretched(first, second, job.modality0, job.modality1)
    journal, started = FolderJournal(out, tell), time.perf_counter()
    registrar = Registrar(registrar.matcher, registrar.config, journal)
    outcome, search = register_georeferenced(
        registrar, first, second, grey0, grey1, modality0, modality1,
        radius=job.search_radius, use=job.use_georeference,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    outcome = outcome.confident(job.threshold)
    ground = ground_report(outcome, first, second)
    report = {"image0": str(job.image0), "image1": str(job.image1), **outcome.report(), **ground,
              "search": search._asdict(), "seconds": round(seconds, 2),
              "weights": weights, "kornia_tar": __version__}  # fmt: skip
    write_results(out, outcome, report, first, second, grey1, how=job.resampling)
    journal.remove()
    return PairOutcome(outcome, search, ground, seconds)
