"""Workers on a Ray cluster, or on a Ray that is started here for this one run."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kornia_tar.cli.many.worker import MakeRegistrar, PairWorker
from kornia_tar.cli.pair import PairJob
from kornia_tar.files import one_line
from kornia_tar.outputs.summary import Row

CORES = 4  # of a worker, where neither workers nor threads are told
NO_CLUSTER = "this machine belongs to no Ray cluster; start one ('ray start --head'), or give --ray-address local"
OBJECT_STORE = 200 * 2**20  # bytes, of a Ray that is started here: jobs and rows are small


@dataclass(frozen=True)
class Shares:
    """How a cluster is shared among workers."""

    workers: int
    threads: int  # CPU cores of each
    gpus: float  # of each
    device: str  # as ``--device`` has it


class RayWorker:
    """A worker that is an actor of Ray. It works in this process's folder: all nodes must see the same files."""

    def __init__(self, make: MakeRegistrar, weights: str, shares: Shares, at_once: int) -> None:
        import ray

        share = ray.remote(
            num_cpus=shares.threads, num_gpus=shares.gpus, max_restarts=0, max_concurrency=at_once  # threads
        )  # fmt: skip
        self._actor = share(_PairActor).remote(make, weights, at_once, Path.cwd())

    def start(self) -> Future[None]:
        """Build the registrar; waits until the cluster has room."""
        return _future(self._actor.start.remote())

    def register(self, name: str, job: PairJob) -> Future[Row]:
        """Register one pair."""
        return _future(self._actor.register.remote(name, job))

    def end(self) -> None:
        """Kill the actor."""
        import ray

        ray.kill(self._actor)


class _PairActor(PairWorker):
    def __init__(self, make: MakeRegistrar, weights: str, at_once: int, folder: Path) -> None:
        super().__init__(make, weights, at_once)
        self._folder = folder

    def start(self) -> None:
        os.chdir(self._folder)
        super().start()


@contextmanager
def joined(address: str, workers: int | None, threads: int | None, device: str) -> Iterator[Shares]:
    """Join a Ray cluster, and leave it in the end; one that was started here ends.

    Args:
        address: "local" starts a Ray here, "auto" finds the one that runs on this machine; else an address of Ray's.
            Where this process has joined one already, that one is taken, and not left.
        workers: how many; None for one a GPU or, without, as many as have ``CORES`` cores.
        threads: cores of each; None for as many as let all workers run at once.
        device: as ``--device`` has it; "auto" is a GPU where the cluster has one.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is no such cluster, or it has not what is asked for.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray-address needs Ray: pip install "kornia-tar[ray]"') from error
    ours = not ray.is_initialized()
    if ours:
        options: dict[str, Any] = {}
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every run
            cores = max(os.cpu_count() or 1, (workers or 1) * (threads or 1))
            options = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        try:
            ray.init(address=address, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises any kind, also the barest
            ray.shutdown()  # what has begun to start
            none = address == "auto" and isinstance(error, ConnectionError)
            raise ValueError(f"--ray-address {address}: {NO_CLUSTER if none else one_line(error)}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield shared(nodes, workers, threads, device)
    finally:
        if ours:
            ray.shutdown()


def check_cluster() -> None:
    """Raise RuntimeError where the cluster that was joined has no node left: Ray would wait for one for ever."""
    import ray

    if not any(node["Alive"] for node in ray.nodes()):
        raise RuntimeError(
            "the Ray cluster is gone, none of its nodes lives; run again: what is done is not done twice"
        )


def shared(nodes: Sequence[Mapping[str, float]], workers: int | None, threads: int | None, device: str) -> Shares:
    """Share a cluster's cores and GPUs among workers; see :func:`joined`.

    Args:
        nodes: resources of each, "CPU" and "GPU", as Ray names them.
        workers: how many, or None.
        threads: of each, or None.
        device: as ``--device`` has it.
    """
    if device.startswith("cuda:"):
        raise ValueError(f"--device {device}: it is Ray that chooses the GPU; give --device cuda")
    cores = [int(node.get("CPU", 0)) for node in nodes]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda: the Ray cluster has no GPU")
    if device == "auto" and gpus:
        device = "cuda"
    if workers is None:
        workers = gpus if device == "cuda" else max(1, sum(count // (threads or CORES) for count in cores))
    if threads is None:
        most = range(max(cores, default=1), 1, -1)
        threads = next((n for n in most if sum(count // n for count in cores) >= workers), 1)
    each = 0.0 if device != "cuda" else 1.0 if workers <= gpus else 1 / math.ceil(workers / gpus)
    return Shares(workers, threads, each, device)


def _future(reference: Any) -> Future[Any]:
    """Return a future of what a call of an actor returns; what goes wrong is told in one line."""
    told: Future[Any] = Future()

    def end(theirs: Future[Any]) -> None:
        error = theirs.exception()
        if error is None:
            told.set_result(theirs.result())
        else:
            told.set_exception(RuntimeError(_reason(error)))

    reference.future().add_done_callback(end)
    return told


def _reason(error: BaseException) -> str:
    """Say what went wrong without what Ray adds to it: tracebacks, and the ids of all concerned."""
    cause = getattr(error, "cause", None)  # an exception in the actor
    if isinstance(cause, BaseException):
        return one_line(cause)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "creation task" in lines[0] else lines[0]  # as when its node lacks a package
