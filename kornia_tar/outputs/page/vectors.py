"""Residual vectors on the map: by how much the registered image1 is off, magnified."""

from __future__ import annotations

from typing import Any

import numpy as np

from kornia_tar.geometry import FloatArray, Transform
from kornia_tar.outputs.windows import in_blocks
from kornia_tar.registration.result import Registration

ACROSS, FEWEST = 16, 3  # blocks of tie points along the longer side, and tie points of a block
LEAST = 16  # px, side of a block: a few cells
REACH = 0.9  # of the distance between vectors, that nine of ten of them are shorter than
STEPS = (1, 2, 5)  # times a power of ten: what a magnification and a scale may be


def residual_vectors(outcome: Registration, size: tuple[int, int]) -> dict[str, Any] | None:
    """Draw residuals as vectors in image0's pixels, from a spot of image0 to where the registered image1 shows it.

    Args:
        outcome: what the registrar says.
        size: (H, W) of image0.

    Returns:
        ``factor``, by which they are magnified; ``scale``, px of image0 that a line of length ``length`` (px of image0)
        stands for; ``points`` and ``held_out``, each the count and SVG paths ``lines`` and ``dots``. None where there
        is nothing to draw.
    """
    transform = outcome.transform
    if transform is None:
        return None
    points, held = _tie_points(outcome, transform, size), _held_out(outcome, transform)
    lengths = np.linalg.norm(np.concatenate([points[:, 1], held[:, 1]]), axis=1)
    if not len(lengths):
        return None
    apart = max(max(size) / ACROSS, LEAST)
    usual = max(float(np.quantile(lengths, 0.9)), 1e-3)
    factor = _round_down(REACH * apart / usual)
    scale = _round_down(2 * apart / factor)
    return {
        "factor": factor, "scale": scale, "length": scale * factor,
        "points": _paths(points, factor), "held_out": _paths(held, factor),
    }  # fmt: skip


def _tie_points(outcome: Registration, transform: Transform, size: tuple[int, int]) -> FloatArray:
    """(N, 2, 2) px of image0: where, and the median vector, of blocks of tie points."""
    m, side = outcome.matches, max(LEAST, -(-max(size) // ACROSS))
    vectors = transform.inverse_points(m.points1) - m.points0 if len(m) else m.points0
    found = [
        (m.points0[members].mean(axis=0), np.median(vectors[members], axis=0))
        for members in in_blocks(m.points0, (side, side), FEWEST)
    ]
    return _finite(np.array(found, np.float64))


def _held_out(outcome: Registration, transform: Transform) -> FloatArray:
    """The same of the held-out blocks; what the fit is too far ahead of the cells, the image lies behind."""
    if outcome.held_out is None:
        return np.zeros((0, 2, 2))
    at, error = outcome.held_out.places.reshape(-1, 2), outcome.held_out.blocks.reshape(-1, 2)
    at, error = at[np.isfinite(error).all(axis=1)], error[np.isfinite(error).all(axis=1)]
    return _finite(np.stack([at, transform.inverse_points(transform(at) - error) - at], 1))


def _finite(vectors: FloatArray) -> FloatArray:
    vectors = vectors.reshape(-1, 2, 2)
    return vectors[np.isfinite(vectors).all(axis=(1, 2))]


def _paths(vectors: FloatArray, factor: float) -> dict[str, Any]:
    lines = [f"M{x:.1f} {y:.1f}l{dx:.1f} {dy:.1f}" for (x, y), (dx, dy) in vectors * [[[1], [factor]]]]
    dots = [f"M{x:.1f} {y:.1f}h0" for x, y in vectors[:, 0]]
    return {"count": len(lines), "lines": "".join(lines), "dots": "".join(dots)}


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5, 10, 20 … and their tenths that is at most ``value``."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in STEPS if step * power <= value * (1 + 1e-9)))
