"""A run that is interrupted or killed at any moment: whole files or none, and the next run goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL
from PIL import Image

from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet
from kornia_tar.outputs.matches import read_matches
from kornia_tar.outputs.results import NAMES

if sys.platform == "win32":
    pytest.skip("signals are POSIX's", allow_module_level=True)

# The process sends itself the signal at the nth time that a file or folder is made, renamed or removed: really killed,
# and at the same moments each time. Python's audit events say when; the first ones, of imports, do not count.
STOPPED = """
import os, signal, sys
from pathlib import Path
from kornia_tar.cli.main import main
kind, moment, folder = getattr(signal, sys.argv[1]), int(sys.argv[2]), sys.argv[3]
seen = 0
def hook(event, arguments):
    global seen
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wxa"
    if (writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")) and folder in str(arguments[0]):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), kind)
sys.addaudithook(hook)
code = main(sys.argv[4:])
print("moments", seen)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Two tiny images, and a network that takes no time."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (16, 16)), np.ones((4, 4))).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(folder / name)
    save_checkpoint(folder / "w.safetensors", TARNet(SMALL), {})
    return folder


def stopped(inputs: Path, out: Path, kind: str, moment: int, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["register", inputs / "a.png", inputs / "b.png", "-o", out, "--weights", inputs / "w.safetensors"]
    words += ["--rotations", "1", "--min-probability", "0", "--threads", "1", *more]
    return subprocess.run(
        [sys.executable, "-c", STOPPED, kind, str(moment), str(out), *map(str, words)], capture_output=True, text=True
    )


def check_whole(out: Path) -> None:
    """Every file that bears a result's name can be read; all others are plainly temporary."""
    for path in out.iterdir() if out.exists() else ():
        if path.name in NAMES:
            if path.suffix in (".json", ".geojson"):
                json.loads(path.read_text())
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".h5":
                assert "keypoints0" in read_matches(path)
            else:
                assert path.read_text().endswith("\n")
        else:
            assert path.name.startswith("."), path.name


MOMENTS = [1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_whole_files_or_none(inputs, tmp_path, kind, moment):
    out = tmp_path / "out"
    done = stopped(inputs, out, kind, moment)
    if "moments" in done.stdout:
        pytest.skip("this run was over by then")
    assert done.returncode == (-signal.SIGKILL if kind == "SIGKILL" else 130), done.stderr
    if kind == "SIGINT":
        assert done.stderr == "kornia-tar register: interrupted\n"
    check_whole(out)
    again = stopped(inputs, out, "SIGKILL", -1, "--overwrite")
    assert again.returncode in (0, 2), again.stderr
    check_whole(out)
    assert (out / "report.json").is_file() and json.loads((out / "report.json").read_text())["kornia_tar"]


@pytest.mark.slow  # four processes
def test_killed_before_its_results_are_moved_in(inputs, tmp_path):
    """The next run goes on without being told to overwrite: nothing bears a result's name."""
    out = tmp_path / "out"
    done = stopped(inputs, out, "SIGKILL", 7)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not [path.name for path in out.iterdir() if path.name in NAMES]
    again = stopped(inputs, out, "SIGKILL", -1)
    assert again.returncode in (0, 2), again.stderr
    check_whole(out)


def test_interrupted_before_it_writes(inputs, tmp_path):
    """Ctrl-C leaves an empty folder, one line and 130."""
    out = tmp_path / "out"
    done = stopped(inputs, out, "SIGINT", 2)
    assert done.returncode == 130 and done.stderr == "kornia-tar register: interrupted\n", done.stderr
    assert list(out.iterdir()) == []
