"""Workers on this machine: this very process, or others."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from kornia_tar.cli.many.worker import MakeRegistrar, PairWorker
from kornia_tar.cli.pair import PairJob
from kornia_tar.files import one_line
from kornia_tar.outputs.summary import Row


class ThisProcess:
    """A worker that is no other process: with one pair at once it has done its work when it hands over the future."""

    def __init__(self, make: MakeRegistrar, weights: str, at_once: int) -> None:
        self._worker, self._do = PairWorker(make, weights, at_once), Doing(at_once)

    def start(self) -> Future[None]:
        """Build the registrar."""
        return self._do(self._worker.start)

    def register(self, name: str, job: PairJob) -> Future[Row]:
        """Register one pair."""
        return self._do(self._worker.register, name, job)

    def end(self) -> None:
        """End its threads, which leave nothing half-written."""
        self._worker.stop()
        self._do.end()


class Doing:
    """Calls functions: in threads where several shall run at once, else here and now, where signals are heard."""

    def __init__(self, at_once: int) -> None:
        self._threads = ThreadPoolExecutor(at_once) if at_once > 1 else None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Return a future of what the function returns."""
        return _done(function, *arguments) if self._threads is None else self._threads.submit(function, *arguments)

    def end(self) -> None:
        """Begin nothing more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class LocalProcess:
    """A worker in a process of its own, which ends when this one does, however that ends."""

    def __init__(self, make: MakeRegistrar, weights: str, at_once: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, weights, at_once), daemon=True)
        with _interrupts_blocked():  # Ctrl-C reaches every process of a terminal; it is for the command to end workers
            self._process.start()
        theirs.close()  # or the pipe would not break when the process ends
        self._asked: dict[int, Future[Any]] = {}
        self._why = ""  # it has ended
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self) -> Future[None]:
        """Build the registrar."""
        return self._ask("start")

    def register(self, name: str, job: PairJob) -> Future[Row]:
        """Register one pair."""
        return self._ask("register", name, job)

    def end(self) -> None:
        """Terminate the process; what it was writing is removed by itself."""
        self._process.terminate()

    def _ask(self, method: str, *arguments: Any) -> Future[Any]:
        """Have a method of :class:`PairWorker` called in the process, and return a future of what that returns."""
        future: Future[Any] = Future()
        with self._lock:
            if self._why:
                future.set_exception(RuntimeError(self._why))
                return future
            number = next(_NUMBERS)
            self._asked[number] = future
        with suppress(OSError):  # it has just ended, as whoever listens finds, too
            self._pipe.send((number, method, arguments))
        return future

    def _listen(self) -> None:
        """Hand on answers until the process ends, however that ends."""
        while True:
            try:
                number, answer, error = self._pipe.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._asked.pop(number)
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(RuntimeError(error))
        self._process.join()
        code = self._process.exitcode or 0
        with self._lock:
            self._why = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            left, self._asked = list(self._asked.values()), {}
        for future in left:
            future.set_exception(RuntimeError(self._why))


_NUMBERS = count()  # of what workers are asked


def _serve(pipe: Connection, make: MakeRegistrar, weights: str, at_once: int) -> None:
    """Answer calls until the other end of the pipe is gone."""
    worker, do, lock = PairWorker(make, weights, at_once), Doing(at_once), threading.Lock()

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who waits for the end may ask for it twice
        worker.stop()
        sys.exit(1)  # an exception, so that nothing half-written stays; it waits for the threads

    def answer(number: int, done: Future[Any]) -> None:
        error = done.exception()
        with lock, suppress(OSError):
            pipe.send((number, None, one_line(error)) if error is not None else (number, done.result(), None))

    signal.signal(signal.SIGTERM, end)
    while True:
        try:
            number, method, arguments = pipe.recv()
        except (EOFError, OSError):
            worker.stop()
            return
        do(getattr(worker, method), *arguments).add_done_callback(partial(answer, number))


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
