"""Read, join and apply 3x3 matrices: points, decomposition, error measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


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


def transform_points(matrix: ArrayLike, points: ArrayLike, *, horizon: bool = True) -> FloatArray:
    """Send points through a matrix.

    Args:
        matrix: (3, 3).
        points: (N, 2).
        horizon: whether points behind the matrix's horizon (w <= 0), which no camera sees, become inf. Without it they
            come out on the other side, as projective geometry has it, and only points on the horizon are not finite.

    Returns:
        (N, 2) float64.
    """
    m = np.asarray(matrix, dtype=np.float64)
    if horizon or m.shape != (3, 3):
        m = as_matrix(m)  # so that w > 0 is in front
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    xyw = xy @ m[:, :2].T + m[:, 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        out = xyw[:, :2] / xyw[:, 2:]
    if horizon:
        out[~(xyw[:, 2] > 1e-12)] = np.inf
    return out


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
    m = as_matrix(matrix)
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
    return as_matrix(as_matrix(second) @ as_matrix(first))


def invert(matrix: ArrayLike) -> FloatArray:
    """The matrix image1 -> image0, scaled to ``[2, 2] == 1``."""
    return as_matrix(np.linalg.inv(as_matrix(matrix)))


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


def as_matrix(matrix: ArrayLike) -> FloatArray:
    """Check that a matrix is (3, 3), and scale it to ``[2, 2] == 1`` where that entry is not zero."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (3, 3):
        raise ValueError(f"matrix is {m.shape}; it must be (3, 3)")
    return m / m[2, 2] if m[2, 2] != 0 else m


def image_corners(size: tuple[int, int]) -> FloatArray:
    """(4, 2) pixel centres of the corners of an image of ``size`` (H, W), clockwise from the top left."""
    right, bottom = size[1] - 1, size[0] - 1
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=np.float64)
