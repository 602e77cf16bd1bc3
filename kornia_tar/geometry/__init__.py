"""Transforms between two images: robust fit, warp, decomposition, error measures; NumPy and OpenCV alone.

Convention:
    Pixel centres lie at integers, x before y, origin top-left. Points are (N, 2) float64, sizes are (H, W),
    and every matrix is a 3x3 float64 that maps image0 to image1: ``[x1, y1, 1] ~ matrix @ [x0, y0, 1]``.
"""

from kornia_tar.geometry.fit import Fit, fit_least_squares, fit_transform
from kornia_tar.geometry.least_squares import MINIMAL_POINTS, TransformModel
from kornia_tar.geometry.matches import PointMatches
from kornia_tar.geometry.matrix import (
    Decomposition,
    FloatArray,
    compose,
    corner_error,
    decompose,
    image_corners,
    invert,
    spread,
    transform_points,
)
from kornia_tar.geometry.spline import SplineRaster
from kornia_tar.geometry.transform import DisplacementField, Transform
from kornia_tar.geometry.warp import blocks, source_window, valid_mask, warp_block, warp_image

__all__ = [
    "MINIMAL_POINTS", "Decomposition", "DisplacementField", "Fit", "FloatArray", "PointMatches", "SplineRaster",
    "Transform", "TransformModel", "blocks", "compose", "corner_error", "decompose", "fit_least_squares",
    "fit_transform", "image_corners", "invert", "source_window", "spread", "transform_points", "valid_mask",
    "warp_block", "warp_image",
]  # fmt: skip
