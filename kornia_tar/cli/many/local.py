"""Workers on this machine: this very process, or others."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from kornia_tar.cli.many.worker import MakeRegistrar, PairWorker
from kornia_tar.cli.pair import PairJob
from kornia_tar.files import one_line
from kornia_tar.outputs.summary import Row


class ThisProcess:
    """A worker that is no other process: it has done its work when it hands over the future."""

    def __init__(self, make: MakeRegistrar, weights: str) -> None:
        self._worker = PairWorker(make, weights)

    def start(self) -> Future[None]:
        """Build the registrar."""
        return _done(self._worker.start)

    def register(self, name: str, job: PairJob) -> Future[Row]:
        """Register one pair."""
        return _done(self._worker.register, name, job)

    def end(self) -> None:
        """There is nothing to end."""


class LocalProcess:
    """A worker in a process of its own, which ends when this one does, however that ends."""

    def __init__(self, make: MakeRegistrar, weights: str) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, weights), daemon=True)
        with _interrupts_blocked():  # Ctrl-C reaches every process of a terminal; it is for the command to end workers
            self._process.start()
        theirs.close()  # or the pipe would not break when the process ends
        self._thread = ThreadPoolExecutor(1)

    def start(self) -> Future[None]:
        """Build the registrar."""
        return self._thread.submit(self._ask, "start")

    def register(self, name: str, job: PairJob) -> Future[Row]:
        """Register one pair."""
        return self._thread.submit(self._ask, "register", name, job)

    def end(self) -> None:
        """Terminate the process; what it was writing is removed by itself."""
        self._process.terminate()
        self._thread.shutdown(wait=False)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Have a method of :class:`PairWorker` called in the process, and return what that returns."""
        try:
            self._pipe.send((method, arguments))
            answer, error = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            raise RuntimeError(f"killed by signal {-code}" if code < 0 else f"exit code {code}") from None
        if error is not None:
            raise RuntimeError(error)
        return answer


def _serve(pipe: Connection, make: MakeRegistrar, weights: str) -> None:
    """Answer calls until the other end of the pipe is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that nothing half-written stays
    worker = PairWorker(make, weights)
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        answer, told = None, None
        try:
            answer = getattr(worker, method)(*arguments)
        except Exception as error:
            told = one_line(error)
        try:
            pipe.send((answer, told))
        except OSError:
            return


def _done(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold SIGINT back; a process that is started meanwhile never hears of one. Windows has no such thing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
