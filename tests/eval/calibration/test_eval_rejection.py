"""Refusals: true and mismatched pairs through the registrar, and the figures that come of it."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tqdm
from helpers import needs_weights
from toys import texture, write_tar

from eval.benchmark import protocol
from eval.calibration import outcomes, rejection
from eval.calibration.outcomes import Outcome, Outcomes
from eval.cli import main
from kornia_tar import RegistrarConfig, SearchConfig


def outcome(error: float | None, registered: bool, estimate: float = 1.0) -> Outcome:
    return Outcome("a", error, registered, estimate, 0.5)


def test_figures_are_what_arithmetic_says():
    true = [outcome(1, True), outcome(4, True), outcome(4, False), outcome(20, True), outcome(float("inf"), False)]
    figures = rejection.summary(true, [outcome(None, False)] * 3 + [outcome(None, True)])
    assert figures["SR@3"] == 20 and figures["SR@5"] == 60
    assert figures["SR@5 registered"] == 40 and figures["SR@3 registered"] == 20
    assert figures["registered but 10 px off or more"] == 20
    assert figures["mismatched registered"] == 25 and figures["mismatched pairs"] == 4
    assert figures["true error over estimate, median"] == 4
    assert figures["error within twice the estimate"] == pytest.approx(100 / 3)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on one true and two mismatched pairs of a toy set, from a single start."""
    pictures = {f"fake__{k}": texture(k) for k in range(4)}
    data = write_tar(tmp_path / "toy-000.tar", {n: (np.stack([i] * 3, -1), i) for n, i in pictures.items()})
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    quick = partial(RegistrarConfig, search=SearchConfig(rotations=1, scales=(1.0,)))
    monkeypatch.setattr(outcomes, "RegistrarConfig", quick)
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    place = protocol.warps_path("toy-000", "tar", tmp_path)
    protocol.write_warps(place, "toy-000", "tar", 0, dict.fromkeys(pictures, shift))
    words = ["--data", str(data), "--true", "1", "--mismatched", "2", "--threads", "1"]

    def run(cache: str, *more: str) -> int:
        return main(["rejection", *words, "--cache", str(tmp_path / cache), "--out", str(tmp_path / "out"), *more])

    return run


def reported(folder: Path) -> list[dict]:
    content = json.loads((folder / "out" / "toy-000.tar.rejection.json").read_text())
    return content["true"] + content["mismatched"]


@pytest.mark.slow
@needs_weights
def test_an_interrupted_command_goes_on_where_it_stopped(command, tmp_path, monkeypatch, capsys):
    class Interrupted(tqdm.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n == 2:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "tqdm", Interrupted)
        assert command("cache") == 130
    assert "goes on from here" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (path,) = (tmp_path / "cache" / "outcomes").iterdir()
    kept = json.loads(path.read_text())["outcomes"]
    assert [entry["name"] for entry in kept] == ["fake__0", "fake__0 and fake__2"]
    assert command("cache") == 0
    assert "mismatched registered" in capsys.readouterr().out
    found = reported(tmp_path)
    assert [entry["seconds"] for entry in found[:2]] == [entry["seconds"] for entry in kept]  # not registered again
    assert found[2]["name"] == "fake__2 and fake__0"
    assert found[0]["error"] < 5 and found[2]["error"] is None
    assert command("another cache") == 0  # at a stretch
    for entry in (*found, *(again := reported(tmp_path))):
        del entry["seconds"]
    assert found == again


def test_outcomes_come_back_and_another_key_starts_anew(tmp_path):
    path, found = tmp_path / "new" / "a.json", Outcome("a", float("inf"), False, float("nan"), 0.5, digest="asked")
    Outcomes(path, "one").add(found)
    assert repr(Outcomes(path, "one").get("a", "asked")) == repr(found)
    assert Outcomes(path, "one").get("a", "other images") is None
    assert Outcomes(path, "two").get("a", "asked") is None
    path.write_text('{"figures": {}}')
    with pytest.raises(ValueError, match="not a file of outcomes"):
        Outcomes(path, "one")
