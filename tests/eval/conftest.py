from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import ROOT, texture, write_tar


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Three pairs whose SAR image is the optical one, so that any matcher solves them."""
    grey = {f"fake__{index}": texture(index) for index in (2, 0, 1)}
    return write_tar(
        tmp_path / "toy-000.tar", {name: (np.stack([image] * 3, -1), image) for name, image in grey.items()}
    )


@pytest.fixture
def shared() -> Path:
    folder = ROOT.parent / "shared"
    if not (folder / "data" / "val-000.tar").is_file():
        pytest.skip("the shared data are not beside this checkout")
    return folder
