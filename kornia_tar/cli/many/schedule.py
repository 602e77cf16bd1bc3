"""Share pairs among workers, whatever these are: local processes or actors of a Ray cluster.

A pair whose worker dies is tried again on another one, once, and alone; the dead one is replaced. Nobody waits for a
worker that does not start: pairs are given to those that have started.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any, Protocol

from kornia_tar.cli.many.worker import waiting
from kornia_tar.cli.pair import PairJob
from kornia_tar.files import one_line
from kornia_tar.outputs.summary import Row

TRIES = 2  # of a pair whose workers die
FAILED_STARTS = 3  # in a row, after which no more workers are started
PATIENCE = 10.0  # seconds in which nothing ends, after which it is asked whether anything can


class Worker(Protocol):
    """A :class:`kornia_tar.cli.many.worker.PairWorker` somewhere; a future that raises means that it is lost."""

    def start(self) -> Future[None]:
        """Build its registrar."""

    def register(self, name: str, job: PairJob) -> Future[Row]:
        """Register one pair; it must have started, and have fewer than it can do at once."""

    def end(self) -> None:
        """End it, whatever it does."""


NewWorker = Callable[[], Worker]
Check = Callable[[], None]  # raises where no worker can answer any more


def register_all(
    jobs: Mapping[str, PairJob], new_worker: NewWorker, count: int, check: Check = lambda: None, at_once: int = 1
) -> Generator[tuple[str, Row], None, None]:
    """Register all pairs; yield the name and the row of each as it ends.

    Args:
        jobs: by their names.
        new_worker: makes a worker that has not started yet.
        count: how many workers there are at a time, at most.
        check: is called while nothing ends.
        at_once: how many pairs a worker does at once; with more than its share the first one to start takes others'.

    Raises:
        RuntimeError: pairs are left, and no worker starts; the message says why. What ``check`` raises.
    """
    left, again = deque(jobs), deque[str]()  # those whose worker died come last, for it may have been their fault
    deaths = Counter[str]()
    workers: list[Worker] = []  # that live
    free: dict[Worker, int] = {}  # how many more pairs each that has started can take
    # Whose work each is, the pair, None: it starts; and how many pairs' room it takes.
    tasks: dict[Future[Any], tuple[Worker, str | None, int]] = {}
    failed_starts, why = 0, ""

    def give(worker: Worker, name: str, room: int) -> None:
        free[worker] -= room
        tasks[worker.register(name, jobs[name])] = worker, name, room

    try:
        while left or again or any(name is not None for _, name, _ in tasks.values()):
            undone = len(left) + len(again) + sum(name is not None for _, name, _ in tasks.values())
            while len(workers) < min(count, undone) and failed_starts < FAILED_STARTS:
                workers.append(worker := new_worker())
                tasks[worker.start()] = worker, None, at_once
            while left and free and free[worker := max(free, key=free.__getitem__)] > 0:
                give(worker, left.popleft(), 1)
            for worker in [worker for worker, room in free.items() if room == at_once][: len(again)]:
                give(worker, again.popleft(), at_once)  # alone, or it would take others with it
            if not tasks:
                raise RuntimeError(f"no worker starts ({why}); for want of memory? Try fewer --workers")
            while not (done := wait(tasks, PATIENCE, FIRST_COMPLETED).done):
                check()
            for future in done:
                worker, ended, room = tasks.pop(future)
                error = future.exception()
                if error is None:
                    if worker in workers:  # it may have died since
                        free[worker] = free.get(worker, 0) + room
                    if ended is None:
                        failed_starts = 0
                    else:
                        yield ended, future.result()
                    continue
                why = one_line(error)
                if worker in workers:  # else another pair of its has told
                    workers.remove(worker)
                    free.pop(worker, None)
                    worker.end()
                if ended is None:
                    failed_starts += 1
                    _warn(f"a worker does not start ({why})")
                    continue
                deaths[ended] += 1
                if deaths[ended] < TRIES:
                    _warn(f"the worker of {ended} died ({why}); another one tries it again")
                    again.append(ended)
                else:
                    reason = f"its worker died {TRIES} times ({why}); for want of memory?"
                    yield ended, replace(waiting(ended, jobs[ended]), status="failed", reason=reason)
    finally:
        for worker in workers:
            worker.end()


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
