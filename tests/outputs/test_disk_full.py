"""A full disk: what is written is whole or not there, what was there stays, and one line says why."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL

from hloc_plugin.formats import write_features
from hloc_plugin.formats import write_matches as write_hloc_matches
from kornia_tar.cli.command import ERRORS
from kornia_tar.files import output_folder, write_json, write_text
from kornia_tar.geometry import PointMatches
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet
from kornia_tar.outputs.matches import write_matches
from kornia_tar.outputs.summary import Row, write_parquet, write_summary
from kornia_tar.raster import GeoProfile, write_image
from kornia_tar.text import TextBank

if sys.platform == "win32":
    pytest.skip("limits of a process's files are POSIX's", allow_module_level=True)

rng = np.random.default_rng(0)
NOISE = rng.integers(0, 255, (160, 200, 3), dtype=np.uint8)
POINTS = {"keypoints0": rng.random((2500, 2)), "confidence": rng.random(2500)}
DENSE = PointMatches(POINTS["keypoints0"], POINTS["keypoints0"], POINTS["confidence"])
INDICES = np.stack([np.arange(2500)] * 2, 1)
ROWS = [Row(f"pair {k}", "a.tif", "b.tif", "registered", probability=0.9) for k in range(500)]


def _geotiff(path: Path) -> None:
    affine = pytest.importorskip("affine")
    write_image(path, NOISE, GeoProfile("EPSG:32632", affine.Affine(10, 0, 5e5, 0, -10, 4.6e6)))


def _parquet(path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_parquet(path.parent, ROWS)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: write_json(path, POINTS),
    "a.txt": lambda path: write_text(path, "word " * 5000),
    "a.png": lambda path: write_image(path, NOISE),
    "deep.png": lambda path: write_image(path, NOISE.astype(np.uint16) * 251),
    "a.tif": _geotiff,
    "m.h5": lambda path: write_matches(path, POINTS),
    "feats.h5": lambda path: write_features(path, {"a.png": (POINTS["keypoints0"], POINTS["confidence"])}),
    "pairs.h5": lambda path: write_hloc_matches(path, {("a.png", "b.png"): (DENSE, INDICES, DENSE.confidence)}),
    "m.npz": lambda path: write_matches(path, POINTS),
    "b.npz": lambda path: TextBank(("river", "road"), torch.rand(2, 512)).save(path),
    "b.h5": lambda path: TextBank(("river", "road"), torch.rand(2, 512)).save(path),
    "b.safetensors": lambda path: TextBank(("river", "road"), torch.rand(2, 512)).save(path),
    "w.safetensors": lambda path: save_checkpoint(path, TARNet(SMALL), {}),
    "summary.csv": lambda path: write_summary(path.parent, ROWS),
    "summary.parquet": _parquet,
}


@contextmanager
def no_larger_than(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: the write fails with EFBIG, as ENOSPC on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_does_not_fit(tmp_path, name):
    write = WRITERS[name]
    write(tmp_path / name)
    size = (tmp_path / name).stat().st_size
    (tmp_path / name).write_bytes(b"somebody's")
    failed = 0
    for limit in (0, 1, size // 3, size - 1000, size - 1):
        try:
            with no_larger_than(max(limit, 0)):
                write(tmp_path / name)
        except ERRORS as error:
            failed += 1
            assert isinstance(error, ValueError) and name in str(error) and "\n" not in str(error), repr(error)
            assert "cannot be written" in str(error)
            assert (tmp_path / name).read_bytes() == b"somebody's"
        else:
            assert (tmp_path / name).stat().st_size <= limit  # it fits after all: compressed anew
        assert [path.name for path in tmp_path.iterdir()] == [name]
    assert failed >= 3


FILL = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_disk_full as t
folder = Path(sys.argv[1])
filler = folder / "filler"
filler.write_bytes(bytes(62_000))
for name, write in t.WRITERS.items():
    try:
        write(folder / name)
        print("wrote", name)
    except BaseException as error:
        if not isinstance(error, ValueError) or "\\n" in str(error) or "cannot be written" not in str(error):
            print(name, repr(error))
    left = sorted(path.name for path in folder.iterdir())
    if left != ["filler"]:
        print(name, left)
"""


@pytest.mark.slow
def test_a_full_file_system(tmp_path):
    """The real thing, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        here = Path(__file__).parent
        words = [sys.executable, "-c", FILL, disk, here, here.parent]
        done = subprocess.run(words, capture_output=True, text=True, cwd=here.parents[1])
        assert done.returncode == 0 and not done.stdout.strip(), done.stdout + done.stderr[-2000:]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_read_only_folder(tmp_path):
    """Permission bits do not bind root; a read-only mount of the folder does."""
    (tmp_path / "old.json").write_text("old")
    if os.geteuid() == 0:
        if subprocess.run(["mount", "--bind", tmp_path, tmp_path], capture_output=True).returncode:
            pytest.skip("root writes everywhere, and nothing can be mounted here")
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
    else:
        tmp_path.chmod(0o500)
    try:
        for act in (
            lambda: output_folder(tmp_path), lambda: output_folder(tmp_path / "new"),
            lambda: write_json(tmp_path / "old.json", 1), lambda: write_image(tmp_path / "a.png", NOISE),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"cannot (be written|write into)") as caught:
                act()
            assert "\n" not in str(caught.value)
    finally:
        subprocess.run(["umount", tmp_path], check=True) if os.geteuid() == 0 else tmp_path.chmod(0o700)
    assert (tmp_path / "old.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
