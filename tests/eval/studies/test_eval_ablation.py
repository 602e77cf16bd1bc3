"""The ablation of text: runs that are not repeated, arithmetic of the table, exam, and the uses of text it tries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL, lively_net, picture
from toys import texture, write_tar

from eval.benchmark import protocol
from eval.cli import main
from eval.studies.text import ablation, single_pass, substitution, uses
from eval.studies.text import table as ablation_table
from kornia_tar.conventions import CELL
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint
from kornia_tar.network.net import TARNet, modality_weights, with_landcover
from kornia_tar.network.tafe import LandCoverConfig
from kornia_tar.text import SCENE_NAMES, TextBank

SHIFT = np.array([[1.0, 0, 8], [0, 1, -16], [0, 0, 1]])


def random_bank(names: int, width: int, seed: int = 0) -> TextBank:
    features = torch.randn(names, width, generator=torch.Generator().manual_seed(seed))
    words = tuple(dict.fromkeys((*substitution.FEW, *SCENE_NAMES)))
    return TextBank(words[:names], features, "random")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch) -> Path:
    """Data, banks and a network, all too small to learn anything."""
    grey = {f"fake__{k}": texture(k) for k in range(3)}
    pairs = {name: (np.stack([image] * 3, -1), image) for name, image in grey.items()}
    for name in ("train-000.tar", "toy-000.tar"):
        write_tar(tmp_path / name, pairs)
    place = protocol.warps_path("toy-000", "tar", tmp_path)
    protocol.write_warps(place, "toy-000", "tar", 0, dict.fromkeys(pairs, SHIFT))
    random_bank(5, 512).save(tmp_path / ablation.REMOTECLIP)
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    monkeypatch.setattr(ablation, "EXAMS", (("toy-000.tar", "tar"),))
    monkeypatch.setattr(ablation, "SIZE", SMALL)
    for name in ("BASE", "RUN", "FINISHED"):
        small = replace(getattr(ablation, name), batch=2, size=48, finish_size=48, per_pair=4)
        monkeypatch.setattr(ablation, name, small)
    return tmp_path


def command(toy: Path, **options: object) -> int:
    told = {"rows": "remoteclip,worth", "seeds": 1, "steps": 2, "base-steps": 1, "limit": 1, **options}
    words = [word for key, value in told.items() for word in (f"--{key}", str(value))]
    places = ["--data", toy, "--text", toy, "--runs", toy / "runs", "--out", toy / "out"]
    return main(["study", "text-ablation", *map(str, places), *words])


@pytest.mark.slow  # trains
def test_one_command_trains_examines_and_goes_on_where_it_was_stopped(toy, monkeypatch, capsys):
    trained, real = [], ablation.run

    def stop_at(row: ablation.Row, *rest: object) -> TARNet:
        trained.append(row.label)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(row, *rest)

    monkeypatch.setattr(ablation, "run", stop_at)
    assert command(toy) == 130
    assert "finished runs" in capsys.readouterr().err
    plain, words, worth = (ablation.ROWS[key].label for key in ("none", "remoteclip", "worth"))
    assert trained == [plain, words, worth]
    table = (toy / "out" / "text-ablation.md").read_text()
    assert words in table and worth not in table
    assert command(toy) == 0
    assert trained[3:] == [worth]
    content = json.loads((toy / "out" / "text-ablation.json").read_text())
    assert [run["row"] for run in content["runs"]] == ["base", "none", "remoteclip", "worth"]
    assert (toy / "out" / "text-ablation.png").stat().st_size > 1000
    loss = [run["figures"]["toy-000, tar"]["loss"] for run in content["runs"]]
    assert len(set(loss)) == 4 and all(3 < value < 12 for value in loss)
    assert command(toy, steps=1, rows="none") == 0  # other settings, other runs
    assert trained[4:] == [plain]
    capsys.readouterr()
    assert command(toy, **{"base-steps": 2}) == 1
    assert "holds a base of 1 steps, not 2" in capsys.readouterr().err
    assert command(toy, rows="words") == 1
    assert "'words' is unknown: choose from none, learned" in capsys.readouterr().err


def test_a_finished_checkpoint_is_trained_in_part_and_asked_with_words_it_never_saw(toy, capsys):
    random_bank(5, 1024).save(toy / "remoteclip_rn50_whurs19_mean.npz")
    random_bank(9, 1024, seed=1).save(toy / "remoteclip_rn50_landcover40.npz")
    finished = lively_net()
    finished.tafe.set_text(random_bank(4, 16).features)
    save_checkpoint(toy / "finished.safetensors", finished, {})
    assert command(toy, base=toy / "finished.safetensors", rows="unseen") == 0
    content = json.loads((toy / "out" / "text-ablation-finished.json").read_text())
    figures = {run["row"]: run["figures"]["toy-000, tar"]["loss"] for run in content["runs"]}
    assert list(figures) == ["base", "none", "rn50", "unseen"]
    assert len(set(figures.values())) == 4
    trained = load_checkpoint(toy / "runs" / "rn50-0" / "checkpoint.safetensors")[0].state_dict()
    for name, value in load_checkpoint(toy / "finished.safetensors")[0].state_dict().items():
        if name.startswith("msfl."):
            assert torch.equal(value, trained[name]), name
    assert not (toy / "runs" / "unseen-0" / "checkpoint.safetensors").exists()
    assert command(toy, base="no-such-weights") == 1
    assert "no-such-weights" in capsys.readouterr().err


def test_rows_of_a_seed_start_alike(toy):
    base = ablation.train_base(ablation.read_pairs([toy / "train-000.tar"]), toy / "runs" / "base", 1)
    nets = {
        key: ablation.start(ablation.ROWS[key], ablation.ROWS[key].bank(toy, 1), base, 1).state_dict()
        for key in ("learned", "random", "shuffled", "remoteclip", "worth", "geometry", "scene")
    }
    assert (nets["random"]["tafe.gate"] == ablation.GATE).all()
    for net in nets.values():
        for name, value in nets["random"].items():
            assert torch.equal(value, net[name]), name


def entry(row: str, seed: int, value: float | None) -> dict:
    return {"row": row, "seed": seed, "figures": {"set": dict.fromkeys(single_pass.FIGURES, value)}}


def test_differences_are_paired_by_seed():
    results = [entry("none", 0, 10), entry("none", 1, 20), entry("none", 2, 30), entry("words", 0, 11),
               entry("words", 2, 33)]  # fmt: skip
    found = ablation_table.spread(results, "none", "set", "SR@5")
    assert found.mean == 20 and found.deviation == 10 and found.error == pytest.approx(10 / 3**0.5)
    change = ablation_table.difference(results, "words", "none", "set", "SR@5")
    assert change.values == (1, 3) and change.mean == 2 and change.error == pytest.approx(1)
    alone = ablation_table.difference(results[:1], "none", "none", "set", "loss")
    assert alone.mean == 0 and np.isnan(alone.deviation)
    assert np.isnan(ablation_table.spread([entry("none", 0, None)], "none", "set", "ranking").mean)


def test_the_table_says_mean_spread_and_difference(tmp_path):
    results = [entry("none", 0, 10), entry("words", 0, 11), entry("none", 1, 20), entry("words", 1, 23)]
    labels = {"none": "no text", "absent": "never run", "words": "words"}
    text = ablation_table.write(tmp_path, "t", results, labels, "none", "About.").read_text()
    assert "| no text | 2 | 15.0 ± 7.1 |" in text and "| words | 2 | +2.0 ± 1.0 |" in text
    assert "never run" not in text


def test_ranking():
    assert single_pass.ranking(np.array([0.9, 0.2, 0.5, 0.2]), np.array([True, True, False, False])) == 62.5
    assert np.isnan(single_pass.ranking(np.array([0.9]), np.array([True])))


def test_loss_is_that_of_the_true_cell():
    image = torch.zeros(1, 48, 64)
    question = single_pass.Question(image, image, SHIFT, "affine")
    scores = torch.zeros(48, 48)
    for row in range(6):
        for column in range(8):
            if row >= 2 and column < 7:
                scores[row * 8 + column, (row - 2) * 8 + column + 1] = 50.0
    assert single_pass._loss(scores, (8, 8), question) == pytest.approx(0, abs=1e-6)
    assert single_pass._loss(torch.zeros(48, 48), (8, 8), question) == pytest.approx(np.log(48))
    assert SHIFT[0, 2] == CELL and SHIFT[1, 2] == -2 * CELL


def test_fewer_dimensions_keep_all_similarities():
    bank = random_bank(5, 40)
    small = ablation.fit_width(bank, 8)
    assert small.dim == 8 and small.names == bank.names
    torch.testing.assert_close(small.features @ small.features.T, bank.features @ bank.features.T)
    with pytest.raises(ValueError, match="5 features of 40 do not fit into 4"):
        ablation.fit_width(bank, 4)


def test_shuffled_names_all_move(tmp_path):
    bank = random_bank(5, 16)
    bank.save(tmp_path / ablation.REMOTECLIP)
    rows = [ablation.shuffled(tmp_path, seed).features for seed in range(4)]
    for features in rows:
        same = torch.isclose(features @ bank.features.T, torch.tensor(1.0), atol=1e-5)
        assert (same.sum(0) == 1).all() and (same.sum(1) == 1).all() and not same.diag().any()
    assert not torch.allclose(rows[0], rows[1])


def test_templates_take_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(uses, "step_loss", lambda net, batch, text, *rest: (seen.append(text), {}))
    loss = uses.template_loss(np.eye(6, dtype=np.float32)[:, None] * 3)
    for step in range(12):
        loss(None, None, torch.zeros(1, 6), None, 4, torch.Generator().manual_seed(step))
    assert len({int(text.argmax()) for text in seen}) > 2 and all(text.norm() == 1 for text in seen)


def test_scene_and_geometry():
    net, x = lively_net(), torch.randn(2, 32, 6, 6)
    plain = net.tafe(x).landcover
    net.tafe.__class__ = uses.SceneTAFE
    picked = net.tafe(x).landcover
    torch.testing.assert_close(picked.sum(1), torch.ones(2, 6, 6))
    entropy = lambda m: -(m * m.clamp_min(1e-9).log()).sum(1).mean()  # noqa: E731
    assert entropy(picked.mean((2, 3))) < entropy(plain.mean((2, 3)))
    net.tafe.__class__ = uses.GeometryTAFE
    net.tafe(x, torch.nn.functional.normalize(torch.randn(4, 16), dim=1))
    assert 0 < net.tafe.penalty < 2 and net.tafe.penalty.requires_grad


@torch.no_grad()
def test_worth_of_classes_starts_at_nothing_and_moves_confidence_alone():
    torch.manual_seed(0)
    net = uses.with_worth(SMALL)
    net.load_state_dict(lively_net().state_dict(), strict=False)
    images = picture(0, 64, 64), picture(1, 64, 64), modality_weights(["optical"]), modality_weights(["sar"])
    plain, same = lively_net()(*images), net.eval()(*images)
    assert torch.equal(plain.confidence, same.confidence)
    net.cfdm.fine_head.worth.fill_(0.1)
    more = net(*images)
    assert torch.equal(more.points0, plain.points0)
    torch.testing.assert_close(more.confidence.logit() - plain.confidence.logit(), torch.ones(len(plain.confidence)))


def test_other_words_for_a_finished_network(toy, tmp_path):
    bank = random_bank(19, 16)
    bank.save(tmp_path / ablation.REMOTECLIP)
    for name in ("clip", "georsclip", "skyclip50"):
        random_bank(19, 16, seed=len(name)).save(tmp_path / f"{name}_vitb32_whurs19_mean.npz")
    random_bank(9, 40).save(tmp_path / "remoteclip_rn50_landcover40.npz")
    np.savez(tmp_path / ablation.PER_PROMPT, per_prompt=np.stack([bank.features] * 2), prompts=["a {}", "one {}"])
    torch.manual_seed(0)
    net = lively_net()
    net.tafe.set_text(bank.features)
    (dataset,) = ablation.open_dataset(toy / "toy-000.tar")
    made = substitution.variants(net, tmp_path)
    answers = substitution.measure(made, single_pass.read_questions(dataset, "tar", 2))
    loss = {label: found.figures()["loss"] for label, found in answers.items()}
    assert loss["text off"] != loss[substitution.SHIPPED] != loss["random unit vectors"]
    assert loss["one template alone, 'a {}'"] == pytest.approx(loss[substitution.SHIPPED], abs=1e-4)
    assert len(net.tafe.tokens) == 19  # the given one stays as it was
    text = substitution.write(tmp_path / "swap", "toy", answers).read_text()
    assert text.count("\n| ") == len(made) + 1 and "±" in text
    with pytest.raises(ValueError, match="no text to exchange"):
        substitution.variants(made["text off"], tmp_path)


@torch.no_grad()
def test_an_images_own_words_pick_the_prompts():
    head = LandCoverConfig(text_dim=16, classes=4, width=8, hidden=16, shared=8, windows=(3,))
    trained = with_landcover(lively_net(), head, seed=1)
    words = torch.nn.functional.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    trained.landcover.set_text(words)
    maps = []
    for kind in (uses.OwnWordsNet, uses.OthersWordsNet):
        net = uses.with_own_words(kind)(trained.config).eval()
        net.tafe.tokens = trained.tafe.tokens.clone()
        net.load_state_dict(trained.state_dict())
        image, modality = picture(3, 64, 64), modality_weights(["optical"])
        maps.append(net.encode(image, modality).landcover)
        shares = trained.encode(image, modality, words=True).landcover.mean((2, 3)).roll(kind.BY, 1).clamp_min(1e-3)
        joint = trained.encode(image, modality).landcover * shares[:, :, None, None]
        torch.testing.assert_close(maps[-1], joint / joint.sum(1, keepdim=True))
    assert not torch.allclose(*maps)
    with pytest.raises(ValueError, match="land-cover head"):
        uses.with_own_words(uses.OwnWordsNet)(SMALL)
