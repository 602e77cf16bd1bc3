"""A run that is interrupted or killed at any moment: whole files or none, and the next run goes on."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import SMALL
from PIL import Image

from kornia_tar.geometry import Transform
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet
from kornia_tar.outputs.matches import read_matches
from kornia_tar.outputs.results import NAMES
from kornia_tar.raster import GeoProfile, read_image, write_image
from kornia_tar.raster.grid import Grid

if sys.platform == "win32":
    pytest.skip("signals and forks are POSIX's", allow_module_level=True)

# Runs a command whole, and then again and again, each time in a process of its own, which is forked here so that only
# the first run waits for imports. That process sends itself the signal at the nth time that a file or folder is made,
# renamed or removed in its output folder: really killed, and at the same moments each time. Python's audit events say
# when. What GDAL and HDF5 write themselves has no events: further processes are killed from here, when a share of the
# time that a run takes is over.
SERIES = """
import json, os, shutil, signal, sys, time
from pathlib import Path
from kornia_tar.cli.main import main

told = json.loads(sys.argv[1])
root, words, kind = Path(told["root"]), told["words"], getattr(signal, told["kind"])
seen, moment, out = 0, 0, ""

def hook(event, arguments):
    global seen
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wxa"
    if (writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")) and out and out in str(arguments[0]):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), kind)

def command(*more):
    return main([word.replace("OUT", out) for word in [*words, *more]])

def run(name, at=0, after=None, more=()):
    global moment, seen, out
    moment, seen, out = at, 0, str(root / name)
    pid = os.fork()
    if pid == 0:
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{out}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code = command(*more)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(pid, kind)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [code, Path(f"{out}.err").read_text()]

def stopped(name, **how):
    first = run(name, **how)
    if (root / name).exists():
        shutil.copytree(root / name, root / "left" / name)
    again = run(name)
    return [name, first, again, run(name, more=["--overwrite"]) if again[0] == 1 else again]

sys.addaudithook(hook)
out = str(root / "whole")
code, count = command(), seen
start = time.monotonic()
took = told["shares"] and run("timed") and time.monotonic() - start
runs = [stopped(f"at{n}", at=n) for n in told["moments"] or range(1, count + 1) if n <= count]
runs += [stopped(f"after{share}", after=share * took) for share in told["shares"]]
print(json.dumps([code, count, runs]))
"""

SHARES = (0.3, 0.5, 0.7, 0.85, 0.95)  # of a run's time
SLOW = pytest.mark.slow


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    err: str


class Stopped(NamedTuple):
    """A run that was stopped, what it left, and how the next one ended: as it was, and if need be with --overwrite."""

    name: str
    first: Ended
    left: Path
    again: Ended
    finally_: Ended
    out: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Tiny images, and a network that takes no time."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (16, 16)), np.ones((4, 4))).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(folder / name)
    save_checkpoint(folder / "w.safetensors", TARNet(SMALL), {})
    (folder / "pairs.csv").write_text("image0,image1,name\na.png,b.png,one\nb.png,a.png,two\n")
    return folder


def series(
    folder: Path, words: Sequence[object], kind: str = "SIGKILL", moments: Sequence[int] = (),
    shares: Sequence[float] = (),
) -> list[Stopped]:  # fmt: skip
    """Run a command whole, and stopped at each of ``moments`` (none: at all there are) and ``shares``."""
    told = {"root": str(folder), "words": [*map(str, words)], "kind": kind, "moments": [*moments], "shares": shares}
    done = subprocess.run([sys.executable, "-c", SERIES, json.dumps(told)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, count, runs = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, 2) and count > 2 and runs, done.stderr
    return [
        Stopped(name, Ended(*first), folder / "left" / name, Ended(*again), Ended(*last), folder / name)
        for name, first, again, last in runs
    ]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def check_whole(out: Path, final: Callable[[str], bool] = NAMES.__contains__) -> None:
    """Every file that bears a result's name can be read; all others are plainly temporary."""
    for path in out.iterdir() if out.exists() else ():
        if not final(path.name):
            assert path.name.startswith("."), path.name
        elif path.suffix in (".json", ".geojson"):
            json.loads(path.read_text())
        elif path.suffix in (".png", ".tif"):
            assert read_image(path).pixels.any()
        elif path.suffix in (".h5", ".npz"):
            assert "keypoints0" in read_matches(path)
        else:
            assert path.read_text().endswith("\n")


def check_goes_on(run: Stopped, final: Callable[[str], bool] = NAMES.__contains__, fine: Sequence[int] = (0,)) -> None:
    """The next run ends well; it asks for --overwrite only where a file bears a result's name."""
    check_whole(run.left, final)
    if run.again.code == 1:
        assert "is there already; give --overwrite" in run.again.err and run.again.err.count("\n") == 1
        assert any(final(path.name) for path in run.left.iterdir())
    assert run.finally_.code in fine, (run.name, run.finally_.err)
    check_whole(run.out, final)


def register(inputs: Path) -> list[object]:
    words = ["register", inputs / "a.png", inputs / "b.png", "-o", "OUT", "--weights", inputs / "w.safetensors"]
    return [*words, "--rotations", "1", "--min-probability", "0", "--threads", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
def test_register_whole_files_or_none(inputs, tmp_path, kind):
    before = contents(inputs)
    runs = series(tmp_path, register(inputs), kind, range(1, 32, 3), SHARES[:2])
    for run in runs:
        assert run.first.code == (-signal.SIGKILL if kind == "SIGKILL" else 130), (run.name, run.first)
        if kind == "SIGINT":
            assert run.first.err == "kornia-tar register: interrupted\n"
        check_goes_on(run, fine=(0, 2))
        assert json.loads((run.out / "report.json").read_text())["kornia_tar"]
    assert contents(inputs) == before


def test_interrupted_before_it_writes(inputs, tmp_path):
    """Ctrl-C leaves an empty folder, one line and 130."""
    (run,) = series(tmp_path, register(inputs), "SIGINT", [2])
    assert run.first.code == 130 and run.first.err == "kornia-tar register: interrupted\n", run.first.err
    assert list(run.left.iterdir()) == []


@pytest.mark.parametrize("suffix", ["h5", pytest.param("npz", marks=SLOW)])
def test_match(inputs, tmp_path, suffix):
    before = contents(inputs)
    words = ["match", inputs / "a.png", inputs / "b.png", "-o", f"OUT/m.{suffix}"]
    words += ["--weights", inputs / "w.safetensors", "--threads", "1", "--turns", "1", "--scales", "1"]
    runs = series(tmp_path, words, shares=SHARES)
    for run in runs:
        if run.name.startswith("at"):
            assert run.first.code == -signal.SIGKILL
        check_goes_on(run, f"m.{suffix}".__eq__)
        assert (run.out / f"m.{suffix}").is_file()
    assert contents(inputs) == before


@pytest.mark.parametrize(
    ("moments", "shares"), [((1, 3, 8, 12, 13, 14, 15), SHARES[2:3]), pytest.param((), SHARES, marks=SLOW)],
    ids=["some", "all"],
)  # fmt: skip
def test_apply_lays_all_files_or_none(tmp_path, moments, shares):
    affine = pytest.importorskip("affine")
    profile = GeoProfile("EPSG:32632", affine.Affine(10, 0, 5e5, 0, -10, 4.6e6))
    inputs, bands = tmp_path / "inputs", ("vv", "vh", "angle")
    inputs.mkdir()
    rng = np.random.default_rng(0)
    for band in bands:
        write_image(inputs / f"{band}.tif", rng.integers(1, 255, (64, 64), dtype=np.uint8), profile)
    grid = Grid((64, 64), profile).to_dict()
    told = {**Transform(np.array([[1, 0, 2.5], [0, 1, 1.5], [0, 0, 1]])).to_dict(), "registered": True}
    (inputs / "transform.json").write_text(json.dumps({**told, "image0": grid, "image1": grid}))
    before, names = contents(inputs), [f"{band}_registered.tif" for band in bands]
    words = ["apply", inputs / "transform.json", *(inputs / f"{band}.tif" for band in bands), "-o", "OUT"]
    runs = series(tmp_path, words, moments=moments, shares=shares)
    expected = contents(tmp_path / "whole")
    assert sorted(expected) == sorted(names)
    begun = []
    for run in runs:
        if run.name.startswith("at"):
            assert run.first.code == -signal.SIGKILL
        check_goes_on(run, names.__contains__)
        assert contents(run.out) == expected  # and nothing of the run that was killed is left
        left = [path.name for path in run.left.iterdir() if path.name in names] if run.left.exists() else []
        begun += [run.name] if 0 < len(left) < 3 else []
    assert len(begun) <= 2  # only a kill between two renames leaves some and not the others
    assert contents(inputs) == before


@pytest.mark.parametrize(
    ("moments", "shares"), [((30, 66), ()), pytest.param((1, 2, *range(3, 72, 7)), SHARES, marks=SLOW)],
    ids=["some", "many"],
)  # fmt: skip
def test_register_many(inputs, tmp_path, moments, shares):
    before = contents(inputs)
    words = ["register-many", inputs / "pairs.csv", "-o", "OUT", "--weights", inputs / "w.safetensors"]
    words += ["--rotations", "1", "--min-probability", "0", "--threads", "1"]
    runs = series(tmp_path, words, moments=moments, shares=shares)
    for run in runs:
        if run.name.startswith("at"):
            assert run.first.code == -signal.SIGKILL
        assert run.again.code in (0, 2), (run.name, run.again.err)  # what a summary names is ours
        for pair in ("one", "two"):
            check_whole(run.left / pair)
            check_whole(run.out / pair)
            assert (run.out / pair / "report.json").is_file()
        with (run.out / "summary.csv").open(newline="") as file:
            assert [(row["name"], row["status"] in ("registered", "refused")) for row in csv.DictReader(file)] == [
                ("one", True), ("two", True),
            ]  # fmt: skip
    assert contents(inputs) == before
