"""Small training pairs, drawn by the package's own code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SIDE, encode, write_shard

from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.training.data import Pairs


@pytest.fixture(scope="session")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """Optical (384, 384, 3) and SAR (384, 384)."""
    drawn = draw_scene(seed=2, size=384)
    return drawn.optical, drawn.sar


@pytest.fixture(scope="session")
def pairs(scene) -> Pairs:
    """Four aligned pairs of 128×128 with names, as `read_pairs` gives them."""
    optical, sar = scene
    places = [(0, 0), (128, 0), (0, 128), (200, 200)]
    cut = lambda image, y, x: torch.from_numpy(image[y : y + 128, x : x + 128].copy())  # noqa: E731
    return Pairs(
        torch.stack([cut(optical, *p).permute(2, 0, 1) for p in places]),
        torch.stack([cut(sar, *p)[None] for p in places]),
        ("a__forest_1", "a__river_2", "b__3", "b__4"),
        torch.ones(4),
        torch.full((4,), -1),
        torch.ones(4, dtype=torch.bool),
    )


@pytest.fixture
def shards(scene, tmp_path) -> Path:
    """A folder of two shards: four pairs in the first, two in the second."""
    optical, sar = scene
    names = ["sen12__agriculture_s1_1", "sen12__forest_s1_2", "ombria__7_after", "ombria__7_before",
             "sen12__river_s2_3", "other__x"]  # fmt: skip
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard, part in enumerate((names[:4], names[4:])):
        members: dict[str, bytes] = {}
        for name in part:
            k = 40 * names.index(name)
            members[f"{name}.json"] = json.dumps({"name": name}).encode()
            members[f"{name}.optical.webp"] = encode(optical[k : k + SIDE, :SIDE])
            members[f"{name}.sar.webp"] = encode(sar[k : k + SIDE, :SIDE])
        write_shard(folder / f"train-{shard:03d}.tar", members)
    return folder
