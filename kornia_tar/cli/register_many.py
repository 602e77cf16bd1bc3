"""``kornia-tar register-many``."""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kornia_tar import Registrar, __version__
from kornia_tar.cli.command import ERRORS, AddCommand
from kornia_tar.cli.options import (
    MODALITY_CHOICES,
    add_georeference,
    add_matcher,
    add_registrar,
    add_resampling,
    files_of,
    make_matcher,
    make_registrar,
)
from kornia_tar.cli.outcome import NOT_REGISTERED
from kornia_tar.cli.pair import NO_SETTINGS, PairJob, PairOutcome, register_pair
from kornia_tar.cli.pair_table import COLUMNS, read_jobs
from kornia_tar.files import check_outputs, one_line, output_folder
from kornia_tar.network.checkpoint import resolve_weights
from kornia_tar.outputs.summary import Row, read_summary, write_parquet, write_summary


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "register-many", _do, "register many pairs of files, and summarise them in one table",
        "kornia-tar register-many pairs.csv -o out/ --workers 4",
    )  # fmt: skip
    parser.add_argument("pairs", type=Path, help=f"CSV with a header; columns {', '.join(COLUMNS)}, of which image0 "
                        "and image1 are needed; paths count from the file's own folder")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for summary.csv and a folder for each "
                        "pair; what is done there is not done again")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="processes, each loads the model once (default: 1)")
    for k, default in enumerate(("optical", "sar")):
        parser.add_argument(f"--modality{k}", choices=MODALITY_CHOICES, default=default,
                            help=f"of all image{k} whose row says none (default: {default})")  # fmt: skip
    add_matcher(parser)
    add_registrar(parser)
    add_georeference(parser)
    add_resampling(parser)


class Setup(NamedTuple):
    """What every worker builds once: a registrar, from plain values that travel to another process."""

    weights: str
    device: str
    threads: int
    bank: Path | None
    model: Any
    rotations: int
    min_probability: float

    def registrar(self) -> Registrar:
        """Build it."""
        matcher = make_matcher(self.weights, self.device, self.threads, self.bank)
        return make_registrar(matcher, self.model, self.rotations, self.min_probability)

    def digest(self) -> str:
        """Say in a few letters what files and settings it is built from."""
        read = [resolve_weights(self.weights), *([] if self.bank is None else [self.bank])]
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in read]
        what = (*files, self.model, self.rotations, self.min_probability, __version__)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


@dataclass
class Progress:
    """Rows as they come, written and told."""

    folder: Path
    rows: dict[str, Row]  # of all pairs, in the order of the file of pairs
    others: list[Row]  # of an earlier file of pairs
    total: int  # that are to be done
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        """Keep a row, on disk when this returns, and say so in one line."""
        self.rows[row.name] = row
        write_summary(self.folder, [*self.rows.values(), *self.others])
        self.done += 1
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        told = f"[{self.done}/{self.total}] {row.name}: {row.status}{row.reason and f' ({row.reason})'}"
        print(f"{told}, {_duration(left)} left", file=sys.stderr, flush=True)


def _do(a: argparse.Namespace) -> int:
    if a.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {a.workers}")
    threads = max(1, (os.cpu_count() or 1) // a.workers) if a.threads is None else a.threads
    setup = Setup(a.weights, a.device, threads, a.bank, a.model, a.rotations, a.min_probability)
    base = PairJob(
        Path(), Path(), a.out, a.modality0, a.modality1, search_radius=a.search_radius,
        use_georeference=not a.no_georeference, threshold=a.threshold, resampling=a.resampling,
        command=a.line,
    )  # fmt: skip
    jobs, known = read_jobs(a.pairs, base), read_summary(a.out)
    read = [a.pairs, *files_of(a.weights, a.bank)]
    check_outputs((a.out / "summary.csv", a.out / "summary.parquet"), read, overwrite=bool(known))
    for name, job in jobs.items():  # a folder that our summary names is ours, and may be written again
        jobs[name] = replace(job, overwrite=name in known)
        jobs[name].check(read)
    registrar = setup.registrar()  # also for workers, who build their own: what is wrong with an option is told here
    digest = setup.digest()
    settings = {name: _settings(digest, job) for name, job in jobs.items()}
    rows = {
        name: known[name] if _is_done(known.get(name), job, settings[name]) else _waiting(name, job)
        for name, job in jobs.items()
    }
    todo = {name: job for name, job in jobs.items() if rows[name].status == "waiting"}
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} pairs are done already", file=sys.stderr)
    others = [row for name, row in known.items() if name not in jobs]  # of another table; their folders are ours, too
    write_summary(output_folder(a.out), [*rows.values(), *others])  # from now on the folders that it names are ours
    progress = Progress(a.out, rows, others, len(todo))
    run = _in_this_process(registrar, a.weights, todo) if a.workers == 1 else _in_processes(setup, todo, a.workers)
    for name, row in run:
        progress.add(replace(row, settings=settings[name]))
    return _end(a.out, list(progress.rows.values()), others)


def _end(out: Path, rows: list[Row], others: list[Row]) -> int:
    """Write the last table, and say what became of all."""
    table = write_parquet(out, [*rows, *others])
    counts = {status: sum(row.status == status for row in rows) for status in ("registered", "refused", "failed")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{told}; see {out / 'summary.csv'}{'' if table else ' (summary.parquet needs pyarrow)'}")
    return 0 if counts["registered"] == len(rows) else NOT_REGISTERED


def _settings(digest: str, job: PairJob) -> str:
    """Say in a few letters all that a pair's result depends on beside the images."""
    told = {key: value for key, value in asdict(job).items() if key not in NO_SETTINGS}
    return hashlib.sha256(repr((digest, sorted(told.items()))).encode()).hexdigest()[:12]


def _waiting(name: str, job: PairJob) -> Row:
    return Row(name, str(job.image0), str(job.image1), "waiting")


def _is_done(row: Row | None, job: PairJob, settings: str) -> bool:
    """Whether an earlier run ended with this pair, in these settings; what failed is tried again."""
    if row is None or (row.image0, row.image1, row.settings) != (str(job.image0), str(job.image1), settings):
        return False
    return row.status in ("registered", "refused") and (job.out / "report.json").is_file()


def _in_this_process(registrar: Registrar, weights: str, jobs: dict[str, PairJob]) -> Iterator[tuple[str, Row]]:
    for name, job in jobs.items():
        yield name, _registered(name, job, registrar, weights)


def _in_processes(setup: Setup, jobs: dict[str, PairJob], workers: int) -> Iterator[tuple[str, Row]]:
    """Share the jobs among processes. When one dies, those that ran are tried again one by one: the culprit fails."""
    waiting, suspects = dict(jobs), list[str]()
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
    while waiting:
        alone = suspects.pop(0) if suspects else None
        batch = list(waiting) if alone is None else [alone]
        size = min(workers, len(batch))
        running: dict[Future[Row], str] = {}
        pool = ProcessPoolExecutor(size, context, _start, (setup,))
        try:
            for name in batch:
                running[pool.submit(_work, name, waiting[name])] = name
                if len(running) >= size:
                    yield from _finished(running, waiting)
            while running:
                yield from _finished(running, waiting)
        except BrokenProcessPool:
            if alone is None:
                suspects = [name for name in batch if name in running.values()]
            else:
                row = _waiting(alone, waiting.pop(alone))
                yield alone, replace(row, status="failed", reason="its worker was killed twice; for want of memory?")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(running: dict[Future[Row], str], waiting: dict[str, PairJob]) -> Iterator[tuple[str, Row]]:
    """Wait for one job or more, and give their rows."""
    ready, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in ready:
        row = future.result()  # BrokenProcessPool leaves it among the running ones
        name = running.pop(future)
        waiting.pop(name)
        yield name, row


_SHARED: list[tuple[Registrar, str]] = []  # of a worker, once it has started


def _start(setup: Setup) -> None:
    _SHARED.append((setup.registrar(), setup.weights))


def _work(name: str, job: PairJob) -> Row:
    return _registered(name, job, *_SHARED[-1])


def _registered(name: str, job: PairJob, registrar: Registrar, weights: str) -> Row:
    """Register one pair; whatever is wrong with it becomes its row."""
    row = _waiting(name, job)
    try:
        found = register_pair(job, registrar, weights)
    except ERRORS as error:
        return replace(row, status="failed", reason=one_line(error))
    except Exception as error:  # a library's own kind, or a fault of ours: this pair's all the same, and no other's
        return replace(row, status="failed", reason=f"{type(error).__name__}: {one_line(error)}")
    return _row(row, found)


def _row(row: Row, found: PairOutcome) -> Row:
    outcome, ground = found.registration, found.ground
    shift = ground["shift_metres"] or {}
    finite = lambda value: value if value is not None and math.isfinite(value) else None  # noqa: E731
    return replace(
        row, status="registered" if outcome.registered else "refused", reason="; ".join(outcome.reasons),
        probability=outcome.probability, error_px=finite(outcome.error_estimate),
        error_metres=finite(ground["error_estimate_metres"]), shift_east_metres=finite(shift.get("east")),
        shift_north_metres=finite(shift.get("north")), search=found.search.kind, seconds=round(found.seconds, 2),
    )  # fmt: skip


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{rest} s"
