"""A quick run of the fuzzer: damaged files of every kind are read, or refused in one line. For more see ``fuzz.py``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import fuzz
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

PROGRAM = Path(fuzz.__file__)
part = st.floats(0, 1, exclude_max=True)
edit = st.builds(fuzz.Edit, st.sampled_from(fuzz.EDITS), part, part, st.integers(0, 2**32 - 1))
KINDS = cache(fuzz.made)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@example(choice=0, edits=[])
@given(choice=st.integers(0, 1000), edits=st.lists(edit, min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused_in_one_line(choice, edits):
    kinds = KINDS()
    name = sorted(kinds)[choice % len(kinds)]
    limit = os.environ.get("KORNIA_TAR_MAX_PIXELS")
    os.environ["KORNIA_TAR_MAX_PIXELS"] = str(fuzz.MAX_PIXELS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            assert fuzz.run(kinds[name], edits, Path(folder)) is None, name
    finally:
        os.environ.pop("KORNIA_TAR_MAX_PIXELS") if limit is None else os.environ.update(KORNIA_TAR_MAX_PIXELS=limit)


def test_valid_files_are_read():
    for name, kind in KINDS().items():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in kind.files.items():
                (Path(folder) / file).write_bytes(content)
            if name != "pickle":
                kind.read(Path(folder) / next(iter(kind.files)))


def test_a_fault_is_found(tmp_path):
    def broken(path: Path) -> None:
        raise {b"a": KeyError("x"), b"b": ValueError("no name"), b"c": MemoryError()}[path.read_bytes()[:1]]

    for content, says in ((b"a", "KeyError at"), (b"b", "names no file"), (b"c", "MemoryError")):
        assert says in fuzz.run(fuzz.Kind({"f": content}, broken), [], tmp_path)


def test_checksums_are_mended():
    png = KINDS()["a.png"].files["a.png"]
    assert fuzz.with_checksums(png) == png
    damaged = png[:17] + b"\x05" + png[18:]
    assert fuzz.with_checksums(damaged)[29:33] != damaged[29:33] and fuzz.with_checksums(damaged)[:29] == damaged[:29]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the bound of memory is read from /proc")
def test_the_command_tells_the_count():
    done = subprocess.run([sys.executable, PROGRAM, "--count", "20"], capture_output=True, text=True)
    assert done.returncode == 0 and f"20 files of {len(KINDS())} kinds, 0 faults" in done.stdout, done.stdout
