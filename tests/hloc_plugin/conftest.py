"""hloc where it is importable (put its checkout on PYTHONPATH), else a stand-in of the two things that matter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from helpers import lively_net

from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.raster.synthetic import draw_scene

STAND_IN = {
    "__init__.py": "",
    "matchers/__init__.py": "",
    "utils/__init__.py": "",
    "utils/base_model.py": """
import inspect
from torch import nn

class BaseModel(nn.Module):
    default_conf, required_inputs = {}, []

    def __init__(self, conf):
        super().__init__()
        self.conf = {**self.default_conf, **conf}
        self._init(self.conf)

    def forward(self, data):
        assert all(key in data for key in self.required_inputs)
        return self._forward(data)

def dynamic_load(root, model):
    path = f"{root.__name__}.{model}"
    members = inspect.getmembers(__import__(path, fromlist=[""]), inspect.isclass)
    found = [c for _, c in members if c.__module__ == path and issubclass(c, BaseModel)]
    assert len(found) == 1, found
    return found[0]
""",
    "match_dense.py": 'confs = {"loftr": {"model": {"name": "loftr"}}}\n',
}


def write_stand_in(folder: Path, package: str) -> None:
    for part in range(package.count(".")):
        outer = folder.joinpath(*package.split(".")[: part + 1])
        outer.mkdir(parents=True)
        (outer / "__init__.py").touch()
    for name, text in STAND_IN.items():
        path = folder.joinpath(*package.split("."), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Iterator[str]:
    """A package laid out as hloc is, beside a torchvision that was built for another torch."""
    write_stand_in(tmp_path, package := "broken_hloc")
    (tmp_path / package / "match_dense.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    forget(package)


def has_hloc() -> bool:
    try:
        importlib.import_module("hloc.match_dense")
    except ImportError:
        return False
    return not hasattr(sys.modules["hloc"], "stand_in")


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package.split(".")[0]]:
        del sys.modules[name]


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Iterator[str]:
    """A package laid out as hloc is, under the name of the fork that imcui ships."""
    write_stand_in(tmp_path, package := "imcui_fork.hloc")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    forget(package)


@pytest.fixture(scope="session")
def hloc(tmp_path_factory) -> Iterator[ModuleType]:
    """hloc itself, or the stand-in."""
    if has_hloc():
        yield importlib.import_module("hloc")
        return
    folder = tmp_path_factory.mktemp("stand_in")
    write_stand_in(folder, "hloc")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("hloc")
    sys.path.remove(str(folder))
    forget("hloc")


@pytest.fixture(scope="session")
def real_hloc(hloc) -> ModuleType:
    """hloc itself."""
    if not hasattr(hloc, "logger"):
        pytest.skip("hloc is not importable: put its checkout on PYTHONPATH")
    return hloc


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A small network without training, as a checkpoint."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_checkpoint(path, lively_net(), {})
    return path


@pytest.fixture(scope="session")
def conf(weights) -> dict:
    """A conf of the small network that keeps every match."""
    return {
        "output": "matches-small",
        "model": {"name": "tar", "weights": str(weights), "match_threshold": 0.0},
        "preprocessing": {"grayscale": True, "resize_max": 128, "dfactor": 8},
        "max_error": 0.5,
        "cell_size": 0.5,
    }


@pytest.fixture(scope="session")
def views(tmp_path_factory) -> Path:
    """A folder with three overlapping crops ``a.png``, ``sub/b.png``, ``c.png`` and ``pairs.txt`` of all pairs."""
    folder = tmp_path_factory.mktemp("views")
    scene = draw_scene(seed=4, size=160).optical
    (folder / "images" / "sub").mkdir(parents=True)
    names = ("a.png", "sub/b.png", "c.png")
    for name, corner in zip(names, (0, 16, 24), strict=True):
        cv2.imwrite(str(folder / "images" / name), np.ascontiguousarray(scene[corner : corner + 96, :128]))
    lines = [f"{names[i]} {names[j]}" for i, j in ((0, 1), (2, 0), (1, 2))]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder
