"""Refit: one command fits all that depends on the weights, and leaves the weights that it reads alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import needs_weights
from toys import write_tar

from eval.benchmark import protocol
from eval.calibration import acceptance, confidence, refit
from eval.calibration.acceptance import Plan
from eval.cli import main
from kornia_tar.files import write_text
from kornia_tar.network.calibration import Calibration, PairScalings, PlattScaling
from kornia_tar.network.checkpoint import load_checkpoint, resolve_weights
from kornia_tar.raster.synthetic import draw_scene


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Four pairs of a toy set, and a plan of few of them."""
    scenes = {f"{name}_0": draw_scene(k, 256) for k, name in enumerate("abcd")}
    pictures = {name: (scene.optical, scene.sar) for name, scene in scenes.items()}
    write_tar(tmp_path / "toy-000.tar", pictures)
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    place = protocol.warps_path("toy-000", "tar", tmp_path)
    protocol.write_warps(place, "toy-000", "tar", 0, dict.fromkeys(pictures, shift))
    monkeypatch.setattr(refit, "CALIBRATED_ON", "toy-000.tar")
    # A fit of the confidence needs many pairs; test_eval_calibration.py holds it. Here: what is done with one.
    fits = Calibration(matches=PairScalings(PlattScaling(1.5, 0.1, 1.2)))
    monkeypatch.setattr(confidence, "collect", lambda *_: {})
    monkeypatch.setattr(confidence, "judge", lambda _: ({}, fits))
    monkeypatch.setattr(confidence, "write", lambda out, *_: write_text(out / "calibration.md", "a table"))
    monkeypatch.setattr(refit, "KINDS", (Plan("toy-000.tar", "tar", 1, 1, 64),))
    monkeypatch.setattr(acceptance, "judge", lambda kinds: {kind.name: np.zeros(len(kind.all)) for kind in kinds})
    return tmp_path


@needs_weights
def test_all_is_fitted_into_a_new_file(plan, capsys):
    weights, fitted = resolve_weights("optical-sar"), plan / "fitted.safetensors"
    before = weights.read_bytes()
    words = ["--data", str(plan), "--cache", str(plan / "cache"), "--out", str(plan / "out")]
    assert main(["refit", str(weights), *words, "--store", str(fitted)]) == 0
    assert weights.read_bytes() == before
    (old, old_info), (new, info) = load_checkpoint(weights), load_checkpoint(fitted)
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in old.state_dict().items())
    assert "toy-000" in info["calibration"]["fitted"] and "toy-000 tar 64" in info["calibration"]["acceptance_fitted"]
    assert info["calibration"]["matches"] != old_info["calibration"]["matches"]
    assert info["calibration"]["registration"] != old_info["calibration"].get("registration")
    assert {path.name for path in (plan / "out").iterdir()} >= {"calibration.md", "acceptance.md"}
    capsys.readouterr()


@needs_weights
def test_the_weights_that_are_read_are_no_target(tmp_path, plan, capsys):
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(resolve_weights("optical-sar").read_bytes())
    words = ["--data", str(plan), "--out", str(tmp_path / "out")]
    assert main(["refit", str(weights), *words, "--store", str(weights)]) == 1
    assert "name another file" in capsys.readouterr().err
