"""Scores, as pure functions of matches and truth: per pair first, then over a set.

A failure is an infinite error and stays in every mean, rate and area; no pair is ever dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry import transform_points

Array = NDArray[np.float64]
Model = Literal["affine", "homography"]

PIXELS = (1, 3, 5)  # precision and CMR
SR_PIXELS = (1, 3, 5, 10)
AUC_PIXELS = (3, 5, 10)
NCM_PIXELS = 3
WRONG_PIXELS = 10  # a registration that is so far off is wrong


@dataclass(frozen=True)
class PairScore:
    """Scores of one pair.

    Args:
        matches: number of matches.
        ncm: number of correct matches, those within 3 px of the truth.
        precision: share of the matches within 1, 3 and 5 px; 0 without matches.
        rmse: root mean square error over all matched points, px; inf without matches.
        corner_error: mean corner error of the model fitted to the matches, px; inf where no model was found.
        tie_rmse: root mean square error of that model at independent tie points, px; None where a set has none.
        ce90: 90th percentile of its errors at the tie points (circular error, as in map accuracy standards), px.
        accepted: whether the matcher itself trusts its answer; None of a matcher that does not say.
    """

    matches: int
    ncm: int
    precision: tuple[float, ...]
    rmse: float
    corner_error: float
    tie_rmse: float | None = None
    ce90: float | None = None
    accepted: bool | None = None


def match_errors(points0: ArrayLike, points1: ArrayLike, truth: ArrayLike) -> Array:
    """Return the distance in px, in image1, of each match (N, 2), (N, 2) from where the truth puts it; (N,).

    Infinite where the truth puts it on the horizon alone; behind it, the distance is to the point's projective image.
    """
    residual = transform_points(truth, points0, horizon=False) - np.asarray(points1, dtype=np.float64).reshape(-1, 2)
    errors = np.linalg.norm(residual, axis=1)
    return np.where(np.isnan(errors), np.inf, errors)


def estimate(points0: ArrayLike, points1: ArrayLike, model: Model = "affine") -> Array | None:
    """Fit the one model all matchers share: RANSAC at 3 px, at most 10 000 iterations, confidence 0.9999.

    OpenCV's ``estimateAffine2D``, or its ``findHomography`` where the truth has a perspective part, which no affine
    can follow. Both refine on the inliers. The same input gives the same matrix.

    Args:
        points0: (N, 2) x, y in image0.
        points1: (N, 2) x, y in image1.
        model: "affine" or "homography".

    Returns:
        The (3, 3) matrix that maps image0 to image1, or None where the matches are too few or no model was found.
    """
    source = np.asarray(points0, dtype=np.float64).reshape(-1, 2)
    target = np.asarray(points1, dtype=np.float64).reshape(-1, 2)
    if len(source) < (3 if model == "affine" else 4):
        return None
    cv2.setRNGSeed(0)
    fit = cv2.estimateAffine2D if model == "affine" else cv2.findHomography
    found, _ = fit(source, target, method=cv2.RANSAC, ransacReprojThreshold=3.0, maxIters=10_000, confidence=0.9999)
    if found is None or not np.isfinite(found).all():
        return None
    return np.vstack([found, [0.0, 0.0, 1.0]]) if model == "affine" else np.asarray(found, dtype=np.float64)


def corner_error(matrix: ArrayLike | None, truth: ArrayLike, shape0: Sequence[int]) -> float:
    """Return the mean distance in px, in image1, of image0's four corner pixels under two matrices; inf for None.

    Args:
        matrix: estimated (3, 3), or None for a failure.
        truth: true (3, 3).
        shape0: height and width of image0.
    """
    if matrix is None:
        return float("inf")
    bottom, right = shape0[0] - 1, shape0[1] - 1
    corners = [(0, 0), (right, 0), (right, bottom), (0, bottom)]
    return float(match_errors(corners, transform_points(matrix, corners, horizon=False), truth).mean())


def tie_errors(matrix: ArrayLike | None, tie_points: ArrayLike) -> Array:
    """Return the error in px, in image1, of a model at tie points (N, 4) x0, y0, x1, y1; inf each for None; (N,)."""
    ties = np.asarray(tie_points, dtype=np.float64).reshape(-1, 4)
    return np.full(len(ties), np.inf) if matrix is None else match_errors(ties[:, :2], ties[:, 2:], matrix)


def ce90(errors: ArrayLike) -> float:
    """Return the circular error at 90 %: the smallest error (N,) that at least nine tenths do not exceed, px."""
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    if not ordered.size:
        raise ValueError("no tie points to score: a percentile of nothing is not a number")
    return float(ordered[int(np.ceil(0.9 * len(ordered))) - 1])


def score_pair(
    points0: ArrayLike,
    points1: ArrayLike,
    truth: ArrayLike,
    shape0: Sequence[int],
    model: Model = "affine",
    tie_points: ArrayLike | None = None,
    accepted: bool | None = None,
) -> PairScore:
    """Score the matches (N, 2), (N, 2) of one pair whose image0 has height and width ``shape0``."""
    errors = match_errors(points0, points1, truth)
    found = len(errors) > 0
    matrix = estimate(points0, points1, model)
    ties = None if tie_points is None else tie_errors(matrix, tie_points)
    return PairScore(
        matches=len(errors),
        ncm=int((errors < NCM_PIXELS).sum()),
        precision=tuple(float((errors < limit).mean()) if found else 0.0 for limit in PIXELS),
        rmse=float(np.sqrt(np.mean(errors**2))) if found else float("inf"),
        corner_error=corner_error(matrix, truth, shape0),
        tie_rmse=None if ties is None else float(np.sqrt(np.mean(ties**2))),
        ce90=None if ties is None else ce90(ties),
        accepted=accepted,
    )


def success_rate(errors: ArrayLike, limit: float) -> float:
    """Return the share of errors (N,) below a limit; inf counts as a failure."""
    errors = np.asarray(errors, dtype=np.float64)
    if not errors.size:
        raise ValueError("no pairs to score: a rate over nothing is not a number")
    return float((errors < limit).mean())


def auc(errors: ArrayLike, limit: float) -> float:
    """Return the area under the cumulative error curve from 0 to a limit, divided by the limit; in [0, 1].

    The exact area under the step curve, which is the mean of ``max(0, 1 - error / limit)``.
    """
    errors = np.asarray(errors, dtype=np.float64)
    if not errors.size:
        raise ValueError("no pairs to score: an area over nothing is not a number")
    return float(np.clip(1 - errors / limit, 0, 1).mean())


def aggregate(scores: Sequence[PairScore]) -> dict[str, float]:
    """Aggregate pair scores: SR, AUC and CMR as shares of all pairs, mean NCM and precision, failure rate.

    SR and AUC are of the mean corner error after the shared estimator; CMR@t is the paper's, the share of pairs whose
    RMSE over matched points is below t. Where a set has tie points: medians over the pairs of the model's tie-point
    RMSE and CE90. Of a matcher that accepts or refuses: the share of all pairs that it accepts, "SR@t accepted" of
    those found to t px *and* accepted, and "wrong accepted", accepted though ``WRONG_PIXELS`` off or more.
    """
    corners = [score.corner_error for score in scores]
    rmses = [score.rmse for score in scores]
    rows = {f"SR@{limit}": success_rate(corners, limit) for limit in SR_PIXELS}
    rows |= {f"AUC@{limit}": auc(corners, limit) for limit in AUC_PIXELS}
    rows |= {f"CMR@{limit}": success_rate(rmses, limit) for limit in PIXELS}
    rows["NCM"] = float(np.mean([score.ncm for score in scores]))
    for index, limit in enumerate(PIXELS):
        rows[f"precision@{limit}"] = float(np.mean([score.precision[index] for score in scores]))
    rows["matches"] = float(np.mean([score.matches for score in scores]))
    rows["failure"] = 1 - success_rate(corners, float("inf"))
    for key, values in (("tie RMSE", [s.tie_rmse for s in scores]), ("CE90", [s.ce90 for s in scores])):
        if known := [value for value in values if value is not None]:
            rows[key] = float(np.median(known))
    if all(score.accepted is not None for score in scores):
        accepted, errors = np.array([bool(score.accepted) for score in scores]), np.array(corners)
        rows["accepted"] = float(accepted.mean())
        rows |= {f"SR@{limit} accepted": float((accepted & (errors < limit)).mean()) for limit in SR_PIXELS}
        rows["wrong accepted"] = float((accepted & (errors >= WRONG_PIXELS)).mean())
    return rows
