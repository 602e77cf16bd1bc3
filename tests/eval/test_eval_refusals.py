"""Refusals: true and mismatched pairs through the registrar, and the figures that come of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import needs_weights
from toys import texture, write_tar

from eval import protocol, refusals
from eval.cli import main
from eval.refusals import Outcome


def outcome(error: float | None, registered: bool, estimate: float = 1.0) -> Outcome:
    return Outcome("a", error, registered, 0.1, estimate, 0.5)


def test_figures_are_what_arithmetic_says():
    true = [outcome(1, True), outcome(4, True), outcome(4, False), outcome(20, True), outcome(float("inf"), False)]
    figures = refusals.summary(true, [outcome(None, False)] * 3 + [outcome(None, True)])
    assert figures["SR@3"] == 20 and figures["SR@5"] == 60
    assert figures["SR@5 registered"] == 40 and figures["SR@3 registered"] == 20
    assert figures["registered but 10 px off or more"] == 20
    assert figures["mismatched registered"] == 25 and figures["mismatched pairs"] == 4
    assert figures["true error over estimate, median"] == 4
    assert figures["error within twice the estimate"] == pytest.approx(100 / 3)


@needs_weights
def test_the_command_registers_true_and_mismatched_pairs(tmp_path, monkeypatch, capsys):
    pictures = {f"fake__{k}": texture(k) for k in range(4)}
    data = write_tar(tmp_path / "toy-000.tar", {n: (np.stack([i] * 3, -1), i) for n, i in pictures.items()})
    monkeypatch.setattr(refusals, "WARPS", tmp_path)
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    protocol.write_warps(
        protocol.warps_path("toy-000", "tar", tmp_path), "toy-000", "tar", 0, dict.fromkeys(pictures, shift)
    )
    arguments = ["--data", str(data), "--true", "1", "--mismatched", "1", "--out", str(tmp_path / "out")]
    assert main(["refusals", *arguments]) == 0
    content = json.loads((tmp_path / "out" / "toy-000.tar.refusals.json").read_text())
    assert content["true"][0]["error"] is not None and content["mismatched"][0]["error"] is None
    assert content["mismatched"][0]["name"] == "fake__0 and fake__2"
    assert "mismatched registered" in capsys.readouterr().out
