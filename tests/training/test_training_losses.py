"""Truth by brute force, losses by hand, and a network that learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import SMALL, lively_net
from torch import Generator

from kornia_tar.conventions import CELL
from kornia_tar.network.cfdm import dual_softmax
from kornia_tar.network.fine import Offset
from kornia_tar.network.net import TARNet
from kornia_tar.network.points import transform_points
from kornia_tar.network.tafe import TAFEConfig
from kornia_tar.training.augment import Deformation, make_batch
from kornia_tar.training.losses import (
    LossWeights,
    Truth,
    coarse_loss,
    focal,
    ground_truth,
    offset_loss,
    sample_cells,
    step_loss,
    text_loss,
    window_loss,
)

SIZE = 64


@pytest.fixture(scope="module")
def batch(pairs):
    wide = dataclasses.replace(Deformation(), translation=0.5, negative=0.0, graphics=0.0)
    return make_batch(pairs, torch.arange(4), SIZE, wide, Generator().manual_seed(0))


def test_truth_against_brute_force(batch):
    truth = ground_truth(batch)
    columns = SIZE // CELL
    missing = 0
    for target, there, matrix, valid, other in (
        (truth.target0, truth.to1, batch.matrix, batch.valid0, batch.valid1),
        (truth.target1, truth.to0, torch.linalg.inv(batch.matrix), batch.valid1, batch.valid0),
    ):
        for b in range(len(matrix)):
            for cell in range(columns**2):
                centre = torch.tensor([[8.0 * (cell % columns) + 3.5, 8.0 * (cell // columns) + 3.5]])
                x, y = transform_points(matrix[b], centre)[0].tolist()
                assert there[b, cell].tolist() == pytest.approx([x, y], abs=1e-3)
                # Cell k covers the pixels 8k to 8k + 7, each half a pixel wide on either side.
                holds = [j for j in range(columns**2)
                         if -0.5 <= x - 8 * (j % columns) < 7.5 and -0.5 <= y - 8 * (j // columns) < 7.5]  # fmt: skip
                expected = holds[0] if holds and valid[b, cell] and other[b, holds[0]] else -1
                missing += expected < 0
                assert int(target[b, cell]) == expected
    assert 0 < missing < truth.target0.numel() * 2


def test_truth_is_exact_under_autocast(batch):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ground_truth(batch)
    for one, two in zip(mixed, ground_truth(batch), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_focal_by_hand():
    log_p = torch.tensor([0.5, 0.25]).log()
    assert float(focal(log_p, 0.0)) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert float(focal(log_p, 2.0)) == pytest.approx((0.25 * math.log(2) + 0.5625 * math.log(4)) / 2)
    assert float(focal(torch.zeros(0), 1.0)) == 0


def truth_of(target0: list[int], target1: list[int], batch: int = 1) -> Truth:
    targets = [torch.tensor(target).view(batch, -1) for target in (target0, target1)]
    nowhere = torch.zeros(*targets[0].shape, 2)
    return Truth(nowhere, nowhere, *targets)


def test_coarse_loss_falls_with_the_right_scores():
    truth = truth_of([1, 0, -1], [1, 0, -1])
    right = torch.zeros(1, 3, 3)
    right[0, 0, 1] = right[0, 1, 0] = 9
    good = coarse_loss(right, truth, 1.0)
    even = coarse_loss(torch.zeros(1, 3, 3), truth, 1.0)
    bad = coarse_loss(-right, truth, 1.0)
    assert 0 <= good < 0.01 < even < bad
    assert float(even) == pytest.approx(2 / 3 * math.log(3), rel=1e-4)
    nothing = coarse_loss(right, truth_of([-1] * 3, [-1] * 3), 1.0)
    assert float(nothing) == 0


def offset(shift: torch.Tensor, window: torch.Tensor, log_scale: torch.Tensor) -> Offset:
    return Offset(window, shift, log_scale, torch.zeros(len(shift)))


def test_window_loss_wants_the_displacements_around_the_offset():
    positions = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    window = torch.zeros(1, 4)
    window[0, 1] = 10
    found = offset(torch.zeros(1, 2), window, torch.zeros(1))
    assert window_loss(found, torch.tensor([[1.0, -1.4]]), positions) < 0.01  # outside: held to the nearest edge
    assert window_loss(found, torch.tensor([[-0.7, -1.4]]), positions) > 5


def test_the_best_window_for_an_offset_has_it_as_its_mean():
    positions = torch.tensor([[x, y] for y in (-2.0, 0, 2) for x in (-2.0, 0, 2)])
    wanted = torch.tensor([[0.5, -1.2]])
    logits = torch.zeros(1, 9, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(300):
        optimiser.zero_grad()
        window_loss(offset(torch.zeros(1, 2), logits, torch.zeros(1)), wanted, positions).backward()
        optimiser.step()
    torch.testing.assert_close(logits.detach().softmax(1) @ positions, wanted, atol=0.05, rtol=0)
    none = offset(torch.zeros(0, 2), torch.zeros(0, 4), torch.zeros(0))
    assert float(window_loss(none, torch.zeros(0, 2), positions)) == 0


def test_offset_likelihood_is_best_where_the_scale_is_the_error():
    wanted = torch.tensor([[1.0, 1.0]])
    loss = [float(offset_loss(offset(torch.zeros(1, 2), torch.zeros(1, 4), torch.tensor([s])), wanted))
            for s in (-1.0, 0.0, 1.0)]  # fmt: skip
    assert loss[1] == pytest.approx(1.0)
    assert loss[1] < loss[0] and loss[1] < loss[2]
    none = offset(torch.zeros(0, 2), torch.zeros(0, 4), torch.zeros(0))
    assert float(offset_loss(none, torch.zeros(0, 2))) == 0


def land(*rows: list[int]) -> torch.Tensor:
    """Maps (B, 2, 2, 2) that are nearly sure of one of two classes, cell by cell."""
    return torch.nn.functional.one_hot(torch.tensor(rows), 2).float().transpose(1, 2).reshape(-1, 2, 2, 2) * 0.98 + 0.01


def test_text_loss_prefers_maps_that_agree_vary_and_fit_the_name():
    truth = truth_of([0, 1, 2, 3] * 2, [0, 1, 2, 3] * 2, batch=2)
    unknown = torch.tensor([-1, -1])
    good = land([0, 0, 1, 1], [1, 1, 0, 0])
    even = torch.full_like(good, 0.5)
    found = text_loss(good, good, truth, unknown)
    assert found < text_loss(even, even, truth, unknown)  # a map that says nothing agrees with itself perfectly
    assert found < text_loss(good, good.flip(1), truth, unknown)
    same = land([0] * 4, [0] * 4)
    assert found < text_loss(same, same, truth, unknown)  # nor one that says the same everywhere
    named = land([0] * 4, [1] * 4)
    right, wrong = (text_loss(named, named, truth, torch.tensor(names)) for names in ([0, 1], [1, 0]))
    assert right < wrong
    assert float(text_loss(good[:, :0], good[:, :0], truth, unknown)) == 0
    assert float(text_loss(good, good, truth_of([-1] * 8, [-1] * 8, batch=2), unknown)) == 0


def test_text_loss_gives_nothing_for_a_map_of_the_frame():
    truth, unknown = truth_of([0, 1, 2, 3] * 2, [0, 1, 2, 3] * 2, batch=2), torch.tensor([-1, -1])
    frame, image = land([0, 0, 1, 1], [0, 0, 1, 1]), land([0, 0, 1, 1], [1, 1, 0, 0])
    assert float(text_loss(frame, frame, truth, unknown)) == pytest.approx(0, abs=1e-4)
    assert float(text_loss(image, image, truth, unknown)) < -0.5


def test_sampled_cells_are_true_or_own(batch):
    truth = ground_truth(batch)
    cells = truth.target0.shape[1]
    scores = torch.randn(4, cells, cells)
    sampled, is_own = sample_cells(scores, truth, 5, Generator().manual_seed(0))
    assert len(sampled.batch) == len(is_own) <= 4 * 5 * 2
    true = truth.target0[sampled.batch, sampled.cell0] == sampled.cell1
    assert true[~is_own].all() and is_own.any() and (~is_own).any()
    torch.testing.assert_close(
        sampled.log_probability, dual_softmax(scores)[sampled.batch, sampled.cell0, sampled.cell1]
    )


@pytest.mark.parametrize("classes", [0, 4])
def test_every_loss_is_finite_and_every_parameter_gets_a_gradient(batch, classes):
    net = lively_net(dataclasses.replace(SMALL, tafe=TAFEConfig(text_dim=16, classes=classes))).train()
    text = torch.nn.functional.normalize(torch.randn(4, 16), dim=1) if classes else None
    named = batch._replace(scene=torch.tensor([0, -1, 2, -1]))
    loss, log = step_loss(net, named, text, LossWeights(), 8, Generator().manual_seed(0))
    assert loss.isfinite() and all(value.isfinite() for value in log.values())
    assert {"coarse", "window", "offset", "worth", "text", "modality", "accuracy", "identity", "precision"} <= set(log)
    terms = sum(float(log[k]) for k in ("coarse", "window", "offset", "worth", "text", "modality"))
    assert float(loss.detach()) == pytest.approx(terms, rel=1e-4)
    assert 0 <= log["accuracy"] <= 1 and 0 <= log["precision"] <= 1
    loss.backward()
    without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {name for name in without if classes or not name.startswith("tafe.")}
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_pairs_that_do_not_overlap_are_no_error(batch):
    apart = batch._replace(matrix=batch.matrix.clone())
    apart.matrix[:, :2, 2] += 1e4
    net = TARNet(SMALL).train()
    loss, _ = step_loss(net, apart, torch.randn(4, 16), LossWeights(), 8, Generator().manual_seed(0))
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.slow  # eighty steps
def test_a_small_network_learns_a_few_pairs(pairs):
    """80 steps on one batch lift coarse accuracy far above what the identity would give."""
    easy = dataclasses.replace(Deformation().eased(1.0), translation=0.15, same_modality=1.0, pseudo_sar=0.0)
    assert easy.negative == easy.graphics == 0
    batch = make_batch(pairs, torch.arange(4), SIZE, easy, Generator().manual_seed(2))
    torch.manual_seed(0)
    net, generator = TARNet(SMALL).train(), Generator().manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3)
    losses = []
    for _ in range(80):
        loss, log = step_loss(net, batch, text, LossWeights(), 16, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert log["accuracy"] > log["identity"] + 0.4
    assert log["accuracy"] > 0.5


def step(batch, weights: LossWeights) -> tuple[torch.Tensor, dict, TARNet]:
    net = lively_net(dataclasses.replace(SMALL, tafe=TAFEConfig(text_dim=16, classes=0))).train()
    loss, log = step_loss(net, batch, None, weights, 16, Generator().manual_seed(0))
    return loss, log, net


def test_negatives_teach_worth_alone(pairs):
    """A batch of nothing else: no loss but worth's acts, and it wants every match's confidence lower."""
    d = dataclasses.replace(Deformation(), negative=1.0, graphics=0.0)
    batch = make_batch(pairs, torch.arange(4), SIZE, d, Generator().manual_seed(0))
    assert batch.negative.all()
    loss, log, net = step(batch, LossWeights(modality=0.0))
    assert float(log["coarse"]) == float(log["window"]) == float(log["offset"]) == 0 and float(log["worth"]) > 0
    assert float(log["accuracy"]) == float(log["precision"]) == float(log["confidence"]) == 0
    assert 0 < float(log["negative_confidence"]) < 1
    loss.backward()
    assert float(net.cfdm.fine_head.out.bias.grad[3]) > 0  # down the gradient: less confident
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_a_match_on_a_negative_is_wrong_even_where_the_matrix_says_right(batch):
    """Both images the same and the identity between them: right, unless they are told to be of two places."""
    same = batch._replace(
        image1=batch.image0, mask1=batch.mask0, modality1=batch.modality0, matrix=torch.eye(3).expand(4, 3, 3),
        valid0=torch.ones_like(batch.valid0), valid1=torch.ones_like(batch.valid1),
    )  # fmt: skip
    _, right, _ = step(same, LossWeights())
    none = torch.zeros_like(batch.valid0)
    apart = same._replace(valid0=none, valid1=none, negative=torch.ones(4, dtype=torch.bool))
    _, wrong, _ = step(apart, LossWeights())
    assert float(right["precision"]) > 0.5 and float(right["negative_confidence"]) == 0
    assert float(wrong["precision"]) == 0 and float(wrong["negative_confidence"]) > 0


def test_logs_leave_negatives_out(pairs):
    index, d = torch.arange(8) % 4, dataclasses.replace(Deformation().eased(1.0), negative=0.5, same_modality=1.0)
    batch = make_batch(pairs, index, SIZE, d, Generator().manual_seed(0))
    assert batch.negative.sum() == 4
    _, log, _ = step(batch, LossWeights())
    truth = ground_truth(batch)
    found = (torch.arange(truth.target0.shape[1]) == truth.target0)[~batch.negative]
    at = truth.target0[~batch.negative] >= 0
    assert float(log["identity"]) == pytest.approx(float(found[at].float().mean()))
    assert 0 < float(log["negative_confidence"]) < 1 and 0 < float(log["confidence"]) < 1


def test_a_batch_without_a_real_image_is_no_error(batch):
    none = torch.zeros(4, dtype=torch.bool)
    loss, log, _ = step(batch._replace(real0=none, real1=none), LossWeights())
    assert loss.isfinite() and float(log["modality"]) == 0
