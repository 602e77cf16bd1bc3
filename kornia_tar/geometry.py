"""Transforms between two images: robust fit, warp, decomposition, error measures.

Convention:
    Pixel centres lie at integers, x before y, origin top-left. Points are (N, 2) float64, sizes are (H, W),
    and every matrix is a 3x3 float64 that maps image0 to image1: ``[x1, y1, 1] ~ matrix @ [x0, y0, 1]``.

The search for inliers is OpenCV's (RANSAC, MAGSAC); the refit on the inliers is weighted least squares on the
transfer error in image1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kornia_tar._least_squares import MINIMAL_POINTS, FloatArray, TransformModel, least_squares

BoolArray = NDArray[np.bool_]

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
    inliers: BoolArray
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


@dataclass(frozen=True)
class Decomposition:
    """What a matrix does near one point, in terms a plausibility gate can judge.

    Attributes:
        rotation_degrees: in (-180, 180], from the x axis towards the y axis (clockwise on the screen).
        scale: square root of the change of area; > 1 when image1 shows the same ground with more pixels.
        anisotropy: ratio of the largest to the smallest stretch, >= 1; 1 for a similarity. Shear shows here too.
        translation: (dx, dy), how far the point moves, in pixels.
        perspective: length of the perspective row relative to the depth at the point, per pixel; 0 when affine.
        mirrored: True when the matrix swaps left and right, which no pair of overhead images does.
    """

    rotation_degrees: float
    scale: float
    anisotropy: float
    translation: tuple[float, float]
    perspective: float
    mirrored: bool


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


def transform_points(matrix: ArrayLike, points: ArrayLike) -> FloatArray:
    """Send points (N, 2) through ``matrix``; points behind its horizon (w <= 0) become inf."""
    m, xy = _matrix(matrix), np.asarray(points, dtype=np.float64).reshape(-1, 2)
    xyw = xy @ m[:, :2].T + m[:, 2]
    front = xyw[:, 2] > 1e-12
    out = np.full_like(xy, np.inf)
    out[front] = xyw[front, :2] / xyw[front, 2:]
    return out


def warp_image(
    image: NDArray[Any],
    matrix_0_to_1: ArrayLike,
    size: tuple[int, int],
    *,
    fill: float = 0,
    interpolation: int = cv2.INTER_LINEAR,
) -> NDArray[Any]:
    """Resample image1 into the frame of image0: ``out[y, x] = image[matrix_0_to_1 @ (x, y)]``.

    The matrix leads from the output's pixels to the input's, so the fitted image0 -> image1 matrix registers
    image1 onto image0 as it is, without an inverse. There is no low-pass filter: where image1 is much finer
    than image0 (scale > 2), blur it first.

    Args:
        image: (H1, W1) or (H1, W1, C), image1; any real dtype, kept.
        matrix_0_to_1: (3, 3).
        size: (H, W) of image0, and of the result.
        fill: value outside image1.
        interpolation: an OpenCV flag, e.g. ``cv2.INTER_NEAREST`` for labels.

    Returns:
        (H, W) or (H, W, C) of the dtype of ``image``.
    """
    matrix, (height, width) = _matrix(matrix_0_to_1), size
    native = image.dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64)
    source = image if native else image.astype(np.float64)
    bands = source[..., None] if source.ndim == 2 else source
    # OpenCV takes four channels at most in one call.
    warped = [
        cv2.warpPerspective(
            np.ascontiguousarray(bands[..., first : first + 4]),
            matrix,
            (width, height),
            flags=interpolation | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(float(fill),) * 4,
        ).reshape(height, width, -1)
        for first in range(0, bands.shape[-1], 4)
    ]
    out = np.concatenate(warped, axis=-1) if len(warped) > 1 else warped[0]
    out = out[..., 0] if image.ndim == 2 else out
    if native:
        return out
    return (np.rint(out) if image.dtype.kind in "iub" else out).astype(image.dtype)


def valid_mask(mask: BoolArray, matrix_0_to_1: ArrayLike, size: tuple[int, int]) -> BoolArray:
    """Which pixels of :func:`warp_image`'s result rest on valid pixels of image1 alone.

    Args:
        mask: (H1, W1) bool, True where image1 holds data; ``np.ones`` where it does everywhere.
        matrix_0_to_1: (3, 3).
        size: (H, W) of image0.

    Returns:
        (H, W) bool; False too where bilinear interpolation would mix in a single invalid or outer pixel.
    """
    matrix = _matrix(matrix_0_to_1)
    missing = warp_image((~mask).astype(np.float32), matrix, size, fill=1)
    x, y = np.arange(size[1]), np.arange(size[0])[:, None]
    in_front = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] > 1e-12
    return cast(BoolArray, (missing == 0) & in_front)


def decompose(matrix: ArrayLike, at: tuple[float, float] = (0.0, 0.0)) -> Decomposition:
    """Read rotation, scale, anisotropy, shift and perspective off a matrix.

    Rotation is that of the polar decomposition of the linear part (the nearest rotation), anisotropy the
    ratio of its singular values.

    Args:
        matrix: (3, 3).
        at: the point (x, y) of image0 where a homography is linearised, e.g. the centre; it is also the point
            whose shift is told.

    Returns:
        The decomposition.
    """
    m = _matrix(matrix)
    point = np.asarray(at, dtype=np.float64)
    depth = float(m[2, :2] @ point + m[2, 2])
    image = (m[:2, :2] @ point + m[:2, 2]) / depth
    linear = (m[:2, :2] - np.outer(image, m[2, :2])) / depth
    stretch = np.linalg.svd(linear, compute_uv=False)
    dx, dy = image - point
    return Decomposition(
        rotation_degrees=float(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))),
        scale=float(np.sqrt(stretch[0] * stretch[1])),
        anisotropy=float(stretch[0] / stretch[1]) if stretch[1] > 0 else float("inf"),
        translation=(float(dx), float(dy)),
        perspective=float(np.hypot(*m[2, :2]) / abs(depth)),
        mirrored=bool(np.linalg.det(linear) < 0),
    )


def compose(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """The matrix of ``first`` and then ``second``, scaled to ``[2, 2] == 1``."""
    return _matrix(_matrix(second) @ _matrix(first))


def invert(matrix: ArrayLike) -> FloatArray:
    """The matrix image1 -> image0, scaled to ``[2, 2] == 1``."""
    return _matrix(np.linalg.inv(_matrix(matrix)))


def corner_error(estimated: ArrayLike | None, truth: ArrayLike, size: tuple[int, int]) -> float:
    """Mean distance in image1 pixels between the four corners of image0 (H, W) under two matrices.

    Args:
        estimated: (3, 3), or None for a failed registration.
        truth: (3, 3).
        size: (H, W) of image0.

    Returns:
        Pixels; inf for None.
    """
    if estimated is None:
        return float("inf")
    corners = image_corners(size)
    there, here = transform_points(truth, corners), transform_points(estimated, corners)
    if not (np.isfinite(there).all() and np.isfinite(here).all()):
        return float("inf")
    return float(np.linalg.norm(there - here, axis=1).mean())


def spread(points: ArrayLike, size: tuple[int, int], grid: int = 4) -> float:
    """Share of the cells of a ``grid`` x ``grid`` raster over an image of ``size`` (H, W) that hold a point."""
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    cells = np.floor((xy + 0.5) / (size[1], size[0]) * grid).clip(0, grid - 1).astype(int)
    return len(np.unique(cells, axis=0)) / grid**2


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


def _matrix(matrix: ArrayLike) -> FloatArray:
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (3, 3):
        raise ValueError(f"matrix is {m.shape}; it must be (3, 3)")
    return m / m[2, 2] if m[2, 2] != 0 else m


def image_corners(size: tuple[int, int]) -> FloatArray:
    """(4, 2) pixel centres of the corners of an image of ``size`` (H, W), clockwise from the top left."""
    right, bottom = size[1] - 1, size[0] - 1
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=np.float64)


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
    return _matrix(np.vstack([found, [0.0, 0.0, 1.0]]) if len(found) == 2 else found)


def _magsac(threshold: float, seed: int) -> Any:
    params = cv2.UsacParams()
    params.threshold = threshold
    params.confidence = _SUCCESS_PROBABILITY
    params.maxIterations = _MAX_ITERATIONS
    params.randomGeneratorState = seed
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    return params
