"""The land-cover head's training: what it learns from, what it learns, and that nothing else moves."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import encode, lively_net, write_shard
from PIL import Image

from kornia_tar.cli.main import main
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint
from kornia_tar.network.tafe import BRIGHTNESS
from kornia_tar.text import TextBank
from kornia_tar.training.lessons import Lessons, event_held_out, name_features, prepare_lessons, read_floods
from kornia_tar.training.words import (
    WordsConfig,
    agreement_loss,
    draw_part,
    information,
    naming_loss,
    train_words,
    word_indices,
)

NAMES = ("forest", "river", "port")


def bank() -> TextBank:
    features = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    return TextBank(NAMES, F.normalize(features, dim=1), "e", ("a {}",))


def lessons(count: int = 12) -> Lessons:
    """Planes in which each class, and each flood, has one of its own."""
    generator = torch.Generator().manual_seed(2)
    planes = 32 + BRIGHTNESS
    noise = lambda: 0.3 * torch.randn(count, planes, 8, 8, generator=generator)  # noqa: E731
    word = torch.arange(count) % 3
    marked = lambda: (noise() + 3 * F.one_hot(word, planes)[:, :, None, None]).half()  # noqa: E731
    wet = torch.zeros(count, 8, 8)
    wet[:, :, :4] = 1
    flooded = (noise() + 3 * torch.stack([wet if k == 1 else torch.zeros_like(wet) for k in range(planes)], 1)).half()
    classes = tuple(NAMES[int(k)] for k in word)
    return Lessons(marked(), classes, marked(), marked(), ("",) * count, flooded, flooded.clone(), wet)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("words")
    config = WordsConfig(steps=60, scenes=8, learning_rate=5e-3, held_out=("port",))
    return train_words(lively_net(), lessons(), bank(), out, config, {"step": 7}, ["a.tar"])


@torch.no_grad()
def test_words_are_learned_and_nothing_else_moves(trained):
    net, info = load_checkpoint(trained)
    before = lively_net().state_dict()
    assert all(torch.equal(net.state_dict()[name], value.half().float()) for name, value in before.items()
               if value.is_floating_point())  # fmt: skip
    given = lessons()
    maps = net.landcover(given.scenes.float(), torch.tensor([[1.0, 0.0]]).expand(12, -1))
    said = maps.mean((2, 3))[:, :2].argmax(1)
    seen = [k for k, name in enumerate(given.scene_classes) if name != "port"]
    assert all(NAMES[int(said[k])] == given.scene_classes[k] for k in seen)
    wet = net.landcover(given.flooded_sar.float(), torch.tensor([[0.0, 1.0]]).expand(12, -1))[:, 1]
    assert wet[given.flooded > 0].mean() > wet[given.flooded == 0].mean() + 0.3
    assert info["step"] == 7 and info["landcover"]["seen"] == ["forest", "river"]
    assert info["landcover"]["data"] == ["a.tar"] and len(net.landcover.words) == 3


def test_a_run_can_be_repeated(trained, tmp_path):
    config = WordsConfig(steps=3, scenes=4)
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(train_words(lively_net(), lessons(), bank(), tmp_path / name, config, {}))
    one, two = (load_checkpoint(path)[0].state_dict() for path in paths)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_losses_are_least_where_they_should_be():
    right = torch.tensor([0.9, 0.05]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    half = right.clone()
    half[:, :, :2] = torch.tensor([0.05, 0.9]).view(2, 1, 1)
    word = torch.tensor([0])
    sure, part, wrong = (float(naming_loss(m, word, 0.0)) for m in (right, half, right.flip(1)))
    assert sure < part < wrong
    assert float(agreement_loss(right, right)) == pytest.approx(0, abs=1e-6)
    assert float(agreement_loss(right, half)) > 0.1
    frames = torch.cat([right, right.flip(1)])
    assert float(information(frames)) > float(information(torch.cat([right, right]))) >= -1e-6
    assert float(information(torch.cat([half, half]))) == pytest.approx(0, abs=1e-5)  # tells the frame's places alone
    assert word_indices(["port", "", "moon"], NAMES).tolist() == [2, -1, -1]


def test_a_drawn_part_lies_in_the_frame_and_may_be_all_of_it():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_part(16, generator) for _ in range(200)]
    sizes = {part.stop - part.start for part in drawn}
    assert sizes == set(range(10, 17)) and {part.start for part in drawn} == set(range(7))
    assert all(0 <= part.start < part.stop <= 16 for part in drawn)


def test_lessons_keep_held_out_floods_and_labels_aside(pairs):
    net = lively_net()
    names = ("ombria-s1s2__2021x_1_after", "ombria-s1s2__train_1_after", "a__river_1", "ombria-s1s2__train_1_before")
    masks = {name: torch.ones(128, 128, dtype=torch.bool) for name in names[:2]}
    found = prepare_lessons(net, replace(pairs, names=names), None, masks, NAMES)
    assert len(found.flooded) == 1 and float(found.flooded.mean()) == 1 and found.pair_classes == ("river", "")
    alone = replace(
        pairs, names=("whurs19__port_3", "whurs19__port_8", "x__1", "y__2"), classes=("port", "port", "", "")
    )
    found = prepare_lessons(net, pairs, alone, {}, NAMES)
    assert found.scene_classes == ("port",)  # the other is held out
    assert found.scenes.shape == (1, 32 + BRIGHTNESS, 16, 16)
    with pytest.raises(ValueError, match="dam"):
        prepare_lessons(net, replace(pairs, names=("a", "b", "c", "d")), None, {}, ("dam",))
    assert event_held_out(names[0]) and not event_held_out(names[1]) and not event_held_out("x__2021_1")


def test_lessons_are_kept_for_the_weights_they_are_of(tmp_path):
    net, given = lively_net(), lessons(3)
    given.save(tmp_path / "kept.safetensors", name_features(net))
    found = Lessons.load(tmp_path / "kept.safetensors", name_features(net))
    assert found.scene_classes == given.scene_classes and torch.equal(found.flooded, given.flooded)
    other = lively_net(seed=1)
    for name in (name_features(other), name_features(net, 1)):
        with pytest.raises(ValueError, match=r"kept\.safetensors.*other weights"):
            Lessons.load(tmp_path / "kept.safetensors", name)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        Lessons.load(tmp_path / "bad.safetensors", "")


def test_floods_are_read_by_name(tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[:4] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("1").save(buffer, "PNG")
    tar = write_shard(tmp_path / "m-floods.tar", {"a.flood.png": buffer.getvalue(), "b.flood.png": b"", "c.json": b""})
    found = read_floods(tar, ["a", "c"])
    assert list(found) == ["a"] and found["a"].float().mean() == 0.25
    with pytest.raises(ValueError, match="mask"):
        read_floods(tar, ["b"])
    (tmp_path / "none.tar").write_text("no")
    with pytest.raises(ValueError, match=r"none\.tar"):
        read_floods(tmp_path / "none.tar", [])


@pytest.fixture
def data(scene, tmp_path):
    optical, sar = scene
    members = {"a__forest_1.optical.webp": encode(optical[:256, :256]), "a__forest_1.sar.webp": encode(sar[:256, :256])}
    write_shard(tmp_path / "train-000.tar", members)
    save_checkpoint(tmp_path / "small.safetensors", lively_net(), {"text": {"encoder": "e", "names": list("abcd")}})
    bank().save(tmp_path / "bank.npz")
    return tmp_path


def test_the_command_keeps_features_and_tells_what_was_seen(data, capsys):
    common = ["train", "--data", str(data), "--from", str(data / "small.safetensors"), "--only", "words", "--text",
              str(data / "bank.npz"), "--steps", "1", "--batch", "2", "--device", "cpu",
              "--features", str(data / "kept.safetensors")]  # fmt: skip
    assert main([*common, "-o", str(data / "one"), "--hold-out", "port"]) == 0
    kept = (data / "kept.safetensors").read_bytes()
    assert main([*common, "-o", str(data / "two")]) == 0 and (data / "kept.safetensors").read_bytes() == kept
    seen = [load_checkpoint(data / name / "checkpoint.safetensors")[1]["landcover"]["seen"] for name in ("one", "two")]
    assert seen == [["forest", "river"], list(NAMES)]
    for more, told in ((["--hold-out", "moon"], "no 'moon'"), (["--resume"], "cannot --resume")):
        assert main([*common, "-o", str(data / "three"), *more]) == 1
        assert told in capsys.readouterr().err
    whole = [*common[:5], "-o", str(data / "four"), "--steps", "1", "--features", "x.safetensors"]
    assert main(whole) == 1 and "--only words" in capsys.readouterr().err
