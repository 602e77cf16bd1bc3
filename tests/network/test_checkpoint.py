"""Checkpoints: what is written comes back; what is no checkpoint is refused in one line."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from helpers import lively_net, picture
from safetensors.torch import load_file, save_file

from kornia_tar import TARMatcher
from kornia_tar.network.checkpoint import FORMAT, load_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "weights.safetensors"
    save_checkpoint(target, lively_net(), {"seed": 3, "text": {"encoder": "e", "names": ["a"], "templates": []}})
    return target


def refusal(path, error=ValueError) -> str:
    """The message of the refusal: one line that names the file."""
    for load in (load_checkpoint, TARMatcher):
        with pytest.raises(error) as caught:
            load(path)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message
    return message


def test_round_trip(path):
    net = lively_net()
    again, info = load_checkpoint(path)
    assert info["seed"] == 3 and info["text"]["names"] == ["a"]
    assert again.config == net.config and not again.training
    for (name, old), new in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert new.dtype == old.dtype, name
        torch.testing.assert_close(new, old.half().float() if old.is_floating_point() else old, rtol=0, atol=0)
    with torch.no_grad():
        assert len(again(picture(0, 64, 64), picture(1, 64, 64)).points0)


def test_a_second_round_trip_changes_nothing(path, tmp_path):
    net, info = load_checkpoint(path)
    save_checkpoint(tmp_path / "again.safetensors", net, info)
    torch.testing.assert_close(load_file(tmp_path / "again.safetensors"), load_file(path), rtol=0, atol=0)
    assert load_checkpoint(tmp_path / "again.safetensors")[1] == info


def test_writing_leaves_nothing_else_and_replaces(path, tmp_path):
    save_checkpoint(path, lively_net(seed=9), {})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(TypeError):
        save_checkpoint(path, lively_net(), {"not": object()})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert load_checkpoint(path)[1] == {}


def test_writing_into_no_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="absent"):
        save_checkpoint(tmp_path / "absent" / "w.safetensors", lively_net(), {})


def test_missing_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.safetensors", FileNotFoundError)


@pytest.mark.parametrize("keep", [0, 5, 100, 5000, -1])
def test_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated" in refusal(path)


def test_pickle_is_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    for name, write in (("torch.pt", torch.save), ("raw.safetensors", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        write({"weights": Trap()}, tmp_path / name)
        assert "pickle" in refusal(tmp_path / name)


def test_text_file(tmp_path):
    (tmp_path / "notes.safetensors").write_text("these are not weights\n" * 40)
    refusal(tmp_path / "notes.safetensors")


def test_folder(tmp_path):
    refusal(tmp_path, FileNotFoundError)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "kornia-tar-0"}])
def test_foreign_safetensors(tmp_path, metadata):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", metadata=metadata)
    assert FORMAT in refusal(tmp_path / "other.safetensors")


def meddle(path, change) -> None:
    """Rewrite the checkpoint with its tensors and metadata changed."""
    net, info = load_checkpoint(path)
    tensors = load_file(path)
    meta = {"format": FORMAT, "config": json.dumps(net.config.to_dict()), "info": json.dumps(info)}
    change(tensors, meta)
    save_file(tensors, path, metadata=meta)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, meta: tensors.pop("cfdm.descriptor.weight"),
        lambda tensors, meta: tensors.update(stranger=torch.zeros(1)),
        lambda tensors, meta: tensors.update({"cfdm.descriptor.weight": torch.zeros(2, 2)}),
        lambda tensors, meta: meta.pop("config"),
        lambda tensors, meta: meta.pop("info"),
        lambda tensors, meta: meta.update(config="{"),
        lambda tensors, meta: meta.update(config="[]"),
        lambda tensors, meta: meta.update(config="{}"),
        lambda tensors, meta: meta.update(config=json.dumps({"msfl": 1, "tafe": 2, "cfdm": 3})),
        lambda tensors, meta: meta.update(config=meta["config"].replace('"heads": 2', '"heads": 0')),
        lambda tensors, meta: meta.update(config=meta["config"].replace('"window": 10', '"window": "10"')),
        lambda tensors, meta: meta.update(config=meta["config"].replace("[8, 16, 32, 32]", "[1000, 1000, 1000, 1000]")),
        lambda tensors, meta: meta.update(config=meta["config"].replace("[8, 16, 32, 32]", "[100000000, 16, 32, 32]")),
        lambda tensors, meta: meta.update(config=meta["config"].replace("[1, 1, 1, 1]", "[1, 1, 1, 1000]")),
        lambda tensors, meta: meta.update(config=meta["config"].replace('"layers": 1', '"layers": 1000')),
        lambda tensors, meta: meta.update(config=meta["config"].replace('"heads": 2', '"heads": NaN')),
        lambda tensors, meta: meta.update(info="[]"),
        lambda tensors, meta: meta.update(info='{"text": ["a"]}'),
        lambda tensors, meta: meta.update(info='{"text": {"encoder": "e", "names": [1, 2]}}'),
        lambda tensors, meta: meta.update(info='{"calibration": {"matches": 3}}'),
        lambda tensors, meta: meta.update(info="[" * 100_000),
    ],
    ids=["missing", "extra", "shape", "no config", "no info", "not JSON", "list", "empty", "scalars", "heads", "type",
         "wide", "wider", "blocks", "layers", "NaN", "info", "text", "names", "calibration", "deep"],
)  # fmt: skip
def test_tensors_or_config_that_do_not_fit(path, change):
    meddle(path, change)
    assert "do not fit" in refusal(path)
