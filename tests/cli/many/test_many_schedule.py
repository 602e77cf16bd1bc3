"""Pairs are shared among workers that die, or do not start: no pair is lost, and none stops the others."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kornia_tar.cli.many import schedule
from kornia_tar.cli.many.local import LocalProcess
from kornia_tar.cli.many.ray_cluster import RayWorker, joined, shared
from kornia_tar.cli.many.schedule import register_all
from kornia_tar.cli.many.worker import waiting
from kornia_tar.cli.pair import PairJob
from kornia_tar.registration.alignment.batches import EncodingBatches


class Script:
    """Workers that do what they are told, and remember it."""

    def __init__(self, starts: list[bool] | None = None, dies: dict[str, int] | None = None) -> None:
        self.starts, self.dies = list(starts or []), dict(dies or {})
        self.alive, self.most, self.tried = 0, 0, list[tuple[str, int]]()
        self.made = 0

    def __call__(self) -> ScriptedWorker:
        self.made += 1
        self.alive += 1
        self.most = max(self.most, self.alive)
        return ScriptedWorker(self, self.made)


class ScriptedWorker:
    def __init__(self, script: Script, number: int) -> None:
        self.script, self.number = script, number

    def start(self) -> Future:
        future = Future()
        if not self.script.starts or self.script.starts.pop(0):
            future.set_result(None)
        else:
            future.set_exception(MemoryError("no room"))
        return future

    def register(self, name: str, job: PairJob) -> Future:
        self.script.tried.append((name, self.number))
        future = Future()
        self.script.dies[name] = self.script.dies.get(name, 0) - 1
        if self.script.dies[name] >= 0:
            future.set_exception(RuntimeError("killed by signal 9"))
        else:
            future.set_result(waiting(name, job))
        return future

    def end(self) -> None:
        self.script.alive -= 1


def jobs(count: int) -> dict[str, PairJob]:
    return {f"p{k}": PairJob(Path("a.png"), Path("b.png"), Path("out") / f"p{k}") for k in range(count)}


def test_a_pair_is_tried_again_on_another_worker_and_fails_when_that_dies_too(capsys):
    script = Script(dies={"p1": 1, "p3": 2})
    rows = dict(register_all(jobs(6), script, 2))
    assert sorted(rows) == [f"p{k}" for k in range(6)]
    assert {name for name, row in rows.items() if row.status == "failed"} == {"p3"}
    assert rows["p3"].reason == "its worker died 2 times (killed by signal 9); for want of memory?"
    tried = {name: [worker for n, worker in script.tried if n == name] for name in rows}
    assert [len(tried[f"p{k}"]) for k in range(6)] == [1, 2, 1, 2, 1, 1]
    assert len(set(tried["p1"])) == len(set(tried["p3"])) == 2
    assert script.most == 2 and script.alive == 0
    assert "the worker of p1 died (killed by signal 9); another one tries it again" in capsys.readouterr().err


def test_pairs_that_were_beside_one_that_kills_its_worker_are_tried_alone_and_live(capsys):
    """Four at once, and the worker dies with all of them: the innocent must not die of the same pair twice."""
    script = Script()
    held: list[tuple[str, PairJob, Future, ScriptedWorker]] = []
    together = list[set[str]]()

    def register(worker: ScriptedWorker, name: str, job: PairJob) -> Future:
        future = Future()
        held.append((name, job, future, worker))
        return future

    def answer() -> None:  # while nothing ends: one worker's pairs, all together
        worker = held[0][3]
        mine = [one for one in held if one[3] is worker]
        held[:] = [one for one in held if one[3] is not worker]
        together.append({one[0] for one in mine})
        for name, job, future, _ in mine:
            if "p1" in together[-1]:
                future.set_exception(RuntimeError("killed by signal 9"))
            else:
                future.set_result(waiting(name, job))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedWorker, "register", register)
        patch.setattr(schedule, "PATIENCE", 0.01)
        rows = dict(register_all(jobs(8), script, 2, answer, at_once=4))
    assert {name for name, row in rows.items() if row.status == "failed"} == {"p1"} and len(rows) == 8
    assert together[0] == {"p0", "p2", "p4", "p6"} and together[1] == {"p1", "p3", "p5", "p7"}, "an equal share each"
    assert sorted(map(sorted, together[2:])) == [["p1"], ["p3"], ["p5"], ["p7"]]
    assert script.alive == 0


def test_no_more_workers_than_pairs():
    script = Script()
    assert len(list(register_all(jobs(2), script, 8))) == 2 and script.made == 2
    assert list(register_all({}, script, 8)) == [] and script.made == 2


def test_those_that_start_do_the_work_of_those_that_do_not():
    script = Script(starts=[True, *[False] * 9])
    assert len(dict(register_all(jobs(9), script, 2))) == 9
    assert 4 <= script.made <= 5 and script.alive == 0  # it gives up after three, in a row


def test_where_no_worker_starts_it_ends_and_says_why():
    script = Script(starts=[False] * 9)
    with pytest.raises(RuntimeError, match=r"no worker starts \(no room\)"):
        list(register_all(jobs(5), script, 2))
    assert script.made == 4 and script.alive == 0  # two at a time, three failures in a row


def test_while_nothing_ends_it_is_asked_whether_anything_can(monkeypatch):
    """A cluster whose last node is gone answers nothing, and Ray waits for another node for ever."""
    monkeypatch.setattr(schedule, "PATIENCE", 0.01)
    asked, script = list[int](), Script()
    monkeypatch.setattr(ScriptedWorker, "register", lambda self, name, job: Future())

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise RuntimeError("all are gone")

    with pytest.raises(RuntimeError, match="all are gone"):
        list(register_all(jobs(3), script, 2, check))
    assert script.alive == 0


def test_who_stops_early_leaves_no_worker():
    script = Script()
    run = register_all(jobs(5), script, 2)
    next(run)
    assert script.alive == 2
    run.close()
    assert script.alive == 0


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "device", "expected"),
    [
        ([8], 2, None, "auto", (2, 4, 0, "auto")),
        ([8, 6], None, None, "cpu", (3, 4, 0, "cpu")),  # one for each four cores of a node
        ([8, 6], None, 2, "cpu", (7, 2, 0, "cpu")),
        ([6, 6], 3, None, "cpu", (3, 3, 0, "cpu")),  # of four cores each only two would find room
        ([2], 5, None, "cpu", (5, 1, 0, "cpu")),
        ([(16, 4)], None, None, "auto", (4, 4, 1, "cuda")),
        ([(16, 4)], 6, None, "cuda", (6, 2, 0.5, "cuda")),
        ([(16, 4)], None, None, "cpu", (4, 4, 0, "cpu")),
    ],
)
def test_a_cluster_is_shared(nodes, workers, threads, device, expected):
    resources = [{"CPU": float(n)} if isinstance(n, int) else {"CPU": float(n[0]), "GPU": float(n[1])} for n in nodes]
    shares = shared(resources, workers, threads, device)
    assert (shares.workers, shares.threads, shares.gpus, shares.device) == expected


@pytest.mark.parametrize(("device", "says"), [("cuda", "has no GPU"), ("cuda:1", "give --device cuda")])
def test_a_device_that_a_cluster_does_not_give_is_refused(device, says):
    with pytest.raises(ValueError, match=says):
        shared([{"CPU": 4.0}], 2, None, device)


class Deadly:
    """In a registrar's place; kills its own process by SIGKILL at an image of 40×40, and at the first of 48×48."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def with_journal(self, journal: object) -> Deadly:
        return self

    def in_batches(self) -> EncodingBatches:
        return EncodingBatches()

    def __call__(self, image0: np.ndarray, *more: object, **options: object) -> None:
        mark = self.folder / "has died once"
        if image0.shape == (40, 40) or (image0.shape == (48, 48) and not mark.exists()):
            if image0.shape == (48, 48):
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("alive")


@pytest.fixture
def deadly(tmp_path) -> dict[str, PairJob]:
    for side in (40, 48, 56):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)).save(
            tmp_path / f"{side}.png"
        )
    sides = {"always": 40, "safe": 56, "once": 48, "last": 56}
    return {
        name: PairJob(tmp_path / f"{side}.png", tmp_path / "56.png", tmp_path / name) for name, side in sides.items()
    }


def check_deadly(rows: dict) -> None:
    reasons = {name: row.reason for name, row in rows.items()}
    assert reasons.pop("always").startswith("its worker died 2 times")
    assert reasons == {"safe": "alive", "once": "alive", "last": "alive"}


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_local_processes_that_die(deadly, tmp_path, at_once):
    new = partial(LocalProcess, partial(Deadly, tmp_path), "none", at_once)
    rows = dict(register_all(deadly, new, 2, at_once=at_once))
    check_deadly(rows)
    assert "killed by signal 9" in rows["always"].reason


@pytest.mark.slow
def test_actors_that_die(deadly, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install kornia-tar[ray]")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors do not find the tests' folder
    try:
        with joined("local", 2, None, "cpu") as shares:
            assert (shares.workers, shares.gpus) == (2, 0)
            for at_once in (1, 2):
                new = partial(RayWorker, partial(Deadly, tmp_path), "none", shares, at_once)
                check_deadly(dict(register_all(deadly, new, 2, at_once=at_once)))
                (tmp_path / "has died once").unlink()
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert not ray.is_initialized()
