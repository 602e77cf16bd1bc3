"""Losses: focal dual-softmax (coarse), cross-entropy and Laplace likelihood (fine), match worth, text agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.conventions import CELL
from kornia_tar.network.cfdm import Cells, cell_centres, dual_softmax, mutual_nearest
from kornia_tar.network.fine import Offset
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import ImageFeatures, TARNet, assemble
from kornia_tar.network.points import transform_points
from kornia_tar.training.augment import Batch


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts, and the focal exponent."""

    coarse: float = 1.0
    window: float = 0.5
    offset: float = 0.5
    worth: float = 0.5
    text: float = 0.1
    modality: float = 0.2
    gamma: float = 1.0


class Truth(NamedTuple):
    """Where the cells of each image lie in the other; N cells each, S×S crops."""

    to1: Tensor  # (B, N, 2) px, T(c_i)
    to0: Tensor  # (B, N, 2) px, T⁻¹(c_j)
    target0: Tensor  # (B, N) cell of image1 that holds T(c_i), or -1
    target1: Tensor  # (B, N) cell of image0 that holds T⁻¹(c_j), or -1


def ground_truth(batch: Batch) -> Truth:
    """Truth of every coarse cell from the batch's matrices."""
    size = batch.image0.shape[-1]
    columns = size // CELL
    centres = cell_centres(torch.arange(columns**2, device=batch.matrix.device), columns)
    centres = centres.expand(len(batch.matrix), -1, -1)
    sides = []
    for matrix, own, other in (
        (batch.matrix, batch.valid0, batch.valid1),
        (torch.linalg.inv(batch.matrix), batch.valid1, batch.valid0),
    ):
        there = transform_points(matrix, centres)
        cell = ((there + 0.5) / CELL).floor().long()
        inside = ((cell >= 0) & (cell < columns)).all(-1) & own
        index = (cell[..., 1] * columns + cell[..., 0]).clamp(0, columns**2 - 1)
        sides.append((there, torch.where(inside & other.gather(1, index), index, -1)))
    return Truth(sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def focal(log_p: Tensor, gamma: float) -> Tensor:
    """Mean of ``-(1 - p)^γ log p`` (arXiv 1708.02002); 0 for no sample."""
    return (-((1 - log_p.exp()).clamp_min(0) ** gamma) * log_p).sum() / max(len(log_p), 1)


def coarse_loss(scores: Tensor, truth: Truth, gamma: float) -> Tensor:
    """Average focal cross-entropy of covisible cells' partners by scores (B, N, M): image0's rows, image1's columns."""
    rows = scores.log_softmax(2)
    columns = scores.log_softmax(1)
    b0, i0 = (truth.target0 >= 0).nonzero(as_tuple=True)
    b1, j1 = (truth.target1 >= 0).nonzero(as_tuple=True)
    forward = focal(rows[b0, i0, truth.target0[b0, i0]], gamma)
    backward = focal(columns[b1, truth.target1[b1, j1], j1], gamma)
    return (forward + backward) / 2


def sample_cells(scores: Tensor, truth: Truth, per_pair: int, generator: Generator) -> tuple[Cells, Tensor]:
    """Cells to refine, true ones and those that the network itself would match, and (K,) bool: which are its own."""
    log_p = dual_softmax(scores.detach())
    own = mutual_nearest(log_p, 0.0)
    b, i = (truth.target0 >= 0).nonzero(as_tuple=True)
    j = truth.target0[b, i]
    count = len(log_p) * per_pair
    pick = torch.randperm(len(b), generator=generator, device=b.device)[:count]
    pick_own = torch.randperm(len(own.batch), generator=generator, device=b.device)[:count]
    batch = torch.cat([b[pick], own.batch[pick_own]])
    cell0 = torch.cat([i[pick], own.cell0[pick_own]])
    cell1 = torch.cat([j[pick], own.cell1[pick_own]])
    is_own = torch.arange(len(batch), device=batch.device) >= len(pick)
    return Cells(batch, cell0, cell1, log_p[batch, cell0, cell1]), is_own


def window_loss(found: Offset, wanted: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy of the displacements around the true offset; ``wanted`` (K, 2) px lies in the window.

    The target is shared among the four displacements around the offset as in bilinear interpolation, so that its mean
    *is* the offset: the nearest one alone would teach peaks to lean towards the raster.
    """
    if not len(wanted):
        return found.window.sum() * 0
    wanted = torch.minimum(torch.maximum(wanted, positions[0]), positions[-1])
    target = (1 - (positions - wanted[:, None]).abs() / 2).clamp_min(0).prod(-1)
    return F.cross_entropy(found.window, target)


def offset_loss(found: Offset, wanted: Tensor) -> Tensor:
    """Laplace negative log-likelihood of the offset, per axis, nats: ``|e - e*| / b + log b``."""
    if not len(wanted):
        return found.shift.sum() * 0
    error = (found.shift - wanted).abs().mean(-1)
    return (error * torch.exp(-found.log_scale) + found.log_scale).mean()


def text_loss(map0: Tensor, map1: Tensor, truth: Truth, scene: Tensor) -> Tensor:
    """What the land-cover maps must be: the same in both images, sharp, about the image, and true to the scene's name.

    - Agreement: KL of the two maps under the true warp to their middle (Jensen–Shannon). Between the two themselves it
      has no bound, and the surest way to keep it small is a map that says nothing.
    - Information: how much the map says of the *image*, given where in the frame a cell lies: the entropy of the
      batch's mean map at that place, less the maps' own. Over all places at once, a map of the frame would do: it is
      sharp, varied and nearly agrees with itself, and a matcher likes to know where in the frame a cell lies.
    - Naming: where the data name the scene, its name has a larger share of the image than the batch's other names.

    Args:
        map0: (B, K, h, w) probabilities in image0.
        map1: (B, K, h, w) in image1.
        truth: of the same cells.
        scene: (B,) index of the scene's name among the K, or -1 where the data do not say.
    """
    b, i = (truth.target0 >= 0).nonzero(as_tuple=True)
    if map0.shape[1] == 0 or not len(b):
        return map0.sum() * 0
    m0, m1 = (m.float().flatten(2).clamp_min(1e-6) for m in (map0, map1))  # (B, K, N)
    p, q = m0.transpose(1, 2)[b, i], m1.transpose(1, 2)[b, truth.target0[b, i]]  # (n, K)
    middle = ((p + q) / 2).log()
    agreement = (p * (p.log() - middle) + q * (q.log() - middle)).sum(-1).mean()

    maps = torch.cat([m0, m1])  # (2B, K, N)
    shown = torch.cat([truth.target0, truth.target1])[:, None] >= 0  # (2B, 1, N)
    count = shown.sum(0, keepdim=True)  # (1, 1, N)
    mean = ((maps * shown).sum(0, keepdim=True) / count.clamp_min(1)).clamp_min(1e-6)
    information = (shown * (maps * (maps.log() - mean.log()))).sum() / count.sum()

    naming = p.new_zeros(())
    named = (scene >= 0).nonzero().flatten()
    names, which = scene[named].unique(return_inverse=True)
    if len(names) > 1:
        for m, there in zip((m0, m1), shown.chunk(2), strict=True):
            share = (m * there).sum(2)[named][:, names].clamp_min(1e-6)  # (n, names)
            naming = naming + F.nll_loss((share / share.sum(1, keepdim=True)).log(), which) / 2
    return agreement - information + naming


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the values that are chosen; 0 where none is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


def encode_batch(net: TARNet, batch: Batch, text: Tensor | None) -> ImageFeatures:
    """Encode both images of all pairs, image0's first, in one pass: BatchNorm then always sees both modalities."""
    image, mask = torch.cat([batch.image0, batch.image1]), torch.cat([batch.mask0, batch.mask1])
    return net.encode(image, torch.cat([batch.modality0, batch.modality1]), mask, text)


def step_loss(
    net: TARNet, batch: Batch, text: Tensor | None, weights: LossWeights, per_pair: int, generator: Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass and total loss of one batch; see :func:`first_look_loss` for what it returns."""
    return first_look_loss(net, batch, encode_batch(net, batch, text), weights, per_pair, generator)


def first_look_loss(
    net: TARNet, batch: Batch, both: ImageFeatures, weights: LossWeights, per_pair: int, generator: Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the total loss of one look at a batch.

    Args:
        net: the network.
        batch: drawn pairs.
        both: the pairs' images as :func:`encode_batch` encodes them.
        weights: of the terms.
        per_pair: true matches, and own ones, to refine of each pair.
        generator: of the matches that are drawn.

    Returns:
        the loss, and detached scalars to print: each term; coarse accuracy and the identity prior's, of cells that have
        a partner; of the network's own matches on pairs that have a truth, precision at 3 px and mean confidence; and
        the mean confidence of those on negatives. What a batch has none of is 0.
    """
    B = len(batch.image0)
    a, b = both.rows(slice(0, B)), both.rows(slice(B, None))
    coarse = net.compare(a, b)
    scores, truth = coarse.scores(), ground_truth(batch)
    cells, is_own = sample_cells(scores, truth, per_pair, generator)
    in0, in1 = net.cfdm.refine(cells, coarse, a.fine, b.fine)

    columns = a.coarse.shape[-1]
    e1 = truth.to1[cells.batch, cells.cell0] - cell_centres(cells.cell1, columns)
    e0 = truth.to0[cells.batch, cells.cell1] - cell_centres(cells.cell0, columns)
    reach = net.config.cfdm.window - 1.0
    covisible = truth.target0[cells.batch, cells.cell0] >= 0
    near = covisible & (e0.abs().amax(-1) < reach) & (e1.abs().amax(-1) < reach)
    positions = net.cfdm.fine_head.positions
    near0, near1 = (Offset(*(t[near] for t in found)) for found in (in0, in1))

    with torch.no_grad():
        matches = assemble(cells, in0, in1, columns, columns)
        true = transform_points(batch.matrix[cells.batch], matches.points0[:, None])[:, 0]
        error = (true - matches.points1).norm(dim=-1)
        right = ((error < 3) & covisible).float()
    # Of a negative no cell is covisible, so the network's own matches of it are wrong, whatever the matrix says.
    on_negative = batch.negative[cells.batch] & is_own
    usual = is_own & ~on_negative
    keep = batch.real0, batch.real1
    told = torch.cat([batch.modality0[batch.real0], batch.modality1[batch.real1]])
    image = standardise(torch.cat([batch.image0, batch.image1]), torch.cat([batch.mask0, batch.mask1]))
    guess = net.msfl.modality(image[torch.cat(keep)])
    terms = {
        "coarse": weights.coarse * coarse_loss(scores, truth, weights.gamma),
        "window": weights.window
        * (window_loss(near0, e0[near], positions) + window_loss(near1, e1[near], positions)) / 2,
        "offset": weights.offset * (offset_loss(near0, e0[near]) + offset_loss(near1, e1[near])) / 2,
        # Worth is learned on the network's own matches alone: true ones it would not find would make it too hopeful.
        "worth": weights.worth
        * (F.binary_cross_entropy_with_logits(((in0.logit + in1.logit) / 2)[is_own], right[is_own], reduction="sum"))
        / is_own.sum().clamp_min(1),
        "text": weights.text * text_loss(a.landcover, b.landcover, truth, batch.scene),
        "modality": weights.modality
        * (F.cross_entropy(guess.float(), told, reduction="sum") / max(len(told), 1)),
    }  # fmt: skip
    with torch.no_grad():
        at0 = truth.target0 >= 0
        best = scores.argmax(2)
        own = torch.arange(best.shape[1], device=best.device)
        log = {k: v.detach() for k, v in terms.items()}
        log["accuracy"] = mean_where((best == truth.target0).float(), at0)
        log["identity"] = mean_where((own == truth.target0).float(), at0)
        log["precision"] = mean_where(right, usual)
        log["confidence"] = mean_where(matches.confidence, usual)
        log["negative_confidence"] = mean_where(matches.confidence, on_negative)
    return sum(terms.values()), log  # type: ignore[return-value]
