"""What a pair's result depends on beside its images' names, so that the next run knows what is done."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from kornia_tar import Registrar, __version__
from kornia_tar.cli.pair import NO_SETTINGS, PairJob
from kornia_tar.network.checkpoint import resolve_weights
from kornia_tar.outputs.summary import Row
from kornia_tar.registration.files import make_matcher, make_registrar


class Setup(NamedTuple):
    """What every worker builds once: a registrar, from plain values that travel to another process."""

    weights: str
    device: str
    threads: int
    bank: Path | None
    model: Any
    rotations: int
    min_probability: float
    ignore: tuple[str, ...]
    prefer: tuple[str, ...]

    def registrar(self) -> Registrar:
        """Build it."""
        matcher = make_matcher(
            self.weights, self.device, self.threads, self.bank, ignore=self.ignore, prefer=self.prefer
        )
        return make_registrar(matcher, self.model, self.rotations, self.min_probability)

    def digest(self) -> str:
        """Say in a few letters what files and settings it is built from."""
        read = [resolve_weights(self.weights), *([] if self.bank is None else [self.bank])]
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in read]
        what = (*files, self.model, self.rotations, self.min_probability, self.ignore, self.prefer, __version__)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def settings_of(digest: str, job: PairJob) -> str:
    """Say in a few letters all that a pair's result depends on beside the images' names.

    Of the images that is their size and when they were last written, as ``make`` has it: to read them takes long.
    """
    told = {key: value for key, value in asdict(job).items() if key not in NO_SETTINGS}
    images = [_state(image) for image in (job.image0, job.image1)]
    return hashlib.sha256(repr((digest, sorted(told.items()), images)).encode()).hexdigest()[:12]


def _state(path: Path) -> tuple[int, int] | None:
    """A file's bytes and when it was written, ns; None where it cannot be asked, which its reader tells."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def is_done(row: Row | None, job: PairJob, settings: str) -> bool:
    """Whether an earlier run ended with this pair, in these settings; what failed is tried again."""
    if row is None or (row.image0, row.image1, row.settings) != (str(job.image0), str(job.image1), settings):
        return False
    return row.status in ("registered", "refused") and (job.out / "report.json").is_file()
