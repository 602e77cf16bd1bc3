"""Shared test setup.

Every torchvision on PyPI is a CUDA build. Beside a CPU torch its extension cannot load, and its import then fails with
"operator torchvision::nms does not exist", which takes open_clip and timm down with it. Declaring the two missing
operators is enough: nothing here calls them. A torchvision that imports is left alone. The package itself never
imports torchvision, so that this stays a matter of the tests.
"""

import os
import signal
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core, and so have the commands that it runs
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

# A shell's background jobs ignore Ctrl-C, and so would the commands that are interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# For processes of their own, wherever they stand: eval/ is run from the checkout.
ROOT = str(Path(__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


@pytest.fixture(autouse=True)
def _one_thread():
    """Commands set the threads of their process, which is a test worker here: the next test starts with one again."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


_declared = []  # the library must live as long as its operators


def _make_torchvision_importable() -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


_make_torchvision_importable()
