"""Matching in processes of its own: one for each matcher and set, several at a time where asked for.

A matcher then shares neither settings nor memory with another one, its peak memory is its own, and one that dies costs
its row and no more.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval import peers
from eval.benchmark import predict, turned
from eval.datasets import open_dataset

PATIENCE = 60.0  # seconds that an interrupted process gets to write what it has


@dataclass(frozen=True)
class Job:
    """One matcher on one set, at some levels.

    Args:
        matcher: the matcher's name.
        data: where the set is, as ``open_dataset`` takes it.
        split: its official part, or None.
        dataset: the set's name.
        names: the pairs to match.
        levels: names of levels.
        threads: of torch and OpenCV.
        cache: folder of cached matches.
        warps: folder of stored warps.
        weights: folder of the peers' weights.
        checkpoint: TAR's, or None for the shipped one.
        download: let a peer's library fetch its weights.
    """

    matcher: str
    data: str
    split: str | None
    dataset: str
    names: tuple[str, ...]
    levels: tuple[str, ...]
    threads: int
    cache: Path
    warps: Path
    weights: Path
    checkpoint: Path | None
    download: bool = False


def run_jobs(jobs: Sequence[Job], at_once: int = 1) -> dict[Job, str]:
    """Run all jobs; returns the reason of each that could not be run.

    An interrupt is passed on to the processes, which write what they have.

    Raises:
        ValueError, FileNotFoundError, TypeError: the first error of the user's making in any of them.
    """
    context = _context()
    messages: Any = context.Queue()
    waiting, reasons = list(enumerate(jobs)), dict[Job, str]()
    running: dict[int, BaseProcess] = {}
    total = sum(len(job.names) * len(job.levels) for job in jobs)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end is an interrupt
    with tqdm(total=total, unit="pair", file=sys.stderr) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    index, job = waiting.pop(0)
                    running[index] = context.Process(target=_work, args=(index, job, messages))
                    running[index].start()
                bar.set_description(", ".join(sorted(f"{jobs[i].matcher} on {jobs[i].dataset}" for i in running)))
                try:
                    index, kind, what = messages.get(timeout=1)
                except queue.Empty:
                    dead = [i for i, process in running.items() if not process.is_alive()]
                    if messages.empty():  # else the last words of a dead one may be among those unread
                        for index in dead:
                            code = running.pop(index).exitcode
                            reasons[jobs[index]] = f"its process died with exit code {code}; run again to go on"
                    continue
                if kind == "pairs":
                    bar.update(what)
                    continue
                if index in running:
                    running.pop(index).join()
                if kind == "not run":
                    reasons[jobs[index]] = what
                elif kind == "error":
                    raise what
        except BaseException:
            _stop(list(running.values()))
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
    return reasons


def _context() -> Any:
    """Let processes be forked from one that has imported the libraries, and has done nothing else, where that is had.

    Importing them takes each process four seconds, and what counts its FLOPs imports torch._dynamo, three more. A fork
    of *this* process could inherit locks of its threads. A matcher's peak memory counts what is imported there.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kornia.feature", "torch._dynamo", "h5py", "cv2", __name__])
    return context


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join(PATIENCE)
        process.kill()


def _work(index: int, job: Job, messages: Any) -> None:
    """Do a job in a process of its own and say how it went."""
    parent = multiprocessing.parent_process()

    def tick(number: int) -> None:
        if parent is not None and not parent.is_alive():  # killed: an orphan must not go on and write
            raise KeyboardInterrupt
        messages.put((index, "pairs", number))

    try:
        messages.put((index, *_outcome(job, tick)))
    except KeyboardInterrupt:
        messages.cancel_join_thread()  # nobody reads any more
        sys.exit(130)


def _outcome(job: Job, tick: Callable[[int], None]) -> tuple[str, Any]:
    predict.set_threads(job.threads)
    try:
        matcher = turned.create(job.matcher, job.weights, job.checkpoint, download=job.download)
        dataset = next(found for found in open_dataset(job.data, job.split) if found.name == job.dataset)
        for level in job.levels:
            predict.predict(dataset, level, matcher, job.matcher, job.cache, job.names, job.warps, tick)
    except peers.MatcherUnavailable as reason:
        return "not run", str(reason)
    except (ValueError, FileNotFoundError, TypeError) as error:
        return "error", error
    return "done", None
