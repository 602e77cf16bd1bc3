"""The mean of two checkpoints: its tensors, its provenance, and what has no mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import SMALL, lively_net

from eval.calibration.average import average_checkpoints
from eval.cli import main
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def two(tmp_path):
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_checkpoint(path, lively_net(seed=seed), {"data": f"run {seed}", "calibration": None})
    return paths


def test_the_mean_lies_between_and_says_where_it_is_from(two, tmp_path):
    out = tmp_path / "mean.safetensors"
    assert main(["average", *map(str, two), "--share", "0.25", "--store", str(out)]) == 0
    (a, _), (b, _), (mean, info) = (load_checkpoint(path) for path in (*two, out))
    for name, tensor in mean.state_dict().items():
        one, other = a.state_dict()[name], b.state_dict()[name]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * one + 0.25 * other, rtol=1e-3, atol=1e-4)
    assert info["data"] == "run 0" and info["average"] == {
        "with": {"data": "run 1", "calibration": None},
        "share": 0.25,
    }
    assert "calibration" not in info


def test_what_has_no_mean_is_refused(two, tmp_path):
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        average_checkpoints(*two, 1.5, tmp_path / "x.safetensors")
    wider = replace(SMALL, tafe=replace(SMALL.tafe, classes=SMALL.tafe.classes + 1))
    save_checkpoint(two[1], lively_net(wider), {})
    with pytest.raises(ValueError, match="two configurations"):
        average_checkpoints(*two, 0.5, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_the_mean_takes_no_input_s_place(two, capsys):
    before = two[1].read_bytes()
    assert main(["average", *map(str, two), "--store", str(two[1])]) == 1
    assert "would replace the input" in capsys.readouterr().err and two[1].read_bytes() == before
