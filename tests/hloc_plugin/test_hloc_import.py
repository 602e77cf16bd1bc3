"""Imports: torch before pycolmap, and nothing heavy before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from hloc_plugin import _pycolmap

HEAVY = {"hloc", "pycolmap", "torchvision", "matplotlib", "rasterio", "open_clip", "scipy"}


def run(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_pycolmap_comes_after_torch_and_leaves_the_heap_whole(tmp_path):
    pytest.importorskip("pycolmap")
    done = run(f"""
import sys
from hloc_plugin._pycolmap import load
assert "pycolmap" not in sys.modules
pycolmap = load()
order = list(sys.modules)
assert order.index("torch") < order.index("pycolmap")
import zlib, cv2, numpy as np
from PIL import Image
noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
for k in range(3):
    assert zlib.decompress(zlib.compress(noise.tobytes())) == noise.tobytes()
    np.savez_compressed(r"{tmp_path}/x.npz", a=noise)
    cv2.imwrite(r"{tmp_path}/x.png", noise)
    Image.fromarray(noise).save(r"{tmp_path}/y.png")
print("whole")
""")
    assert done.returncode == 0 and done.stdout.strip() == "whole", done.stderr[-2000:]


def test_importing_the_plugin_loads_nothing_heavy():
    done = run(f"import sys, hloc_plugin, hloc_plugin.cli; print({HEAVY!r} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_register_imports_torch_first(stand_in):
    done = run(f"""
import sys
sys.path[:0] = {sys.path[:1]!r}
import hloc_plugin
hloc_plugin.register({stand_in!r})
order = list(sys.modules)
assert order.index("torch") < order.index({stand_in!r} + ".matchers")
""")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("version", ["3.13.0", "4.2.0", "4.10.1", "dev"])
def test_pycolmap_that_serves(monkeypatch, version, recwarn):
    fake = ModuleType("pycolmap")
    fake.__version__ = version
    monkeypatch.setitem(sys.modules, "pycolmap", fake)
    assert _pycolmap.load() is fake and not recwarn.list


def test_pycolmap_that_does_not_serve_is_named(monkeypatch):
    fake = ModuleType("pycolmap")
    monkeypatch.setitem(sys.modules, "pycolmap", fake)
    fake.__version__ = "3.12.6"
    with pytest.raises(ImportError, match=r"pycolmap 3\.12\.6 is too old"):
        _pycolmap.load()
    fake.__version__ = "4.2.1"
    with pytest.warns(UserWarning, match="triangulates no points"):
        _pycolmap.load()
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ImportError, match=r"kornia-tar\[hloc\]"):
        _pycolmap.load()
