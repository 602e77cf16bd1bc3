"""Geometric verification of a pair's matches: pycolmap seeks the inliers, a refit on them follows.

Convention:
    Pixel centres at integers. A planar model is a 3x3 matrix image0 -> image1; a fundamental matrix F has
    ``[x1, y1, 1] F [x0, y0, 1]ᵀ = 0``.

A radar image is not a pinhole view: an affine transform (the default) or a homography verifies it on flat ground. The
fundamental matrix and the two-view geometry are for optical views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hloc_plugin import _pycolmap
from kornia_tar.geometry import FloatArray, fit_transform, transform_points
from kornia_tar.registration.acceptance import VerificationConfig

Model = Literal["affine", "homography", "fundamental", "two-view"]

_PLANAR_CONFIGS = ("PLANAR", "PANORAMIC", "PLANAR_OR_PANORAMIC")
_MINIMAL = {"affine": 3, "homography": 4, "fundamental": 8, "two-view": 8}


DEFAULTS = VerificationConfig()


@dataclass(frozen=True)
class Verification:
    """Outcome for one pair of N matches."""

    model: Model
    config: str  # COLMAP's name: PLANAR, UNCALIBRATED, PLANAR_OR_PANORAMIC, DEGENERATE, …
    matrix: FloatArray | None  # (3, 3), see the module's convention; None where nothing fits
    inliers: NDArray[np.bool_]  # (N,)
    rmse: float  # px, of the inliers: transfer error in image1, or Sampson distance
    reasons: tuple[str, ...]  # why it is rejected; empty when accepted
    probability: float | None = None  # that a planar transform is right, of the registrar; None where it was not asked

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    @property
    def planar(self) -> bool:
        """Whether ``matrix`` maps points, rather than joining them to lines."""
        return self.model in ("affine", "homography") or self.config in _PLANAR_CONFIGS

    def judged(self, probability: float, reasons: tuple[str, ...]) -> Verification:
        """Return the outcome with what :meth:`kornia_tar.Registrar.judge` said of its transform."""
        config = "DEGENERATE" if reasons else self.config
        return replace(self, config=config, reasons=self.reasons + reasons, probability=probability)

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "accepted": self.accepted, "reasons": list(self.reasons), "matches": len(self.inliers),
            "inliers": int(self.inliers.sum()), "probability": self.probability,
            "rmse_px": self.rmse, "model": self.model, "config": self.config,
            "homography" if self.planar else "fundamental": self.matrix,
        }  # fmt: skip


def verify(
    points0: ArrayLike,
    points1: ArrayLike,
    size0: tuple[int, int],
    size1: tuple[int, int],
    model: Model = "affine",
    config: VerificationConfig = DEFAULTS,
) -> Verification:
    """Verify the matches of one pair. Equal input gives the equal result.

    Args:
        points0: (N, 2) pixels in image0.
        points1: (N, 2) pixels in image1.
        size0: (H, W) of image0.
        size1: (H, W) of image1.
        model: "affine", "homography", "fundamental", or "two-view", where COLMAP chooses between the last two.
        config: what must hold.

    Raises:
        ImportError: pycolmap is absent.
        ValueError: shapes that do not agree, or an unknown model.
    """
    if model not in get_args(Model):
        raise ValueError(f"model is {model!r}; it must be one of {', '.join(get_args(Model))}")
    xy0, xy1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    if xy0.ndim != 2 or xy0.shape[1:] != (2,) or xy0.shape != xy1.shape:
        raise ValueError(f"points0 is {xy0.shape} and points1 {xy1.shape}; both must be (N, 2) with the same N")
    found, kind = None, "DEGENERATE"
    if len(xy0) >= _MINIMAL[model]:
        found, kind = _search(xy0, xy1, size0, size1, model, config.threshold)
    if found is None:
        reason = f"no {model} geometry fits {len(xy0)} matches"
        return Verification(model, "DEGENERATE", None, np.zeros(len(xy0), bool), float("inf"), (reason,))
    planar = model in ("affine", "homography") or kind in _PLANAR_CONFIGS
    refit = _refit_planar if planar else _refit_epipolar
    matrix, residuals = refit(xy0, xy1, found, "affine" if model == "affine" else "homography", config.threshold)
    inliers = residuals < config.threshold
    rmse = float(np.sqrt(np.mean(residuals[inliers] ** 2))) if inliers.any() else float("inf")
    reasons = config.refusal(matrix, xy0[inliers], len(xy0), size0, planar)
    return Verification(model, "DEGENERATE" if reasons else kind, matrix, inliers, rmse, reasons)


def _search(
    xy0: FloatArray, xy1: FloatArray, size0: tuple[int, int], size1: tuple[int, int], model: Model, threshold: float
) -> tuple[NDArray[np.bool_] | None, str]:
    """Inliers by pycolmap (N,) and the name of COLMAP's configuration."""
    pycolmap = _pycolmap.load()
    ransac = {"max_error": threshold, "min_inlier_ratio": 0.1, "confidence": 0.9999, "max_num_trials": 20_000,
              "random_seed": 0}  # fmt: skip
    if model == "two-view":
        cameras = [
            pycolmap.Camera(model="SIMPLE_PINHOLE", width=w, height=h, params=[1.2 * max(h, w), w / 2, h / 2])
            for h, w in (size0, size1)
        ]
        # Matches at the border are what two images that overlap at an edge have.
        options = {"ransac": ransac, "detect_watermark": False}
        every = np.repeat(np.arange(len(xy0), dtype=np.uint32)[:, None], 2, axis=1)
        found = pycolmap.estimate_two_view_geometry(
            cameras[0], xy0 + 0.5, cameras[1], xy1 + 0.5, matches=every, options=options
        )  # fmt: skip
        inliers = np.zeros(len(xy0), bool)
        inliers[np.asarray(found.inlier_matches, np.int64).reshape(-1, 2)[:, 0]] = True
        config = pycolmap.TwoViewGeometryConfiguration(found.config).name
        return (None, config) if config in ("UNDEFINED", "DEGENERATE") else (inliers, config)
    estimate = {
        "affine": pycolmap.estimate_affine2d_robust,
        "homography": pycolmap.estimate_homography_matrix,
        "fundamental": pycolmap.estimate_fundamental_matrix,
    }[model]
    outcome = estimate(xy0, xy1, ransac)
    return (
        None if outcome is None else np.asarray(outcome["inlier_mask"], bool),
        "UNCALIBRATED" if model == "fundamental" else "PLANAR",
    )


def _refit_planar(
    xy0: FloatArray, xy1: FloatArray, inliers: NDArray[np.bool_], model: Literal["affine", "homography"],
    threshold: float,
) -> tuple[FloatArray | None, FloatArray]:  # fmt: skip
    """Least squares on the inliers: pycolmap's own matrix is not refined on all of them."""
    fit = fit_transform(xy0[inliers], xy1[inliers], model=model, threshold=threshold)
    if fit is None:
        return None, np.full(len(xy0), np.inf)
    return fit.matrix, np.linalg.norm(transform_points(fit.matrix, xy0) - xy1, axis=1)


def _refit_epipolar(
    xy0: FloatArray, xy1: FloatArray, inliers: NDArray[np.bool_], model: str, threshold: float
) -> tuple[FloatArray | None, FloatArray]:
    """The normalised eight-point algorithm on the inliers, and on those of its outcome."""
    matrix: FloatArray | None = None
    residuals = np.full(len(xy0), np.inf)
    for _ in range(3):
        if inliers.sum() < 8:
            break
        found, _ = cv2.findFundamentalMat(xy0[inliers], xy1[inliers], cv2.FM_8POINT)
        if found is None or found.shape != (3, 3):
            break
        matrix = np.asarray(found, np.float64)
        residuals = sampson(matrix, xy0, xy1)
        inliers = residuals < threshold
    return matrix, residuals


def sampson(fundamental: FloatArray, points0: FloatArray, points1: FloatArray) -> FloatArray:
    """First-order distance (N,) in pixels of matches from the epipolar constraint (Hartley and Zisserman, 11.4.3)."""
    x0, x1 = (np.column_stack([p, np.ones(len(p))]) for p in (points0, points1))
    line1, line0 = x0 @ fundamental.T, x1 @ fundamental
    slope = (line1[:, :2] ** 2).sum(1) + (line0[:, :2] ** 2).sum(1)
    return np.asarray(np.abs((x1 * line1).sum(1)) / np.sqrt(np.maximum(slope, 1e-18)), np.float64)
