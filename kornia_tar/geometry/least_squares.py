"""Weighted least squares for plane transforms."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np

from kornia_tar.geometry.matrix import FloatArray, transform_points

TransformModel = Literal["similarity", "affine", "homography"]

#: Points that determine each model.
MINIMAL_POINTS: dict[TransformModel, int] = {"similarity": 2, "affine": 3, "homography": 4}

_MAX_CONDITION = 1e10  # of the normal matrix in normalised coordinates; beyond it the points determine no model


def _basis(model: TransformModel) -> FloatArray:
    """(9, P): how the row-major entries of the matrix depend on the free parameters."""
    if model == "similarity":  # [[a, -b, tx], [b, a, ty]]
        basis = np.zeros((9, 4))
        basis[[0, 4], 0] = 1
        basis[3, 1], basis[1, 1] = 1, -1
        basis[2, 2] = basis[5, 3] = 1
        return basis
    return np.eye(9)[:, : 6 if model == "affine" else 8]


def _entry_jacobian(matrix: FloatArray, xy: FloatArray) -> FloatArray:
    """(N, 2, 9): derivative of the transformed points by the row-major entries of the matrix."""
    ones, zeros = np.ones(len(xy)), np.zeros((len(xy), 3))
    source = np.column_stack([xy, ones])  # (N, 3)
    depth = (source @ matrix[2])[:, None]
    x, y = ((source @ matrix[:2].T) / depth).T[..., None]
    rows = [np.hstack([source, zeros, -x * source]), np.hstack([zeros, source, -y * source])]
    return cast(FloatArray, np.stack(rows, axis=1) / depth[..., None])


def _normaliser(xy: FloatArray) -> FloatArray | None:
    """Hartley's similarity: centroid to the origin, mean distance to sqrt(2)."""
    centre = xy.mean(axis=0)
    distance = np.linalg.norm(xy - centre, axis=1).mean()
    if not distance > 1e-9:
        return None
    k = np.sqrt(2) / distance
    return np.array([[k, 0, -k * centre[0]], [0, k, -k * centre[1]], [0, 0, 1]])


def least_squares(
    start: FloatArray, xy0: FloatArray, xy1: FloatArray, weights: FloatArray, model: TransformModel
) -> FloatArray | None:
    """Gauss-Newton on the weighted transfer error; one step is exact for the two linear models.

    Works in normalised coordinates. None when the points do not determine the model.
    """
    if len(xy0) < MINIMAL_POINTS[model] or weights.max(initial=0.0) <= 0:
        return None
    to0, to1 = _normaliser(xy0), _normaliser(xy1)
    if to0 is None or to1 is None:
        return None
    source, target = transform_points(to0, xy0), transform_points(to1, xy1)
    matrix, basis, w = to1 @ start @ np.linalg.inv(to0), _basis(model), weights / weights.max()
    for _ in range(5 if model == "homography" else 1):
        jacobian = _entry_jacobian(matrix, source) @ basis  # (N, 2, P)
        normal = np.einsum("n,nip,niq->pq", w, jacobian, jacobian)
        if not np.isfinite(normal).all() or np.linalg.cond(normal) > _MAX_CONDITION:
            return None
        error = target - transform_points(matrix, source, horizon=False)
        step = np.linalg.solve(normal, np.einsum("n,nip,ni->p", w, jacobian, error))
        matrix = matrix + (basis @ step).reshape(3, 3)

    pixels = cast(FloatArray, np.linalg.inv(to1) @ matrix @ to0)
    if not np.isfinite(pixels).all() or pixels[2, 2] <= 0:
        return None
    return pixels / pixels[2, 2]
