"""The loop end to end on fake shards."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import SIDE, SMALL, lively_net, picture

from kornia_tar import TARMatcher
from kornia_tar.network.checkpoint import load_checkpoint
from kornia_tar.network.net import TARConfig, TARNet
from kornia_tar.text import TextBank
from kornia_tar.training.data import find_shards, read_pairs
from kornia_tar.training.loop import PARTS, TrainConfig, choose_bf16, parameter_groups, schedule, train, update_ema
from kornia_tar.training.losses import step_loss

SHORT = {"batch": 2, "size": 48, "finish_size": 64, "warmup": 2, "per_pair": 4, "precision": "fp32"}


def config(steps: int, **options) -> TrainConfig:
    return TrainConfig(steps=steps, **{**SHORT, **options})


@pytest.fixture
def bank() -> TextBank:
    features = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    return TextBank(("farmland", "forest", "river", "desert"), features, "test encoder", ("a photo of {}",))


@pytest.fixture
def few(shards):
    return read_pairs(find_shards(shards), SIDE, progress=False)


def run(pairs, out: Path, bank: TextBank | None, steps: int, **options) -> Path:
    out.mkdir(exist_ok=True)
    return train(pairs, out, text=bank, config=config(steps, **options.pop("config", {})), model=SMALL, **options)


def test_a_run_leaves_checkpoint_state_and_log(few, tmp_path, bank):
    path = run(few, tmp_path / "run", bank, 4, provenance={"data": "fake"})
    assert path == tmp_path / "run" / "checkpoint.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.safetensors", "log.jsonl", "state.pt"]
    net, info = load_checkpoint(path)
    assert info["step"] == 4 and info["pairs"] == 6 and info["data"] == "fake"
    assert info["train"]["batch"] == 2 and info["train"]["seed"] == 0
    assert info["text"] == {"encoder": "test encoder", "names": list(bank.names), "templates": ["a photo of {}"]}
    assert net.tafe.tokens.abs().sum() > 0
    matcher = TARMatcher(path, threshold=0.0)
    assert matcher.text_names == bank.names
    with torch.no_grad():
        out = matcher({"image0": picture(0, 64, 64), "image1": picture(1, 64, 64)})
    assert len(out["confidence"]) and all(v.isfinite().all() for v in out.values())
    state = torch.load(path.with_name("state.pt"), weights_only=True)
    assert state["step"] == 4
    start = TARNet(SMALL)
    torch.manual_seed(0)
    assert any(not torch.equal(a, b) for a, b in zip(state["net"].values(), start.state_dict().values(), strict=True))


def test_resume_goes_on_counting(few, tmp_path, bank):
    run(few, tmp_path / "run", bank, 2)
    path = run(few, tmp_path / "run", bank, 5, resume=True)
    assert load_checkpoint(path)[1]["step"] == 5
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 5
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.safetensors", "log.jsonl", "state.pt"]


def test_learned_text_moves_and_goes_on_from_where_it_was(few, tmp_path, bank):
    state = lambda: torch.load(tmp_path / "run" / "state.pt", weights_only=True)["features"]  # noqa: E731
    open_gate = TARNet(SMALL)
    open_gate.tafe.gate.data.fill_(0.5)
    run(few, tmp_path / "run", bank, 2, config={"learn_text": True}, start=open_gate)
    first = state()
    assert 0 < (first - bank.features).abs().max() < 0.1
    run(few, tmp_path / "run", bank, 3, config={"learn_text": True}, resume=True)
    assert 0 < (state() - first).abs().max() < 0.1
    run(few, tmp_path / "run", bank, 2, start=open_gate)
    assert torch.equal(state(), bank.features)


def test_equal_seeds_give_equal_weights(few, tmp_path, bank):
    nets = [load_checkpoint(run(few, tmp_path / name, bank, 3, config={"seed": seed}))[0].state_dict()
            for name, seed in (("a", 1), ("b", 1), ("c", 2))]  # fmt: skip
    torch.testing.assert_close(nets[0], nets[1], rtol=0, atol=0)
    assert not torch.equal(nets[0]["cfdm.descriptor.weight"], nets[2]["cfdm.descriptor.weight"])


def test_runs_of_one_seed_see_the_same_data_whatever_they_learn(few, tmp_path, bank):
    def seen(folder: str, start: TARNet, seed: int = 0) -> list[torch.Tensor]:
        images = []

        def loss(net, batch, *rest):
            images.append(batch.image0)
            return step_loss(net, batch, *rest)

        run(few, tmp_path / folder, bank, 3, start=start, loss=loss, config={"seed": seed})
        return images

    one, two = seen("a", lively_net()), seen("b", TARNet(SMALL))
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True)) and not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], seen("c", lively_net(), seed=1)[0])


@pytest.mark.parametrize("part", ["fine", "text"])
def test_a_part_alone_moves_and_nothing_else(few, tmp_path, bank, part):
    start = lively_net()
    before = {name: value.clone() for name, value in start.named_parameters()}
    run(few, tmp_path / "run", bank, 2, start=start, config={"only": part})
    after = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["net"]
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved and all(any(name.startswith(f"{mine}.") for mine in PARTS[part]) for name in moved)
    for mine in PARTS[part]:
        assert any(name.startswith(f"{mine}.") for name in moved), mine


def test_resume_without_state(few, tmp_path, bank):
    with pytest.raises(FileNotFoundError, match=r"state\.pt: nothing to resume"):
        run(few, tmp_path / "run", bank, 2, resume=True)
    assert not list((tmp_path / "run").iterdir())


def test_training_without_text(few, tmp_path):
    model = replace(SMALL, tafe=replace(SMALL.tafe, classes=0))
    path = train(few, tmp_path, text=None, config=config(2), model=model)
    assert "text" not in load_checkpoint(path)[1]
    assert TARMatcher(path).text_names == ()


def test_log_has_a_line_of_means_every_fifty_steps(few, tmp_path, bank):
    tiny = {"batch": 1, "size": 32, "finish_size": 32, "ema": 0.9}
    run(few, tmp_path / "run", bank, 35, config=tiny)
    run(few, tmp_path / "run", bank, 51, config=tiny, resume=True)
    (line,) = (json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert line["step"] == 50 and {"accuracy", "identity", "precision", "pairs_per_s", "lr", "size"} <= set(line)
    assert 0 <= line["accuracy"] <= 1
    # 16 cells: log 16 = 2.8 for a network that knows nothing. A mean over the steps seen, also after a resume.
    assert line["coarse"] > 1.5


def test_fewer_pairs_than_a_batch(few, tmp_path, bank):
    path = run(few, tmp_path / "run", bank, 1, config={"batch": 12, "size": 32, "finish_size": 32})
    assert load_checkpoint(path)[1]["step"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": TrainConfig(**SHORT)}, "exactly one of steps and minutes"),
        ({"config": TrainConfig(steps=1, minutes=1, **SHORT)}, "exactly one of steps and minutes"),
        ({"config": config(1), "model": TARConfig()}, "expects 19 text features"),
        ({"config": config(1), "text": None}, "expects 4 text classes"),
        ({"config": config(1, precision="fp8")}, "precision.*fp8"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(few, tmp_path, bank, options, words):
    with pytest.raises(ValueError, match=words):
        train(few, tmp_path, **{"text": bank, "model": SMALL, **options})
    assert not list(tmp_path.glob("*.*"))


def test_text_of_another_width(few, tmp_path, bank):
    wide = TextBank(bank.names, torch.randn(4, 24), "wide")
    with pytest.raises(ValueError, match="16"):
        train(few, tmp_path, text=wide, config=config(1), model=SMALL)


def test_schedule_warms_up_stays_and_falls():
    c = TrainConfig(
        steps=1000, warmup=100, learning_rate=1.0, ease=0.5, finish=0.2, batch=16, size=128, finish_size=192
    )
    rates = [schedule(step / 1000, step, c)[0] for step in range(1000)]
    assert rates[0] == 0.01 and rates[99] == rates[500] == 1 and rates[-1] < 0.03
    assert all(b <= a for a, b in pairwise(rates[700:]))
    eases = [schedule(p, 500, c)[1] for p in (0.0, 0.25, 0.5, 1.0)]
    assert eases == [1, 0.5, 0, 0]
    assert schedule(0.5, 500, c)[2:] == (128, 16)
    assert schedule(0.9, 900, c)[2:] == (192, 7)


def test_decay_leaves_norms_gates_and_biases_alone():
    net = TARNet(SMALL)
    decay, keep = parameter_groups(net, 0.1)
    assert decay["weight_decay"] == 0.1 and keep["weight_decay"] == 0
    assert len(decay["params"]) + len(keep["params"]) == len(list(net.parameters()))
    alone = {id(p) for p in keep["params"]}
    assert all(id(p) in alone for name, p in net.named_parameters() if "gate" in name or name.endswith("bias"))


def test_moving_average():
    a, b = TARNet(SMALL), TARNet(SMALL)
    first, second = a.cfdm.descriptor.weight.clone(), b.cfdm.descriptor.weight.clone()
    b.msfl.stage4[0].norm.running_mean.fill_(3.0)
    update_ema(a, b, 0.9)
    torch.testing.assert_close(a.cfdm.descriptor.weight, 0.9 * first + 0.1 * second)
    assert (a.msfl.stage4[0].norm.running_mean == 3).all()


def test_precision_is_chosen():
    cpu = torch.device("cpu")
    assert choose_bf16("bf16", cpu) and not choose_bf16("fp32", cpu)
    assert isinstance(choose_bf16("auto", cpu), bool)
    with pytest.raises(ValueError, match="half"):
        choose_bf16("half", cpu)
