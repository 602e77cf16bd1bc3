"""LoFTR's architecture on our data: truth in its frame, a run that learns and goes on, and the row that it gives."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
import torch
from toys import texture

from eval import peers
from eval.cli import main
from eval.peers.learned.loftr import build
from eval.studies.loftr import training as loftr_training
from eval.studies.loftr.training import OWN, step_loss, train, truth_on_cells
from kornia_tar.training.augment import Deformation, make_batch
from kornia_tar.training.data import Pairs
from kornia_tar.training.loop import TrainConfig


@pytest.fixture(scope="module")
def pairs():
    """Two pairs whose SAR image is the optical one."""
    sar = torch.from_numpy(np.stack([texture(seed) for seed in (0, 1)]))[:, None]
    return Pairs(
        sar.expand(-1, 3, -1, -1).contiguous(), sar, ("a", "b"), torch.ones(2), torch.full((2,), -1),
        torch.ones(2, dtype=torch.bool),
    )  # fmt: skip


def batch_with(pairs, matrix):
    batch = make_batch(pairs, torch.arange(2), 128, Deformation(), torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(batch.valid0)
    return batch._replace(matrix=matrix.expand(2, 3, 3), valid0=everywhere, valid1=everywhere)


def test_a_cell_stands_on_its_first_pixel(pairs):
    # Twice the size around pixel 0 takes pixel 8k, where cell k stands, to pixel 16k: cell 2k, no rest.
    matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    truth = truth_on_cells(batch_with(pairs, matrix))
    cell = torch.arange(16 * 16)
    x, y = cell % 16, cell // 16
    inside = (x < 8) & (y < 8)
    assert torch.equal(truth.target0[0], torch.where(inside, 2 * y * 16 + 2 * x, -1))
    assert torch.allclose(truth.to1[0], torch.stack([16 * x, 16 * y], -1) + 3.5, atol=1e-3)


def test_the_backbone_sees_cell_x_y_around_pixel_8x_8y():
    torch.manual_seed(0)
    backbone = build().eval().backbone
    image = torch.rand(1, 1, 128, 128, requires_grad=True)
    backbone(image)[0][0, :, 7, 9].square().sum().backward()
    weight = image.grad[0, 0].square()
    place = torch.arange(128.0)
    centre = torch.stack([(weight.sum(0) * place).sum(), (weight.sum(1) * place).sum()]) / weight.sum()
    assert (centre - torch.tensor([72.0, 56.0])).abs().max() < 1.5  # the middle of the cell's pixels is 3.5 px away


@pytest.mark.slow  # trains kornia's LoFTR
def test_a_run_is_read_by_the_matcher_and_goes_on(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(loftr_training, "LOG_EVERY", 1)
    options = OWN | {"batch": 2}
    path = train(pairs, tmp_path, TrainConfig(minutes=1e-4, seed=1, **options), data=("toy-000.tar",))
    matcher = peers.create("eval.studies.loftr.matcher:create", tmp_path)
    assert re.fullmatch(r"LoFTR architecture, our data, \d+ minutes", matcher.name)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 1
    minutes = state["seconds"] / 60 + 1e-4
    train(pairs, tmp_path, TrainConfig(minutes=minutes, seed=1, **options), resume=True)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2] and all(line["fine_px"] >= 0 for line in log)
    assert peers.create("eval.studies.loftr.matcher:create", tmp_path).settings != matcher.settings
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(peers.MatcherUnavailable, match="cannot be read"):
        peers.create("eval.studies.loftr.matcher:create", tmp_path)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss(pairs):
    torch.manual_seed(0)
    net = build().train()
    batch = make_batch(pairs, torch.arange(2), 128, Deformation().eased(1.0), torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(net.parameters(), lr=OWN["learning_rate"])
    losses = []
    for _ in range(6):
        loss, log = step_loss(net, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(log["coarse"]))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_without_weights_the_reason_says_how_to_train_them(tmp_path):
    with pytest.raises(peers.MatcherUnavailable, match="python -m eval study loftr"):
        peers.create("eval.studies.loftr.matcher:create", tmp_path)


def test_an_interrupted_command_says_how_to_go_on(tar, tmp_path, monkeypatch, capsys):
    tar.rename(tmp_path / "train-000.tar")
    monkeypatch.setattr(loftr_training, "step_loss", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["study", "loftr", "--data", str(tmp_path), "--minutes", "1", "-o", str(tmp_path / "run")]) == 130
    assert "--resume goes on" in capsys.readouterr().err
