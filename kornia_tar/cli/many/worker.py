"""What a worker does, wherever it runs: build a registrar once, then register pairs, one after the other or at once."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable
from dataclasses import replace

import torch

from kornia_tar import Registrar
from kornia_tar.cli.command import ERRORS
from kornia_tar.cli.pair import PairJob, PairOutcome, refusal, register_pair
from kornia_tar.files import one_line
from kornia_tar.outputs.summary import Row
from kornia_tar.registration.alignment.batches import check_stop, stoppable

MakeRegistrar = Callable[[], Registrar]


class PairWorker:
    """Holds a registrar, and turns jobs into rows.

    Args:
        make: builds the registrar; travels to another process by pickle.
        weights: as the reports shall name them.
        at_once: how many threads will call :meth:`register` at once; their images are encoded in batches.
    """

    def __init__(self, make: MakeRegistrar, weights: str, at_once: int = 1) -> None:
        self._make, self._weights, self._at_once = make, weights, at_once
        self._registrar: Registrar | None = None
        self._stop, self._short = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Build the registrar; raises whatever keeps it from being built."""
        self._registrar = self._make()
        if self._at_once > 1:
            self._registrar.in_batches()
            torch.set_num_threads(max(1, torch.get_num_threads() // self._at_once))  # of each pair

    def stop(self) -> None:
        """Let all pairs end: when they ask for features next, or come to their next step. What is written is whole."""
        self._stop.set()

    def register(self, name: str, job: PairJob) -> Row:
        """Register one pair; whatever is wrong with it becomes its row."""
        row = waiting(name, job)
        try:
            found = self._beside_others(job)
            if found is None:
                with self._short:  # one such pair at a time
                    found = self._found(job)
        except ERRORS as error:
            return replace(row, status="failed", reason=one_line(error))
        except Exception as error:  # a library's own kind, or a fault of ours: this pair's all the same, and no other's
            return replace(row, status="failed", reason=f"{type(error).__name__}: {one_line(error)}")
        return _row(row, found)

    def _beside_others(self, job: PairJob) -> PairOutcome | None:
        """None where the memory did not do, though it may for one alone; what the attempt held is free by then."""
        try:
            return self._found(job)
        except torch.OutOfMemoryError:
            if self._at_once == 1:
                raise
        gc.collect()
        return None

    def _found(self, job: PairJob) -> PairOutcome:
        assert self._registrar is not None, "start comes first"
        with stoppable(self._stop):
            return register_pair(job, self._registrar, self._weights, lambda _: check_stop())


def waiting(name: str, job: PairJob) -> Row:
    """Return the row of a pair that is still to be registered."""
    return Row(name, str(job.image0), str(job.image1), "waiting")


def _row(row: Row, found: PairOutcome) -> Row:
    outcome, ground = found.registration, found.ground
    shift = ground["shift_metres"] or {}
    finite = lambda value: value if value is not None and math.isfinite(value) else None  # noqa: E731
    return replace(
        row, status="registered" if outcome.registered else "refused",
        reason="" if outcome.registered else refusal(outcome, ground, found.search),
        probability=outcome.probability, error_px=finite(outcome.error_estimate),
        error_metres=finite(ground["error_estimate_metres"]), shift_east_metres=finite(shift.get("east")),
        shift_north_metres=finite(shift.get("north")), search=found.search.kind, seconds=round(found.seconds, 2),
    )  # fmt: skip
