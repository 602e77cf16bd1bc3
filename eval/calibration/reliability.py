"""What a matcher states of its matches against what is true of them: curves, their errors, and the fit of a correction.

- confidence: share of the matches within 3 px of the truth against what is stated, in bins of equally many matches; the
  expected calibration error (ECE) is the mean distance of the two.
- std: root mean square of the stated one-sigma errors against that of the true errors per axis, in bins likewise. Of
  matches within 8 px, one coarse cell: beyond, a match sits in a wrong cell, of which std does not speak. Over bins,
  the mean of |true - stated| / stated (ENCE, Levi et al. 2022).

A correction (``kornia_tar.network.calibration``) is fitted on one half of the scenes and judged on the other, both ways
round. That of std is fitted on optical–SAR pairs alone and serves all: two images of one modality, taken at two times,
are not as alike as an image and itself, and std must not promise what they cannot keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from eval.benchmark.metrics import NCM_PIXELS
from kornia_tar.conventions import CELL
from kornia_tar.network.calibration import EDGE, PairScalings, PlattScaling

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CROSS = "optical-sar"
BINS = 15
PRIOR = (
    1e-3  # weight of a normal prior around the identity, which keeps the fit finite where nearly all matches are right
)


@dataclass(frozen=True)
class Stated:
    """What was said of N matches, and what was true.

    Args:
        half: (N,) 0 or 1, the half of the scenes that a match belongs to.
        confidence: (N,) in [0, 1].
        std: (N,) px.
        error: (N, 2) px, x and y.
    """

    half: NDArray[np.intp]
    confidence: Array
    std: Array
    error: Array

    @property
    def right(self) -> Mask:
        """(N,) within 3 px of the truth."""
        return np.asarray(np.linalg.norm(self.error, axis=1) < NCM_PIXELS)

    @property
    def near(self) -> Mask:
        """(N,) within a coarse cell of the truth."""
        return np.asarray(np.linalg.norm(self.error, axis=1) < CELL)

    def rows(self, kept: Mask) -> Stated:
        """Some of the matches."""
        return Stated(self.half[kept], self.confidence[kept], self.std[kept], self.error[kept])

    def corrected(self, correction: PlattScaling) -> Stated:
        """With confidence and std corrected."""
        return replace(self, confidence=correction.confidence(self.confidence), std=correction.std(self.std))


def join(parts: Sequence[Stated]) -> Stated:
    """All matches of several, in their order."""
    return Stated(
        np.concatenate([part.half for part in parts]), np.concatenate([part.confidence for part in parts]),
        np.concatenate([part.std for part in parts]), np.concatenate([part.error for part in parts]),
    )  # fmt: skip


def scale_logits(confidence: Array, right: Mask) -> tuple[float, float]:
    """Fit sigmoid(logit(p) / T + b) to which matches were right: maximum likelihood with a weak prior.

    Args:
        confidence: (N,) stated, in [0, 1].
        right: (N,) what was true.

    Returns:
        temperature T and bias b.

    Raises:
        ValueError: no match to fit to, or what is stated says nothing of what is right.
    """
    if not len(confidence):
        raise ValueError("there is no match to fit a calibration to")
    logit = torch.from_numpy(confidence).clamp(EDGE, 1 - EDGE).logit()
    target = torch.from_numpy(right).double()
    identity = torch.tensor([1.0, 0.0], dtype=torch.float64)
    theta = identity.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(theta[0] * logit + theta[1], target)
        value = value + PRIOR / 2 * (theta - identity).square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    slope, bias = theta.tolist()
    if slope <= 0:
        raise ValueError(
            f"confidence does not rise with accuracy (fitted slope {slope:.3g}): the calibration cannot be fitted"
        )
    return 1 / slope, bias


def std_factor(found: Stated) -> float:
    """What the stated one-sigma errors must be multiplied by to have the true ones' root mean square.

    Raises:
        ValueError: no match lies within a cell of the truth.
    """
    near = found.rows(found.near)
    if not len(near.std):
        raise ValueError("no match is within a coarse cell of the truth: there is no std to calibrate")
    return _rms(near.error) / _rms(near.std)


def fit(found: Mapping[str, Stated], elsewhere: Stated | None = None) -> PairScalings:
    """Fit to all matches, by pair of modalities; errors of :func:`scale_logits` and :func:`std_factor`.

    Args:
        found: matches by pair of modalities.
        elsewhere: those of images of different places, all wrong, which count with the optical–SAR pairs'.
    """
    cross, same = found[CROSS], join([part for pair, part in found.items() if pair != CROSS])
    factor = std_factor(cross)
    cross = cross if elsewhere is None else join([cross, elsewhere])
    fits = (PlattScaling(*scale_logits(part.confidence, part.right), factor) for part in (cross, same))
    return PairScalings(*fits)


def held_out(found: Mapping[str, Stated], elsewhere: Stated | None = None) -> dict[str, Stated]:
    """Correct the matches of each half of the scenes by the fit to the other half; arguments as of :func:`fit`."""
    parts: dict[str, list[Stated]] = {pair: [] for pair in found}
    for own in (0, 1):
        others = None if elsewhere is None else elsewhere.rows(elsewhere.half != own)
        fits = fit({pair: part.rows(part.half != own) for pair, part in found.items()}, others)
        for pair, part in found.items():
            parts[pair].append(part.rows(part.half == own).corrected(fits.of(*pair.split("-"))))
    return {pair: join(both) for pair, both in parts.items()}


def reliability(found: Stated) -> Array:
    """(bins, 2): mean stated confidence and share that is right, in bins of equally many matches."""
    right = found.right
    return np.array([(found.confidence[p].mean(), right[p].mean()) for p in _bins(found.confidence)]).reshape(-1, 2)


def std_curve(found: Stated) -> Array:
    """(bins, 2): root mean square of the stated and of the true errors per axis, px, of matches within a cell."""
    near = found.rows(found.near)
    return np.array([(_rms(near.std[p]), _rms(near.error[p])) for p in _bins(near.std)]).reshape(-1, 2)


def calibration_error(found: Stated) -> float:
    """ECE in [0, 1], over :func:`reliability`'s bins; nan without matches."""
    right, places = found.right, _bins(found.confidence)
    distances = [abs(found.confidence[p].mean() - right[p].mean()) * len(p) / len(right) for p in places]
    return float(sum(distances)) if distances else float("nan")


def figures(found: Stated) -> dict[str, Any]:
    """What tables and plots show: shares in [0, 1], lengths in px, the curves of this module."""
    near, spread = found.rows(found.near), std_curve(found)
    true, said = _rms(near.error), _rms(near.std)
    return {
        "stated confidence": float(found.confidence.mean()),
        "within 3 px": float(found.right.mean()),
        "ECE": calibration_error(found),
        "within a cell": float(found.near.mean()),
        "stated std": said,
        "true std": true,
        "true over stated": true / said,
        "ENCE": float(np.mean(np.abs(spread[:, 1] - spread[:, 0]) / spread[:, 0])),
        "reliability": reliability(found),
        "std": spread,
    }


def _bins(values: Array) -> list[NDArray[np.intp]]:
    """Indices of the values in bins of equally many, smallest first; fewer bins where there are fewer values."""
    return [part for part in np.array_split(np.argsort(values, kind="stable"), BINS) if len(part)]


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
