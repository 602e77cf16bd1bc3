"""Loss of the second look: fields as they will be met, then a likelihood on every cell's displacement.

Half of a batch is warped by the field that the network's own first matches give, the other half by the true map and a
smooth random error, so that the head also learns what later looks and better first looks bring. Some pairs show nothing
in common (two places, noise): all their cells are wrong, which is what confidence must learn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kornia_tar.conventions import CELL
from kornia_tar.network.cfdm import cell_centres
from kornia_tar.network.field import Field, ridge_solve
from kornia_tar.network.net import Frame, ImageFeatures, TARNet, join_looks
from kornia_tar.network.points import transform_affine, transform_points
from kornia_tar.network.second_look import DisplacementPosterior, match_cells
from kornia_tar.training.augment import Batch, grid_points, uniform
from kornia_tar.training.losses import LossWeights, encode_batch, first_look_loss, ground_truth

REACH = 9.0  # px, displacements that the maps can tell
RIGHT = 3.0  # px
COMMON = 0.15  # weight of the error that all cells share
TERMS = ("window", "offset", "common", "worth")
DISCOUNT = 0.9  # of each look before the last, as in CRFT


class Cells(NamedTuple):
    """Truth of one image's cells."""

    there: Tensor  # (B, N, 2) px in the other image
    covisible: Tensor  # (B, N) bool


def true_field(matrix: Tensor, size: int, spacing: int, generator: Generator, scale: float = 1.0) -> Field:
    """Build the field of homographies (B, 3, 3) on S×S frames, after a smooth random error.

    The error is an affine map that moves the corners by some 3 px and bends of some 1 px, times ``scale`` and a factor
    between 0 and 2 that each pair draws.
    """
    B, device = len(matrix), matrix.device
    count = -(-size // spacing)
    nodes = grid_points(count, count, spacing, (spacing - 1) / 2, device).expand(B, -1, -1)
    normal = lambda *s: torch.randn(B, *s, generator=generator, device=device)  # noqa: E731
    unit = torch.cat([(nodes - (size - 1) / 2) / (size / 2), torch.ones_like(nodes[..., :1])], -1)
    bends = F.interpolate(normal(2, 3, 3), (count, count), mode="bicubic", align_corners=True)
    error = unit @ (2.0 * normal(3, 2)) + bends.flatten(2).transpose(1, 2)
    strength = scale * uniform((B, 1, 1), 0.0, 2.0, generator, device)
    targets = transform_points(matrix, nodes + strength * error)  # (B, R·C, 2)
    ones = torch.ones_like(unit[..., 0])
    solution = ridge_solve(unit, targets, ones, 1e-4 * torch.ones_like(unit[0, 0]))  # (B, 3, 2)
    half, middle = size / 2, (size - 1) / 2
    linear = solution[:, :2].transpose(1, 2) / half
    affine = torch.cat([linear, solution[:, 2:].transpose(1, 2) - linear.sum(2, keepdim=True) * middle], 2)
    residual = (targets - transform_affine(affine, nodes)).transpose(1, 2).reshape(B, 2, count, count)
    trust = uniform((B, 1, 1, 1), 5.0, 60.0, generator, device).expand(B, 1, count, count)
    return Field(affine, residual, trust, spacing)


def join_fields(first: Field, second: Field) -> Field:
    """Put two parts of a batch together."""
    matrix, residual, trust = (torch.cat(both) for both in zip(first[:3], second[:3], strict=True))
    return Field(matrix, residual, trust, first.spacing)


def invert(field: Field, there: Tensor, start: Tensor) -> Tensor:
    """Find the points (B, N, 2) that a field maps to ``there``, by Newton steps with its affine part."""
    inverse = torch.linalg.inv(field.matrix[:, :, :2])
    points = start
    for _ in range(6):
        left = there - field(points)
        points = points + (left[:, :, None] * inverse[:, None]).sum(-1)
    return points


def look_loss(
    found: DisplacementPosterior, field: Field, cells: Cells, positions: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Compute cross-entropy, Laplace likelihood, common error and worth of one frame.

    Beside the terms, what to print: as in :func:`kornia_tar.training.losses.step_loss`.
    """
    B, _, rows, columns = found.logits.shape
    centres = cell_centres(torch.arange(rows * columns, device=positions.device), columns).expand(B, -1, -1)
    valid = found.valid.flatten(1)
    with torch.no_grad():
        wanted = invert(field, cells.there, centres) - centres  # (B, N, 2)
        near = cells.covisible & valid & (wanted.abs().amax(-1) < REACH)
    shift = found.shift.flatten(2).transpose(1, 2)
    with torch.no_grad():
        error = (field(centres + shift) - cells.there).norm(dim=-1)
        right = cells.covisible & (error < RIGHT)
        before = (field(centres) - cells.there).norm(dim=-1) < RIGHT
    count = near.sum().clamp_min(1)
    logits, goal = found.logits.flatten(2).transpose(1, 2)[near], wanted[near]
    goal = torch.minimum(torch.maximum(goal, positions[0]), positions[-1])
    target = (1 - (positions - goal[:, None]).abs() / 2).clamp_min(0).prod(-1)
    log_scale = found.log_scale.flatten(1)[near]
    laplace = ((shift - wanted)[near].abs().mean(-1) * torch.exp(-log_scale) + log_scale).sum() / count
    with torch.autocast(shift.device.type, enabled=False):
        common = common_error(torch.where(near[..., None], shift - wanted, 0.0), near, rows, columns)
    seen = cells.covisible & valid
    mean = lambda values: values[seen].float().sum() / seen.sum().clamp_min(1)  # noqa: E731
    return {
        "window": weights.window * -(target * logits.log_softmax(1)).sum() / count,
        "offset": weights.offset * laplace,
        "common": COMMON * common,
        "worth": weights.worth
        * F.binary_cross_entropy_with_logits(found.match_logit.flatten(1)[valid], right[valid].float(), reduction="sum")
        / valid.sum().clamp_min(1),
        "precision": mean(right),
        "accuracy": mean(right),
        "identity": mean(before),
    }


def common_error(error: Tensor, near: Tensor, rows: int, columns: int) -> Tensor:
    """Return the mean length, px, at the frame's corners of the affine map that fits the cells' errors best.

    Each cell does best for itself by staying near "not moved" where it is in doubt, and all of them together then stay
    behind by the same vector. This asks for what a fit to all matches is asked for.

    Args:
        error: (B, N, 2) px, found less true.
        near: (B, N) bool, cells that count; pairs with fewer than 16 do not.
        rows: of the cells.
        columns: of the cells.
    """
    corner = error.new_tensor([[-1, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    centres = cell_centres(torch.arange(rows * columns, device=error.device), columns)
    extent = CELL * error.new_tensor([columns, rows]) / 2
    unit = torch.cat([(centres + 0.5) / extent - 1, torch.ones_like(centres[:, :1])], 1).expand(len(error), -1, -1)
    shared = corner @ ridge_solve(unit, error, near.float(), error.new_tensor([4.0, 4.0, 1.0]))  # (B, 4, 2)
    length = (shared.square().sum(-1) + 1e-4).sqrt().mean(1)
    enough = (near.sum(1) >= 16).float()
    return (length * enough).sum() / enough.sum().clamp_min(1)


def second_look_loss(
    net: TARNet,
    batch: Batch,
    text: Tensor | None,
    weights: LossWeights,
    per_pair: int,
    generator: Generator,
    looks: int = 2,
    both: ImageFeatures | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass and loss of the looks after the first; called as :func:`kornia_tar.training.losses.step_loss` is.

    Args:
        net: with a second look.
        batch: drawn pairs.
        text: text features, or None for the stored tokens.
        weights: of the terms.
        per_pair: unused; all cells speak.
        generator: of everything random.
        looks: how many; each look after the second refits the field to the one before it.
        both: the pairs' images, where they are encoded already.

    Returns:
        the loss, and detached scalars: its terms, the share of covisible cells within 3 px ("accuracy", "precision")
        and that of the field alone ("identity").
    """
    assert net.second_look is not None
    config = net.second_look.config
    truth = ground_truth(batch)
    B, size = len(batch.image0), batch.image0.shape[-1]
    if both is None:
        frozen = not any(p.requires_grad for p in net.msfl.parameters())
        with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
            both = encode_batch(net, batch, text)
    a = Frame(batch.image0, batch.modality0, batch.mask0, both.rows(slice(0, B)))
    b = Frame(batch.image1, batch.modality1, batch.mask1, both.rows(slice(B, None)))
    ahead, back = _draw_fields(net, batch, a, b, size, config.spacing, generator)
    cells = [Cells(truth.to1, truth.target0 >= 0), Cells(truth.to0, truth.target1 >= 0)]  # none of negatives
    total, log = batch.image0.new_zeros(()), dict[str, Tensor]()
    for k in range(looks - 1):
        in0, in1 = net.see(a, b, ahead, text), net.see(b, a, back, text)
        positions = net.second_look.positions
        one, two = (look_loss(*side, positions, weights) for side in ((in0, ahead, cells[0]), (in1, back, cells[1])))
        terms = {name: (one[name] + two[name]) / 2 for name in one}
        total = total + DISCOUNT ** (looks - 2 - k) * sum(terms[name] for name in TERMS)
        log = {name: value.detach() for name, value in terms.items()}
        if k < looks - 2:
            with torch.no_grad():
                matches = join_looks(match_cells(in0, ahead), match_cells(in1, back))
                ahead, back = net.fit_fields(a, b, matches)
    return total, log


def joint_loss(
    net: TARNet, batch: Batch, text: Tensor | None, weights: LossWeights, per_pair: int, generator: Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the first look plus that of the second, for training all of a network; the images are encoded once."""
    both = encode_batch(net, batch, text)
    first, log = first_look_loss(net, batch, both, weights, per_pair, generator)
    second, more = second_look_loss(net, batch, text, weights, per_pair, generator, both=both)
    return first + second, log | {f"second_{name}": value for name, value in more.items()}


@torch.no_grad()
def _draw_fields(
    net: TARNet, batch: Batch, a: Frame, b: Frame, size: int, spacing: int, generator: Generator
) -> tuple[Field, Field]:
    """Fit the first half of a batch by its own first look; draw the second half's fields around the truth."""
    half = (len(batch.image0) + 1) // 2
    a, b = _first_rows(a, half), _first_rows(b, half)
    own = net.fit_fields(a, b, net.match(a.features, b.features))
    rest = batch.matrix[half:]
    with torch.autocast(rest.device.type, enabled=False):
        ahead = true_field(rest, size, spacing, generator)
        back = true_field(torch.linalg.inv(rest), size, spacing, generator)
    return join_fields(own[0], ahead), join_fields(own[1], back)


def _first_rows(frame: Frame, count: int) -> Frame:
    part = slice(0, count)
    assert frame.modality is not None and frame.mask is not None
    return Frame(frame.image[part], frame.modality[part], frame.mask[part], frame.features.rows(part))
