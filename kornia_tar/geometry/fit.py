"""Fit a transform to matches: OpenCV seeks the inliers, weighted least squares refit on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar.geometry.least_squares import MINIMAL_POINTS, TransformModel, least_squares
from kornia_tar.geometry.matrix import FloatArray, as_matrix, transform_points

_MAX_ITERATIONS = 10_000


_SUCCESS_PROBABILITY = 0.9999


_REFITS = 3


@dataclass(frozen=True)
class Fit:
    """A transform image0 -> image1 with what is known about its quality.

    Attributes:
        matrix: (3, 3), ``matrix[2, 2] == 1``.
        inliers: (N,) bool, residual below the threshold; N counts all given points.
        model: the family the matrix was sought in.
        residuals: (N,) transfer error in image1 in pixels; inf for points the matrix sends behind the plane.
    """

    matrix: FloatArray
    inliers: NDArray[np.bool_]
    model: TransformModel
    residuals: FloatArray

    @property
    def rmse(self) -> float:
        """Root mean square of the inliers' residuals in image1 pixels."""
        return float(np.sqrt(np.mean(self.residuals[self.inliers] ** 2)))


def fit_least_squares(
    points0: ArrayLike, points1: ArrayLike, model: TransformModel = "affine", start: ArrayLike | None = None
) -> FloatArray | None:
    """Fit a transform image0 -> image1 to matches that are all right, without a search.

    Args:
        points0: (N, 2) pixels in image0.
        points1: (N, 2) pixels in image1.
        model: "similarity", "affine" or "homography".
        start: (3, 3) for a homography to begin from; the linear models need none and leave it aside.

    Returns:
        (3, 3), or None when the points do not determine the model.
    """
    xy0, xy1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    # The linear models are exact in one step from any member of their family, which ``start`` need not be.
    first = np.eye(3) if start is None or model != "homography" else np.asarray(start, np.float64)
    return least_squares(first, xy0, xy1, np.ones(len(xy0)), model)


def fit_transform(
    points0: ArrayLike,
    points1: ArrayLike,
    *,
    model: TransformModel = "affine",
    threshold: float = 3.0,
    weights: ArrayLike | None = None,
    method: Literal["magsac", "ransac"] = "magsac",
    seed: int = 0,
) -> Fit | None:
    """Fit a transform image0 -> image1 to matches of which many may be wrong.

    OpenCV finds the inliers; then weighted least squares on them and a new choice of inliers alternate.
    Equal input and seed give the equal result.

    Args:
        points0: (N, 2) pixels in image0.
        points1: (N, 2) pixels in image1.
        model: "similarity" (4 parameters), "affine" (6) or "homography" (8).
        threshold: largest residual of an inlier, pixels in image1.
        weights: (N,) >= 0, e.g. ``1 / std**2``; only their ratios matter. They enter the refit, not the search.
        method: "magsac" or "ransac". OpenCV has no MAGSAC for the similarity, which always takes RANSAC.
        seed: of MAGSAC's random generator; OpenCV's RANSAC has a fixed one.

    Returns:
        The fit, or None when the points are too few or too degenerate (e.g. on one line) to determine the model.

    Raises:
        ValueError: on shapes that do not agree, values that are not finite, or an unknown model or method.
    """
    xy0, xy1, w = _check_matches(points0, points1, weights)
    if model not in get_args(TransformModel):
        raise ValueError(f"model is {model!r}; it must be one of {', '.join(get_args(TransformModel))}")
    if method not in ("magsac", "ransac"):
        raise ValueError(f"method is {method!r}; it must be magsac or ransac")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be a positive number of pixels")
    if len(xy0) < MINIMAL_POINTS[model]:
        return None
    matrix = _search(xy0, xy1, model, threshold, method, seed)
    if matrix is None:
        return None

    inliers = _residuals(matrix, xy0, xy1) < threshold
    for _ in range(_REFITS):
        refit = least_squares(matrix, xy0[inliers], xy1[inliers], w[inliers], model)
        if refit is None:
            return None
        matrix = refit
        residuals = _residuals(matrix, xy0, xy1)
        previous, inliers = inliers, residuals < threshold
        if np.array_equal(previous, inliers):
            break
    if inliers.sum() < MINIMAL_POINTS[model] or abs(np.linalg.det(matrix[:2, :2])) < 1e-6:
        return None
    return Fit(matrix, inliers, model, residuals)


def _check_matches(
    points0: ArrayLike, points1: ArrayLike, weights: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    xy0, xy1 = np.asarray(points0, dtype=np.float64), np.asarray(points1, dtype=np.float64)
    if xy0.ndim != 2 or xy0.shape[1:] != (2,) or xy0.shape != xy1.shape:
        raise ValueError(f"points0 is {xy0.shape} and points1 {xy1.shape}; both must be (N, 2) with the same N")
    w = np.ones(len(xy0)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(xy0),):
        raise ValueError(f"weights is {w.shape}; it must be ({len(xy0)},), one for each point")
    if not (np.isfinite(xy0).all() and np.isfinite(xy1).all() and np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError("points0, points1 and weights must be finite, and weights not negative")
    return xy0, xy1, w


def _residuals(matrix: FloatArray, xy0: FloatArray, xy1: FloatArray) -> FloatArray:
    return cast(FloatArray, np.linalg.norm(transform_points(matrix, xy0) - xy1, axis=1))


def _search(
    xy0: FloatArray, xy1: FloatArray, model: TransformModel, threshold: float, method: str, seed: int
) -> FloatArray | None:
    """The matrix with the best support, by OpenCV."""
    options: dict[str, Any] = {
        "ransacReprojThreshold": threshold,
        "maxIters": _MAX_ITERATIONS,
        "confidence": _SUCCESS_PROBABILITY,
    }
    estimate = cv2.findHomography if model == "homography" else cv2.estimateAffine2D
    try:
        if model == "similarity":
            found, _ = cv2.estimateAffinePartial2D(xy0, xy1, method=cv2.RANSAC, **options)
        elif method == "ransac" or len(xy0) <= MINIMAL_POINTS[model]:
            found, _ = estimate(xy0, xy1, method=cv2.RANSAC, **options)
        else:
            found, _ = estimate(xy0, xy1, _magsac(threshold, seed))
    except cv2.error:  # what OpenCV says of degenerate points depends on its version
        return None
    if found is None or not np.isfinite(found).all():
        return None
    return as_matrix(np.vstack([found, [0.0, 0.0, 1.0]]) if len(found) == 2 else found)


def _magsac(threshold: float, seed: int) -> Any:
    params = cv2.UsacParams()
    params.threshold = threshold
    params.confidence = _SUCCESS_PROBABILITY
    params.maxIterations = _MAX_ITERATIONS
    params.randomGeneratorState = seed
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    return params
