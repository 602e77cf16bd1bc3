"""Share pairs among workers, whatever these are: local processes or actors of a Ray cluster.

A pair whose worker dies is tried again on another one, once; the dead one is replaced. Nobody waits for a worker that
does not start: pairs are given to those that have started.
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
        """Register one pair; it must have started, and have no other."""

    def end(self) -> None:
        """End it, whatever it does."""


NewWorker = Callable[[], Worker]
Check = Callable[[], None]  # raises where no worker can answer any more


def register_all(
    jobs: Mapping[str, PairJob], new_worker: NewWorker, count: int, check: Check = lambda: None
) -> Generator[tuple[str, Row], None, None]:
    """Register all pairs; yield the name and the row of each as it ends.

    Args:
        jobs: by their names.
        new_worker: makes a worker that has not started yet.
        count: how many workers there are at a time, at most.
        check: is called while nothing ends.

    Raises:
        RuntimeError: pairs are left, and no worker starts; the message says why. What ``check`` raises.
    """
    left, deaths = deque(jobs), Counter[str]()
    workers: list[Worker] = []  # that live
    idle: list[Worker] = []
    tasks: dict[Future[Any], tuple[Worker, str | None]] = {}  # and the pair's name; None: it starts
    failed_starts, why = 0, ""
    try:
        while left or any(name is not None for _, name in tasks.values()):
            busy = sum(name is not None for _, name in tasks.values())
            while len(workers) < min(count, len(left) + busy) and failed_starts < FAILED_STARTS:
                workers.append(worker := new_worker())
                tasks[worker.start()] = worker, None
            while left and idle:
                worker, name = idle.pop(), left.popleft()
                tasks[worker.register(name, jobs[name])] = worker, name
            if not tasks:
                raise RuntimeError(f"no worker starts ({why}); for want of memory? Try fewer --workers")
            while not (done := wait(tasks, PATIENCE, FIRST_COMPLETED).done):
                check()
            for future in done:
                worker, ended = tasks.pop(future)
                error = future.exception()
                if error is None:
                    idle.append(worker)
                    if ended is None:
                        failed_starts = 0
                    else:
                        yield ended, future.result()
                    continue
                why = one_line(error)
                workers.remove(worker)
                worker.end()
                if ended is None:
                    failed_starts += 1
                    _warn(f"a worker does not start ({why})")
                    continue
                deaths[ended] += 1
                if deaths[ended] < TRIES:
                    _warn(f"the worker of {ended} died ({why}); another one tries it again")
                    left.append(ended)  # behind the others: it may have been the pair's fault
                else:
                    reason = f"its worker died {TRIES} times ({why}); for want of memory?"
                    yield ended, replace(waiting(ended, jobs[ended]), status="failed", reason=reason)
    finally:
        for worker in workers:
            worker.end()


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
