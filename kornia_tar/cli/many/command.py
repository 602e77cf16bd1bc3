"""``kornia-tar register-many``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from kornia_tar import Registrar
from kornia_tar.cli.command import AddCommand
from kornia_tar.cli.many.local import LocalProcess, ThisProcess
from kornia_tar.cli.many.progress import Progress
from kornia_tar.cli.many.ray_cluster import RayWorker, check_cluster, joined
from kornia_tar.cli.many.schedule import Check, NewWorker, register_all
from kornia_tar.cli.many.settings import Setup, is_done, settings_of
from kornia_tar.cli.many.table import COLUMNS, read_jobs
from kornia_tar.cli.many.worker import waiting
from kornia_tar.cli.options import (
    add_georeference,
    add_matcher,
    add_overwrite,
    add_reading,
    add_registrar,
    add_steering,
    add_target,
    check_folder,
    files_of,
)
from kornia_tar.cli.pair import NOT_REGISTERED, PairJob
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.matching.device import choose_device
from kornia_tar.outputs.registered import Target
from kornia_tar.outputs.results import remove_results
from kornia_tar.outputs.summary import Row, read_summary, write_parquet, write_summary

# How a worker is made, how many there are at most, what checks on them all, how many pairs each does at once.
Crew = tuple[NewWorker, int, Check, int]
ON_GPU = 8  # pairs at once: enough that some wait while others align on the CPU; untried on a GPU so far


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
    parser.add_argument("--workers", type=int, help="processes, each loads the model once (default: 1; with Ray one a "
                        "GPU, or by the cores)")  # fmt: skip
    parser.add_argument("--at-once", type=int, metavar="N", help="pairs that each worker registers side by side, their "
                        f"images encoded in batches (default: {ON_GPU} on a GPU, else 1)")  # fmt: skip
    parser.add_argument("--ray-address", metavar="ADDRESS", help="run them on a Ray cluster: ray://HOST:PORT, auto for "
                        "the one that this machine belongs to, local to start one here (needs [ray])")  # fmt: skip
    add_reading(parser, " where the row says none")
    add_matcher(parser)
    add_registrar(parser)
    add_georeference(parser)
    add_target(parser)
    add_steering(parser)
    add_overwrite(parser, "results of other commands in these folders")


def _do(a: argparse.Namespace) -> int:
    check_folder(a.out)
    for option, number in (("--workers", a.workers), ("--at-once", a.at_once)):
        if number is not None and number < 1:
            raise ValueError(f"{option} must be at least 1, got {number}")
    threads = max(1, (os.cpu_count() or 1) // (a.workers or 1)) if a.threads is None else a.threads
    setup = Setup(a.weights, a.device, threads, a.bank, a.model, a.rotations, a.min_probability, a.ignore, a.prefer)
    base = PairJob(
        Path(), Path(), a.out, a.modality0, a.modality1, a.nodata0, a.nodata1, a.search_radius,
        not a.no_georeference, a.threshold, Target(a.resampling, a.grid, a.resolution), a.overwrite, a.line,
    )  # fmt: skip
    jobs, known = read_jobs(a.pairs, base), read_summary(a.out)
    read = [a.pairs, *files_of(a.weights, a.bank)]
    check_outputs((a.out / "summary.csv", a.out / "summary.parquet"), read, overwrite=a.overwrite or bool(known))
    for name, job in jobs.items():  # a folder that our summary names is ours, and may be written again
        jobs[name] = replace(job, overwrite=a.overwrite or name in known)
        jobs[name].check(read)
    here = setup if not a.ray_address else setup._replace(device="cpu")  # the GPUs are elsewhere
    registrar = here.registrar()  # also for workers, who build their own: what is wrong with an option is told here
    digest = setup.digest()
    settings = {name: settings_of(digest, job) for name, job in jobs.items()}
    rows = {
        name: known[name] if is_done(known.get(name), job, settings[name]) else waiting(name, job)
        for name, job in jobs.items()
    }
    todo = {name: job for name, job in jobs.items() if rows[name].status == "waiting"}
    for job in todo.values():  # one that is done may have been georeferenced by its user since
        job.check_place()
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} pairs are done already", file=sys.stderr)
    if anew := sum(known[name].status in ("registered", "refused") for name in todo if name in known):
        print(f"{anew} of {len(jobs)} pairs are done anew: files, settings or weights have changed", file=sys.stderr)
    others = [row for name, row in known.items() if name not in jobs]  # of another table; their folders are ours, too
    if a.ray_address and todo:
        crew = _on_ray(setup, a.ray_address, a.workers, a.threads, a.at_once, len(todo))
    else:
        crew = _here(here, registrar, a.workers, a.at_once, len(todo))
    with (
        crew as (new_worker, count, check, at_once),
        closing(register_all(todo, new_worker, count, check, at_once)) as run,
    ):
        write_summary(output_folder(a.out), [*rows.values(), *others])  # from now on its folders are ours
        progress = Progress(a.out, rows, others, len(todo))
        for name, row in run:
            if row.status == "failed":
                remove_results(jobs[name].out)  # of an earlier run, which the summary would belie
            progress.add(replace(row, settings=settings[name]))
    return _end(a.out, list(rows.values()), others)


@contextmanager
def _here(setup: Setup, registrar: Registrar, workers: int | None, at_once: int | None, pairs: int) -> Iterator[Crew]:
    """The workers of this machine; one alone takes the registrar that is there."""
    each = _each(at_once, choose_device(setup.device), pairs, workers or 1)
    if workers is None or workers == 1:
        yield partial(ThisProcess, lambda: registrar, setup.weights, each), 1, lambda: None, each
    else:
        yield partial(LocalProcess, setup.registrar, setup.weights, each), workers, lambda: None, each


@contextmanager
def _on_ray(
    setup: Setup, address: str, workers: int | None, threads: int | None, at_once: int | None, pairs: int
) -> Iterator[Crew]:
    """The same for a cluster, which is left at the end."""
    with joined(address, workers, threads, setup.device) as shares:
        there = setup._replace(device=shares.device, threads=shares.threads)
        each = _each(at_once, shares.device, pairs, shares.workers)
        yield partial(RayWorker, there.registrar, setup.weights, shares, each), shares.workers, check_cluster, each


def _each(told: int | None, device: str, pairs: int, workers: int) -> int:
    """How many pairs a worker does at once: as many as are told, else by the device; no more than there are for it."""
    wanted = told or (ON_GPU if device.startswith("cuda") else 1)  # torch does not bear threads on Apple's GPUs
    return max(1, min(wanted, -(-pairs // workers)))


def _end(out: Path, rows: list[Row], others: list[Row]) -> int:
    """Write the last table, and say what became of all."""
    table = write_parquet(out, [*rows, *others])
    counts = {status: sum(row.status == status for row in rows) for status in ("registered", "refused", "failed")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    hint = "" if table else ' (summary.parquet needs pyarrow: pip install "kornia-tar[many]")'
    print(f"{told}; see {out / 'summary.csv'}{hint}")
    return 0 if counts["registered"] == len(rows) else NOT_REGISTERED
