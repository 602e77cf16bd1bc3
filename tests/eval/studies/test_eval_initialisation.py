"""PoseCandidate variants: what is measured of them, and the tables."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm
from helpers import small_matcher

from eval.benchmark import protocol
from eval.cli import main
from eval.datasets import open_dataset
from eval.peers.ours.tar import TAR
from eval.studies import initialisation
from eval.studies.initialisation import Starts
from kornia_tar import AlignmentConfig, RegistrarConfig, SearchConfig

SHIFT = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])


class Small(TAR):
    """TAR with a small network."""

    def __init__(self, checkpoint):
        self.net = small_matcher()


@pytest.fixture
def toy(tar, tmp_path, monkeypatch):
    """The toy set and the folder of its warps, all of them one shift; the small network matches."""
    names = [f"fake__{k}" for k in range(3)]
    for level in ("tar", "hard"):
        path = protocol.warps_path("toy-000", level, tmp_path)
        protocol.write_warps(path, "toy-000", level, 0, dict.fromkeys(names, SHIFT))
    monkeypatch.setattr(initialisation, "TAR", Small)
    return tar, tmp_path


def test_each_variant_is_scored_by_its_own_transform(toy, monkeypatch):
    made = []

    class Fake:
        """Right with several rotations and scales, 4 px off with one rotation, no transform with one scale of four."""

        def __init__(self, matcher, config):
            made.append(config)
            off = 4 if config.search.rotations == 1 else 0
            lost = config.search.rotations == 4 and config.search.scales == (1.0,)
            self.matrix = None if lost else protocol.translation(off, 0) @ SHIFT

        def __call__(self, image0, image1, modality0, modality1):
            assert (modality0, modality1) == ("optical", "sar")
            return SimpleNamespace(matrix=self.matrix)

    monkeypatch.setattr(initialisation, "Registrar", Fake)
    (dataset,) = open_dataset(toy[0])
    ticks = []
    found = initialisation.measure(dataset, "hard", dataset.names[:1], None, toy[1], ticks.append)
    rows = {row["matcher"]: row for row in found.rows()}
    assert list(rows) == [initialisation.SINGLE, *initialisation.VARIANTS]
    assert sum(ticks) == len(rows)
    assert (
        rows["upright, one scale"]["SR@3"],
        rows["upright, one scale"]["SR@5"],
        rows["upright, one scale"]["median px"],
    ) == (0, 1, pytest.approx(4))
    assert rows["default"]["SR@3"] == 1
    lost = rows["four rotations, one scale"]
    assert lost["SR@10"] == 0 and lost["median px"] == float("inf")
    assert {config.model for config in made} == {"homography"}
    assert np.allclose(found.motions, [(0, 1)])


def test_the_tables_say_where_each_starts(tmp_path):
    errors = {initialisation.SINGLE: np.array([np.inf, 20.0]), "default": np.array([1.0, 4.0])}
    seconds = {name: np.array([1.0, 3.0]) for name in errors}
    found = Starts("toy-000", "hard", ["a", "b"], np.array([(30.0, 1.2), (-80.0, 0.7)]), errors, seconds)
    path = initialisation.write(found, tmp_path, 2)
    assert path.name == "toy-000.hard.initialisation.limit2.md"
    scales = ", ".join(f"{scale:g}" for scale in SearchConfig().scales)
    line = next(line for line in path.read_text().splitlines() if line.startswith("| default"))
    assert f"{SearchConfig().rotations} rotations; scales {scales}; until one is sure" in line
    assert line.endswith("| 50.0 | 100.0 | 100.0 | 2.50 | 2.00 | 2.00 |")
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["pairs"]["errors"][initialisation.SINGLE] == [None, 20]
    assert content["configs"]["upright, one scale"]["search"]["rotations"] == 1
    assert path.with_suffix(".png").is_file()


def test_the_command_registers_from_every_start(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        initialisation,
        "VARIANTS",
        {
            "upright": RegistrarConfig(
                search=SearchConfig(rotations=1, scales=(1.0,), candidates=3), alignment=AlignmentConfig(max_cells=100)
            )
        },
    )
    words = [
        "--data",
        str(toy[0]),
        "--level",
        "tar",
        "--warps",
        str(toy[1]),
        "--limit",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["study", "initialisation", *words]) == 0
    assert "| upright | 1 rotation; scale 1; best 3 compared |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "toy-000.tar.initialisation.limit1.json").read_text())["rows"]
    assert [row["key"] for row in rows] == [initialisation.SINGLE, "upright"]
    assert all(row["CPU seconds"] > 0 for row in rows)


def test_an_interrupted_command_says_that_it_keeps_nothing(toy, tmp_path, monkeypatch, capsys):
    class Interrupted(tqdm.tqdm):
        def update(self, n=1):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tqdm, "tqdm", Interrupted)
    words = ["--level", "tar", "--warps", str(toy[1]), "--limit", "1", "--out", str(tmp_path / "out")]
    assert main(["study", "initialisation", "--data", str(toy[0]), *words]) == 130
    assert capsys.readouterr().err.endswith("interrupted; nothing is kept, the same command starts over\n")
    assert not (tmp_path / "out").exists()
