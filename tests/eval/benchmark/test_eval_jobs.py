"""Processes of matchers: their caches, their ends, their interrupts."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from PIL import Image
from toys import ROOT, add, texture

from eval.benchmark import cache, jobs, protocol
from eval.datasets import open_dataset


@pytest.fixture
def make_job(tar, tmp_path):
    (dataset,) = open_dataset(tar)
    warps = protocol.draw_warps(dataset.names, "tar", 0)
    protocol.write_warps(protocol.warps_path("toy-000", "tar", tmp_path), "toy-000", "tar", 0, warps)

    def make(matcher, levels=("tar",)):
        return jobs.Job(
            matcher, data=str(tar), split=None, dataset="toy-000", names=tuple(dataset.names), levels=levels, threads=1,
            cache=tmp_path / "matches", warps=tmp_path, weights=tmp_path / "none", checkpoint=None,
        )  # fmt: skip

    return make


def test_two_at_a_time_leave_whole_caches_with_their_costs(make_job, tmp_path):
    todo = [make_job("identity"), make_job("sift"), make_job("loftr")]
    reasons = jobs.run_jobs(todo, at_once=2)
    assert list(reasons) == [todo[2]] and "no weights" in reasons[todo[2]]
    for key in ("identity", "sift"):
        path = cache.cache_path(tmp_path / "matches", "toy-000", "tar", key)
        assert len(cache.read_names(path)) == 3
        assert 50 < cache.read_about(path)["peak MiB"] < 4000


def test_an_error_of_the_users_ends_all(make_job):
    with pytest.raises(ValueError, match="brings no truth"):
        jobs.run_jobs([make_job("identity", ("real",)), make_job("sift")], at_once=2)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_killed_run_loses_nothing_and_counts_nothing_twice(tmp_path):
    names = [f"fake__{k}" for k in range(140)]
    tar = tmp_path / "toy-001.tar"
    buffer = io.BytesIO()
    Image.fromarray(texture(0)).save(buffer, "png")
    with tarfile.open(tar, "w") as archive:
        for name in names:
            for part in ("optical.png", "sar.png"):
                add(archive, f"{name}.{part}", buffer.getvalue())
    base = [sys.executable, "-m", "eval"]
    places = ["--data", str(tar), "--warps", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*base, "warps", *places, "--level", "tar"], check=True, cwd=tmp_path, env=env)
    command = [*base, "run", *places, "--matchers", "sift", "--out", str(tmp_path / "tables")]
    path = tmp_path / "runs" / "eval" / "toy-001.tar.sift.h5"
    for how in (signal.SIGINT, signal.SIGKILL):
        run = subprocess.Popen(command, cwd=tmp_path, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
        before = len(cache.read_names(path)) if path.is_file() else 0
        end = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < end:
            if path.is_file() and len(cache.read_names(path)) > before:
                break
            time.sleep(0.2)
        os.killpg(run.pid, how)
        assert run.wait(timeout=90) in (130, -how, 0)
    partial = len(cache.read_names(path))
    assert partial > 0
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert cache.read_names(path) == sorted(names)
    assert "140 pairs" in (tmp_path / "tables" / "toy-001.tar.md").read_text()
