"""``kornia-tar train`` on real shards: how a run begins, and what its checkpoint tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import encode, write_shard

from kornia_tar.cli.main import main
from kornia_tar.network.checkpoint import load_checkpoint
from kornia_tar.training.loop import PARTS

COMMON = ["--steps", "1", "--batch", "2", "--size", "64", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture
def data(scene, tmp_path) -> Path:
    """A folder of one shard with two pairs of 256 px."""
    optical, sar = scene
    members = {}
    for name, k in (("a__forest_1", 0), ("a__river_2", 128)):
        members[f"{name}.optical.webp"] = encode(optical[k : k + 256, k : k + 256])
        members[f"{name}.sar.webp"] = encode(sar[k : k + 256, k : k + 256])
    folder = tmp_path / "data"
    folder.mkdir()
    write_shard(folder / "train-000.tar", members)
    return folder


def test_from_goes_on_without_a_curriculum_and_keeps_the_history(data, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", "--data", str(data), "-o", str(first), "--net", "XXS", *COMMON]) == 0
    begun = load_checkpoint(first / "checkpoint.safetensors")[1]
    assert begun["train"]["ease"] > 0 and "earlier_parts" not in begun

    weights = str(first / "checkpoint.safetensors")
    more = ["--from", weights, "--padding", "replicate"]
    assert main(["train", "--data", str(data), "-o", str(second), *more, *COMMON]) == 0
    turned, onward = load_checkpoint(second / "checkpoint.safetensors")
    assert turned.config.msfl.padding == "replicate"
    assert main(["train", "--data", str(data), "-o", str(second), "--resume", "--from", weights, *COMMON]) == 1
    assert "began with" in capsys.readouterr().err, "the same tensors, but another network"
    assert main(["train", "--data", str(data), "-o", str(second), *more, "--only", "fine", *COMMON]) == 1
    assert "--padding" in capsys.readouterr().err
    assert onward["train"]["ease"] == 0 and onward["train"]["finish"] == 0.5
    assert onward["train"]["learning_rate"] < begun["train"]["learning_rate"]
    assert [part["train"] for part in onward["earlier_parts"]] == [begun["train"]]


@pytest.mark.parametrize("part", ["second", "look"])
def test_a_second_look_is_added_and_trained(data, tmp_path, part):
    first, second, joint = tmp_path / "first", tmp_path / "second", tmp_path / "joint"
    assert main(["train", "--data", str(data), "-o", str(first), "--net", "XXS", *COMMON]) == 0
    weights = str(first / "checkpoint.safetensors")
    assert main(["train", "--data", str(data), "-o", str(second), "--from", weights, "--only", part, *COMMON]) == 0
    before, after = (load_checkpoint(folder / "checkpoint.safetensors")[0] for folder in (first, second))
    assert before.second_look is None and after.second_look is not None
    assert after.second_look.out.bias.abs().sum() > 0
    own, stays = before.state_dict(), after.state_dict()
    moved = {name for name, value in own.items() if not value.equal(stays[name])}
    assert all(any(name.startswith(f"{mine}.") for mine in PARTS[part]) for name in moved)

    weights = str(second / "checkpoint.safetensors")
    assert main(["train", "--data", str(data), "-o", str(joint), "--from", weights, *COMMON]) == 0
    assert load_checkpoint(joint / "checkpoint.safetensors")[0].second_look is not None
