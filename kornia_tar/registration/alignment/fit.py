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

import torch
from torch import Tensor

from kornia_tar.geometry import FloatArray, TransformModel
from kornia_tar.network.points import transform_points
from kornia_tar.registration.alignment.evidence import DisplacementMaps, join

BLOCKS = 4  # on a side: cells of one block share what they see, so their errors count as one


# Beyond the overlap, a stretch or a perspective that cells barely determine moves corners far. How strong the prior is
# was chosen on val-000: so many nats because neighbours say the same, up to some 100 cells as if they were one.
PRIOR_WEIGHT = 100.0  # nats
STRETCH, PERSPECTIVE = 0.02, 0.06  # half of log-stretch, and change of depth over half the image, which are usual
MANY_CELLS = 8000  # evenly drawn, are enough to come near the top, and to say how sharp it is


CHECK_WIDTHS = (1.5, 2.5)  # of the splines that tell how sharp a top is
FLAT_TOP = 4.0  # times: what the sharper ones may say more than the wider ones; more, and their top is an accident's


class Alignment(NamedTuple):
    """Outcome of :func:`align`."""

    matrix: FloatArray  # (3, 3), image0 → image1, in the evidence's frame
    gains: Tensor  # (K,) nats of each cell of both images over knowing nothing
    std: float  # px, one sigma, mean over the judged points; inf where the cells do not determine the model
    disagreement: float  # px, mean over the judged points, between what either image's cells say alone

    @property
    def log_likelihood_gain(self) -> float:
        """Nats per cell; 0 or less where nothing agrees."""
        return float(self.gains.mean())

    @property
    def cells(self) -> int:
        """How many cells there are, of both images."""
        return len(self.gains)


def align(
    in1: DisplacementMaps, in0: DisplacementMaps, model: TransformModel, size: tuple[int, int], *,
    before: FloatArray | None = None, widths: Sequence[float] = (2.5, 1.5, 1.0),
    check_points: FloatArray | None = None,
) -> Alignment:  # fmt: skip
    """Find the T near the identity with the largest L(T), see the module's text.

    Quasi-Newton steps from the identity, on smoothed maps first, of some of the cells where there are very many. The
    uncertainty is the sandwich estimate with blocks of cells as clusters, for neighbours look at the same pixels.

    Args:
        in1: what image0's cells say about their places in image1.
        in0: what image1's cells say about their places in image0.
        model: "similarity", "affine" or "homography".
        size: (H, W) of the common frame, px.
        before: (3, 3), by which image1 was warped: what the whole transform then is has a prior, see :class:`_Frame`.
            None where nothing is known of it.
        widths: of the splines over the maps, stage by stage.
        check_points: (P, 2) px, points whose error to estimate; without them ``std`` and ``disagreement`` are nan.
    """
    # Needs gradients and full precision, wherever it is called from.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        in1, in0 = in1.rows(torch.arange(len(in1.points))), in0.rows(torch.arange(len(in0.points)))
        both, ahead = join((in1, in0)), len(in1.points)
        frame = _Frame(model, size, before, len(both.points))
        each = -(-len(both.points) // MANY_CELLS)
        some, some_ahead = both.rows(torch.arange(0, len(both.points), max(each, 1))), -(-ahead // max(each, 1))
        theta = frame.identity()
        for width in widths[:-1]:
            theta = _climb(frame, theta, some, some_ahead, width)
        theta = _climb(frame, theta, both, ahead, widths[-1])
        gains = _gains(frame.matrix(theta), both, ahead).detach()
        std = disagreement = math.nan
        if check_points is not None:
            points = torch.from_numpy(check_points).float()
            sharp, wide = (_std(frame, theta, some, some_ahead, points, width) for width in CHECK_WIDTHS)
            std = sharp if sharp <= FLAT_TOP * wide else wide
            alone = [_climb(frame, theta, in1, ahead), _climb(frame, theta, in0, 0)]
            places = [transform_points(frame.matrix(one), points) for one in alone]
            disagreement = float((places[0] - places[1]).norm(dim=1).mean())
        matrix = frame.matrix(theta).double().numpy()
    return Alignment(matrix / matrix[2, 2], gains, std, disagreement)


class _Frame:
    """The parameters θ of transforms near the identity of a frame, in units of half its size, and their prior.

    Overhead images are hardly stretched one axis against the other, and have little perspective; where they are, as
    pixels of degrees, they are by much. So the prior is Cauchy's: near a similarity it pulls, and lets go further away.

    Args:
        model: "similarity", "affine" or "homography".
        size: (H, W) of the frame, px.
        before: (3, 3), what follows on the transform; None for no prior.
        cells: how many vote, whose gains the prior stands against.
    """

    def __init__(
        self, model: TransformModel, size: tuple[int, int], before: FloatArray | None, cells: int
    ) -> None:  # fmt: skip
        half, (height, width) = max(size) / 2, size
        self.to_unit = torch.tensor([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, half]]) / half
        self.to_pixel = torch.linalg.inv(self.to_unit)
        entries = torch.eye(9)
        self.basis = entries[:, : 6 if model == "affine" else 8]
        if model == "similarity":
            self.basis = torch.stack([entries[0] + entries[4], entries[3] - entries[1], entries[2], entries[5]], dim=1)

        self._weight = PRIOR_WEIGHT / max(cells, 1)
        self._whole = None if before is None else torch.from_numpy(before).float() @ self.to_pixel

    def doubt(self, theta: Tensor) -> Tensor:
        """Nats per cell that the prior takes from the whole transform for what it is beside a similarity."""
        if self._whole is None:
            return theta.new_zeros(())
        whole = self._whole @ (torch.eye(3) + (self.basis @ theta).view(3, 3))
        whole = whole / whole[2, 2]
        (a, b), (c, d) = (whole[:2, :2] - whole[:2, 2:] * whole[2:, :2]).unbind(0)  # at the middle
        stretch = ((a - d) ** 2 + (b + c) ** 2) / ((a + d) ** 2 + (c - b) ** 2).clamp_min(1e-12)  # a mirror has none
        perspective = (whole[2, :2] ** 2).sum()
        return self._weight * ((stretch / STRETCH**2).log1p() + (perspective / PERSPECTIVE**2).log1p())

    def identity(self) -> Tensor:
        return torch.zeros(self.basis.shape[1])

    def matrix(self, theta: Tensor) -> Tensor:
        """(3, 3), pixels to pixels."""
        return self.to_pixel @ (torch.eye(3) + (self.basis @ theta).view(3, 3)) @ self.to_unit


def _gains(matrix: Tensor, evidence: DisplacementMaps, ahead: int, width: float = 1.0) -> Tensor:
    """All cells' gains; the first ``ahead`` cells are image0's, the others image1's."""
    there = transform_points(matrix, evidence.points[:ahead])
    back = transform_points(torch.linalg.inv(matrix), evidence.points[ahead:])
    return evidence.log_likelihood_gain(torch.cat([there, back]), width)


def _climb(frame: _Frame, start: Tensor, evidence: DisplacementMaps, ahead: int, width: float = 1.0) -> Tensor:
    """The θ with the largest mean gain, uphill from ``start``; ``ahead`` as in :func:`_gains`."""
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=30, history_size=8, tolerance_grad=1e-5, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -_gains(frame.matrix(theta), evidence, ahead, width).mean() + frame.doubt(theta)
        value.backward()
        return value

    optimiser.step(loss)
    found = theta.detach()
    return found if found.isfinite().all() else start


def _std(frame: _Frame, theta: Tensor, evidence: DisplacementMaps, ahead: int, points: Tensor, width: float) -> float:
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

    def total(values: Tensor) -> Tensor:
        return len(gains) * frame.doubt(values) - _gains(frame.matrix(values), evidence, ahead, width).sum()

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
    place = lambda values: transform_points(frame.matrix(values), points)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(place, theta.detach()).double()  # (points, 2, P)
    return float(torch.einsum("nip,pq,niq->n", jacobian, covariance, jacobian).clamp_min(0).sqrt().mean())
