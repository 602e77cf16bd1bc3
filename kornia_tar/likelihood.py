"""Dense alignment: the transform that all cells of both images together find most likely.

A match keeps one place per cell and forgets how sure it is and in which direction: a road pins a cell across, not along
itself. Between optical and SAR most cells are like that, and a fit to their best guesses averages wrong guesses. Here
the whole probability map of every cell has a vote. Cell k, centred at x_k, says p_k(y) of the place y in the other
image; a transform T gains

    L(T) = Σ_k log((1 - ε) A p_k(T x_k) + ε)

nats over knowing nothing, summed over the cells of both images (with T⁻¹ for those of image1). ε is the share of cells
that tell nothing, A the area of their maps. The T with the largest L is the answer; L per cell says how far to trust
it.

The paper publishes no estimator; this one is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kornia_tar.geometry.least_squares import FloatArray, TransformModel

KNOW_NOTHING = 0.1  # ε
BLOCKS = 4  # on a side: cells of one block share what they see, so their errors count as one
JUDGED_WIDTHS = (1.5, 2.5)  # of the splines that tell how sharp a top is; the next where the sharper ones have none


class Evidence(NamedTuple):
    """What K cells of one image say about where they lie in the other, in pixels of one frame."""

    points: Tensor  # (K, 2) px, centre of the cell
    corner: Tensor  # (K, 2) px, the place that the map's first entry speaks of
    probability: Tensor  # (K, S, S) over places ``step`` px apart, rows are y
    step: float

    def moved(self, by: Tensor) -> Evidence:
        """The same in a frame where everything lies ``by`` (2,) px further: from a tile to its image."""
        return self._replace(points=self.points + by, corner=self.corner + by)

    def rows(self, index: Tensor) -> Evidence:
        """Some cells, copied to the CPU, where :func:`align` works."""
        points, corner, probability = (t.cpu()[index].float() for t in (self.points, self.corner, self.probability))
        return Evidence(points, corner, probability, self.step)

    @property
    def area(self) -> float:
        """Of a map, px²."""
        return (self.step * self.probability.shape[-1]) ** 2

    def density(self, places: Tensor, width: float = 1.0) -> Tensor:
        """(K,) probability per px² that cell k lies at ``places[k]``, (K, 2) px; 0 outside of its map.

        A cubic spline over the map, so that the tops of sums do not lock to the map's raster; with ``width`` > 1 a
        smoother one, whose tops are seen from further away.
        """
        at = (places - self.corner) / self.step  # (K, 2)
        raster = torch.arange(self.probability.shape[-1], dtype=at.dtype)
        x, y = (cubic((at[:, :, None] - raster) / width) / width).unbind(1)  # (K, S)
        return ((self.probability @ x[:, :, None]).squeeze(2) * y).sum(1) / self.step**2

    def gain(self, places: Tensor, width: float = 1.0) -> Tensor:
        """(K,) nats that the cells' places ``places``, (K, 2) px, gain over knowing nothing: a summand of L each."""
        known = self.density(places, width) * self.area
        return torch.log((1 - KNOW_NOTHING) * known + KNOW_NOTHING)


def cubic(t: Tensor) -> Tensor:
    """The cubic B-spline, a smooth bump of unit integral on [-2, 2]."""
    t = t.abs()
    far, near = (2 - t).clamp_min(0), (1 - t).clamp_min(0)
    return (far * far * far - 4 * near * near * near) / 6  # products, for powers are slow to differentiate


def join(parts: Sequence[Evidence]) -> Evidence:
    """Several tiles' evidence, of equal step, in one."""
    return Evidence(
        torch.cat([part.points for part in parts]), torch.cat([part.corner for part in parts]),
        torch.cat([part.probability for part in parts]), parts[0].step,
    )  # fmt: skip


class Alignment(NamedTuple):
    """Outcome of :func:`align`."""

    matrix: FloatArray  # (3, 3), image0 → image1, in the evidence's frame
    gain: float  # nats per cell over knowing nothing; 0 or less where nothing agrees
    cells: int  # of both images
    std: float  # px, one sigma, mean over the judged points; inf where the cells do not determine the model
    disagreement: float  # px, mean over the judged points, between what either image's cells say alone


def align(
    in1: Evidence, in0: Evidence, model: TransformModel, size: tuple[int, int], *,
    widths: Sequence[float] = (2.5, 1.5, 1.0), judge: FloatArray | None = None,
) -> Alignment:  # fmt: skip
    """Find the T near the identity with the largest L(T), see the module's text.

    Quasi-Newton steps from the identity, on smoothed maps first. The uncertainty is the sandwich estimate with blocks
    of cells as clusters, for neighbours look at the same pixels.

    Args:
        in1: what image0's cells say about their places in image1.
        in0: what image1's cells say about their places in image0.
        model: "similarity", "affine" or "homography".
        size: (H, W) of the common frame, px.
        widths: of the splines over the maps, stage by stage.
        judge: (P, 2) px, points whose error to estimate; without them ``std`` and ``disagreement`` are nan.
    """
    # Needs gradients and full precision, wherever it is called from.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        in1, in0 = in1.rows(torch.arange(len(in1.points))), in0.rows(torch.arange(len(in0.points)))
        frame = _Frame(model, size)
        both, ahead = join((in1, in0)), len(in1.points)
        theta = frame.identity()
        for width in widths:
            theta = _climb(frame, theta, both, ahead, width)
        gains = _gains(frame.matrix(theta), both, ahead)
        std = disagreement = math.nan
        if judge is not None:
            points = torch.from_numpy(judge).float()
            stds = (_std(frame, theta, both, ahead, points, width) for width in JUDGED_WIDTHS)
            std = next((std for std in stds if math.isfinite(std)), math.inf)
            alone = [_climb(frame, theta, in1, ahead), _climb(frame, theta, in0, 0)]
            places = [_transform(frame.matrix(one), points) for one in alone]
            disagreement = float((places[0] - places[1]).norm(dim=1).mean())
        matrix = frame.matrix(theta).double().numpy()
    return Alignment(matrix / matrix[2, 2], float(gains.mean()), len(gains), std, disagreement)


def tie_points(evidence: Evidence, matrix: FloatArray, sigma: float, within: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where each cell lies, given what it says and that ``matrix`` is right to within ``sigma`` px.

    The mean of the posterior: the cell's map times a normal distribution around T x_k.

    Returns:
        places (K, 2) px; one-sigma errors per axis (K,) px; confidences (K,) in [0, 1], the posterior probability that
        the place is right to ``within`` px and the cell no outlier. A cell that tells nothing lies on the transform
        with a confidence of a half: the prior's own.
    """
    T = torch.from_numpy(np.asarray(matrix)).float()
    with torch.autocast("cpu", enabled=False):
        expected = _transform(T, evidence.points)  # (K, 2)
    side = evidence.probability.shape[-1]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = evidence.corner[:, None] + evidence.step * torch.stack([x, y], -1).view(1, -1, 2)  # (K, S², 2)
    near = -0.5 * ((places - expected[:, None]) / sigma).square().sum(-1) - math.log(2 * math.pi * sigma**2)
    both = near + evidence.probability.flatten(1).clamp_min(1e-30).log()  # log of a density per px²
    total, weight = both.logsumexp(1).exp(), both.softmax(1)
    mean = (weight[..., None] * places).sum(1)
    offset = places - mean[:, None]
    std = ((weight * offset.square().sum(-1)).sum(1) / 2 + evidence.step**2 / 12).sqrt()
    close = (weight * (offset.norm(dim=-1) < within)).sum(1)
    known = (1 - KNOW_NOTHING) * total * evidence.area
    return mean, std, close * known / (known + KNOW_NOTHING)


class _Frame:
    """The parameters θ of transforms near the identity of a frame, in units of half its size."""

    def __init__(self, model: TransformModel, size: tuple[int, int]) -> None:
        half, (height, width) = max(size) / 2, size
        self.to_unit = torch.tensor([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, half]]) / half
        self.to_pixel = torch.linalg.inv(self.to_unit)
        entries = torch.eye(9)
        self.basis = entries[:, : 6 if model == "affine" else 8]
        if model == "similarity":
            self.basis = torch.stack([entries[0] + entries[4], entries[3] - entries[1], entries[2], entries[5]], dim=1)

    def identity(self) -> Tensor:
        return torch.zeros(self.basis.shape[1])

    def matrix(self, theta: Tensor) -> Tensor:
        """(3, 3), pixels to pixels."""
        return self.to_pixel @ (torch.eye(3) + (self.basis @ theta).view(3, 3)) @ self.to_unit


def _gains(matrix: Tensor, evidence: Evidence, ahead: int, width: float = 1.0) -> Tensor:
    """All cells' gains; the first ``ahead`` cells are image0's, the others image1's."""
    there = _transform(matrix, evidence.points[:ahead])
    back = _transform(torch.linalg.inv(matrix), evidence.points[ahead:])
    return evidence.gain(torch.cat([there, back]), width)


def _climb(frame: _Frame, start: Tensor, evidence: Evidence, ahead: int, width: float = 1.0) -> Tensor:
    """The θ with the largest mean gain, uphill from ``start``; ``ahead`` as in :func:`_gains`."""
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=30, history_size=8, tolerance_grad=1e-5, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -_gains(frame.matrix(theta), evidence, ahead, width).mean()
        value.backward()
        return value

    optimiser.step(loss)
    found = theta.detach()
    return found if found.isfinite().all() else start


def _std(frame: _Frame, theta: Tensor, evidence: Evidence, ahead: int, points: Tensor, width: float) -> float:
    """Mean one-sigma error of where (P, 2) ``points`` lie, px: covariance H⁻¹ (Σ_b g_b g_bᵀ) H⁻¹ over blocks b.

    Infinite where too few blocks are seen, or L through splines of ``width`` has no top at ``theta``.
    """
    theta = theta.clone().requires_grad_()
    low, high = evidence.points.amin(0), evidence.points.amax(0)
    tile = ((evidence.points - low) / (high - low + 1) * BLOCKS).long()  # (K, 2)
    block = tile[:, 1] * BLOCKS + tile[:, 0]
    gains = _gains(frame.matrix(theta), evidence, ahead, width)
    sums = gains.new_zeros(BLOCKS**2).index_add(0, block, gains)
    seen = [b for b in range(BLOCKS**2) if (block == b).any()]
    if len(seen) <= len(theta):
        return math.inf
    scores = torch.stack([torch.autograd.grad(sums[b], theta, retain_graph=True)[0] for b in seen])  # (b, P)

    total = lambda values: -_gains(frame.matrix(values), evidence, ahead, width).sum()  # noqa: E731
    hessian = torch.autograd.functional.hessian(total, theta.detach()).double()
    if not hessian.isfinite().all():
        return math.inf
    values, vectors = torch.linalg.eigh(hessian)
    if values.min() <= 1e-6 * values.max():
        return math.inf
    inverse = vectors @ torch.diag(1 / values) @ vectors.T
    centred = (scores - scores.mean(0)).double()
    spread = centred.T @ centred * len(seen) / (len(seen) - 1)
    covariance = inverse @ spread @ inverse
    place = lambda values: _transform(frame.matrix(values), points)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(place, theta.detach()).double()  # (points, 2, P)
    return float(torch.einsum("nip,pq,niq->n", jacobian, covariance, jacobian).clamp_min(0).sqrt().mean())


def _transform(matrix: Tensor, points: Tensor) -> Tensor:
    """(K, 2) points through (3, 3); points behind the horizon land far away."""
    mapped = torch.cat([points, torch.ones_like(points[:, :1])], -1) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:].clamp_min(1e-6)
