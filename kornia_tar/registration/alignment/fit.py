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
from numpy.typing import NDArray
from torch import Tensor

from kornia_tar.geometry import FloatArray, TransformModel
from kornia_tar.registration.alignment.evidence import DisplacementMaps, join
from kornia_tar.registration.alignment.likelihood import Frame, Likelihood

BLOCKS = 4  # on a side: cells of one block share what they see, so their errors count as one
MANY_CELLS = 8000  # evenly drawn, are enough to come near the top, and to say how sharp it is
CHECK_WIDTHS = (1.5, 2.5)  # of the splines that tell how sharp a top is
STEPS, RETRIES, SHORTER = 30, 5, 4.0  # uphill, and so many times shorter ones in place of one that does not lead up
DAMPING = 1e-4  # of the mean curvature: a direction that cells say nothing of is no reason to leave
LONGEST = 4.0  # px that a step may move the frame's edge: further than the maps see, a step is a guess
ENOUGH = 1e-6  # nats per cell: what a last step gains
RIPPLE = 0.01  # nats per cell, either way: what maps that say nothing gain on their own raster through those splines
FLAT_TOP = 4.0  # times: what the sharper ones may say more than the wider ones; more, and their top is an accident's


class Alignment(NamedTuple):
    """Outcome of :func:`align`."""

    matrix: FloatArray  # (3, 3), image0 → image1, in the evidence's frame
    gains: Tensor  # (K,) nats of each cell of both images over knowing nothing
    std: float  # px, one sigma, mean over the judged points; inf where the cells do not determine the model
    disagreement: float  # px, mean over the judged points, between what either image's cells say alone

    @property
    def log_likelihood_gain(self) -> float:
        """Nats per cell; 0 where nothing agrees. Negative at the truth, too, where cells are too sure."""
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

    Newton steps from the identity, on smoothed maps first, of some of the cells where there are very many. The
    uncertainty is the sandwich estimate with blocks of cells as clusters, for neighbours look at the same pixels.

    Args:
        in1: what image0's cells say about their places in image1.
        in0: what image1's cells say about their places in image0.
        model: "similarity", "affine" or "homography".
        size: (H, W) of the common frame, px.
        before: (3, 3), by which image1 was warped: what the whole transform then is has a prior, see :class:`Frame`.
            None where nothing is known of it.
        widths: of the splines over the maps, stage by stage.
        check_points: (P, 2) px, points whose error to estimate; without them ``std`` and ``disagreement`` are nan.
    """
    in1, in0 = in1.rows(torch.arange(len(in1.points))), in0.rows(torch.arange(len(in0.points)))
    both, ahead = join((in1, in0)), len(in1.points)
    frame = Frame(model, size, before, len(both.points))
    each = max(-(-len(both.points) // MANY_CELLS), 1)
    some, some_ahead = both.rows(torch.arange(0, len(both.points), each)), -(-ahead // each)
    with torch.autocast("cpu", enabled=False):
        theta = frame.identity
        for width in widths[:-1]:
            theta = _climb(frame, theta, Likelihood(frame, some, some_ahead, width))
        theta = _climb(frame, theta, Likelihood(frame, both, ahead, widths[-1]))
        gains = Likelihood(frame, both, ahead).gains(theta)
        std = disagreement = math.nan
        if check_points is not None:
            block = _blocks(some.points.numpy()) if len(some.points) else np.zeros(0, np.int64)
            sharp, wide = (
                _std(Likelihood(frame, some, some_ahead, width), theta, block, check_points) for width in CHECK_WIDTHS
            )
            std = sharp if sharp <= FLAT_TOP * wide else wide
            alone = [_climb(frame, theta, Likelihood(frame, one, count)) for one, count in ((in1, ahead), (in0, 0))]
            places = [frame.places(one, check_points) for one in alone]
            disagreement = float(np.linalg.norm(places[0] - places[1], axis=1).mean())
    matrix = frame.matrix(theta)
    return Alignment(matrix / matrix[2, 2], torch.from_numpy(gains).float(), std, disagreement)


def _climb(frame: Frame, start: FloatArray, likelihood: Likelihood) -> FloatArray:
    """Return the θ of the largest likelihood uphill from ``start``.

    Newton's steps, uphill also where the ground curves the other way, and shorter ones in place of one that leads down.
    """
    if not len(likelihood):
        return start
    found, height = start, likelihood(start)
    for _ in range(STEPS):
        _, slope, curve = likelihood.derivatives(found)
        if not np.isfinite(curve).all():
            break
        values, vectors = np.linalg.eigh(curve)
        values = np.abs(values)
        step = vectors @ ((slope @ vectors) / (values + DAMPING * values.mean() + 1e-12))
        step *= min(1.0, LONGEST / frame.half / max(float(np.linalg.norm(step)), 1e-12))
        for _ in range(RETRIES):
            after = likelihood(found + step)
            if after > height:
                break
            step /= SHORTER
        else:
            break
        gained, found, height = after - height, found + step, after
        if gained < ENOUGH:
            break
    return found


def _blocks(points: FloatArray) -> NDArray[np.int64]:
    """(K,) the block of ``BLOCKS`` by ``BLOCKS`` over all points that each is in."""
    low, high = points.min(0), points.max(0)
    column, row = ((points - low) / (high - low + 1) * BLOCKS).astype(np.int64).T
    return np.asarray(row * BLOCKS + column, np.int64)


def _std(likelihood: Likelihood, theta: FloatArray, block: NDArray[np.int64], points: FloatArray) -> float:
    """Mean one-sigma error of where (P, 2) ``points`` lie, px: covariance H⁻¹ (Σ_b g_b g_bᵀ) H⁻¹ over blocks b.

    Infinite where too few blocks are seen, or the likelihood has no top at ``theta``, or the cells say nothing. On
    sensors that the network never saw cells are too sure of wrong places, and the gain may be negative at the truth.
    """
    seen, index = np.unique(block, return_inverse=True)
    if len(seen) <= len(theta) or np.abs(likelihood.gains(theta)).mean() < RIPPLE:
        return math.inf
    cells, _, curve = likelihood.derivatives(theta)
    if not np.isfinite(curve).all():
        return math.inf
    values, vectors = np.linalg.eigh(len(cells) * curve)
    if not values.min() > 1e-6 * values.max():
        return math.inf
    inverse = vectors @ np.diag(1 / values) @ vectors.T
    scores = np.stack([np.bincount(index, column, len(seen)) for column in cells.T], 1)  # (blocks, P)
    centred = scores - scores.mean(0)
    spread = centred.T @ centred * len(seen) / (len(seen) - 1)
    covariance, jacobian = inverse @ spread @ inverse, likelihood.jacobian(theta, points)
    return float(np.sqrt(np.einsum("nip,pq,niq->n", jacobian, covariance, jacobian).clip(0)).mean())
