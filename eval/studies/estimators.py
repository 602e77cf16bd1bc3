"""Robust estimators side by side on the same cached matches: OpenCV's, pycolmap's, and what a refit adds.

The tables of matchers use one estimator for all (``metrics.estimate``). This one asks what the choice of it is worth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.benchmark import metrics, pairs
from eval.benchmark.cache import Prediction, cache_path, read_about, read_names, read_predictions
from eval.benchmark.protocol import LEVELS
from eval.report.markdown import grid
from hloc_plugin._pycolmap import load as pycolmap
from kornia_tar.geometry import fit_least_squares, fit_transform

Array = NDArray[np.float64]
THRESHOLD = 3.0  # px, of every estimator here
ITERATIONS = 10_000
CONFIDENCE = 0.9999


class Found(NamedTuple):
    """What an estimator says of matches: inliers (N,) bool, and a matrix where its model maps points to points."""

    matrix: Array | None
    inliers: NDArray[np.bool_]


Estimator = Callable[[Array, Array, tuple[int, int]], Found | None]


def opencv_affine(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """The shared estimator with the affine model."""
    return _with_inliers(metrics.estimate(points0, points1, "affine"), points0, points1)


def opencv_homography(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """The shared estimator with the homography."""
    return _with_inliers(metrics.estimate(points0, points1, "homography"), points0, points1)


def magsac_affine(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """OpenCV's MAGSAC and a least-squares refit, as kornia-tar's Registrar fits its starts."""
    return _fit(points0, points1, "affine")


def magsac_homography(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """OpenCV's MAGSAC and a least-squares refit, homography."""
    return _fit(points0, points1, "homography")


def colmap_homography(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """Pycolmap's homography, as it comes."""
    colmap = pycolmap()
    found = colmap.estimate_homography_matrix(points0, points1, _options(colmap))
    return None if found is None else Found(_unit(found["H"]), np.asarray(found["inlier_mask"], dtype=bool))


def colmap_homography_refit(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """Pycolmap's homography, fitted again to its inliers by least squares."""
    return _refit(colmap_homography(points0, points1, shape), points0, points1, "homography")


def colmap_homography_affine(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """An affine map fitted to the inliers of pycolmap's homography."""
    return _refit(colmap_homography(points0, points1, shape), points0, points1, "affine")


def colmap_fundamental(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """Pycolmap's fundamental matrix: inliers only, it maps points to lines."""
    colmap = pycolmap()
    found = colmap.estimate_fundamental_matrix(points0, points1, _options(colmap))
    return None if found is None else Found(None, np.asarray(found["inlier_mask"], dtype=bool))


def colmap_two_view(points0: Array, points1: Array, shape: tuple[int, int]) -> Found | None:
    """Pycolmap's two-view geometry with its choice of model; an affine map fitted to the inliers it keeps."""
    colmap = pycolmap()
    height, width = shape
    focal = 1.2 * max(height, width)  # COLMAP's own guess for a camera it knows nothing of
    camera = colmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=[focal, width / 2, height / 2])
    options = colmap.TwoViewGeometryOptions()
    options.ransac = _options(colmap)
    index = np.arange(len(points0), dtype=np.uint32)
    # COLMAP's image origin is the corner of the first pixel, ours its centre.
    geometry = colmap.estimate_two_view_geometry(
        camera, points0 + 0.5, camera, points1 + 0.5, np.column_stack([index, index]), options
    )
    inliers = np.zeros(len(points0), dtype=bool)
    kept = np.asarray(geometry.inlier_matches)
    if not len(kept):
        return None
    inliers[kept[:, 0]] = True
    return _refit(Found(None, inliers), points0, points1, "affine")


ESTIMATORS: dict[str, Estimator] = {
    "OpenCV RANSAC, affine (shared)": opencv_affine,
    "OpenCV RANSAC, homography": opencv_homography,
    "MAGSAC + refit, affine": magsac_affine,
    "MAGSAC + refit, homography": magsac_homography,
    "pycolmap homography": colmap_homography,
    "pycolmap homography + refit": colmap_homography_refit,
    "pycolmap homography inliers, affine refit": colmap_homography_affine,
    "pycolmap two-view inliers, affine refit": colmap_two_view,
    "pycolmap fundamental": colmap_fundamental,
}


@dataclass(frozen=True)
class Comparison:
    """All estimators on one matcher's matches of one set and level.

    Args:
        dataset: name of the set.
        level: name of the level.
        matcher: the matcher's name.
        pairs: number of pairs.
        rows: one per estimator: its name, SR@1 to 10, median corner error, inlier precision at 3 px, failures, seconds.
        not_run: estimators that could not be run, with the reason.
    """

    dataset: str
    level: str
    matcher: str
    pairs: int
    rows: list[dict[str, Any]]
    not_run: dict[str, str]


def compare(dataset: str, level: str, matcher: str, folder: Path, limit: int | None = None) -> Comparison:
    """Run every estimator on a matcher's cached matches.

    Args:
        dataset: name of the set.
        level: name of the level.
        matcher: the matcher's key.
        folder: folder of the caches.
        limit: only so many pairs, spread evenly over the set.

    Raises:
        FileNotFoundError: when nothing is cached of it.
    """
    path = cache_path(folder, dataset, level, matcher)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no matches cached of {matcher!r}: do 'python -m eval run' first")
    predictions = read_predictions(path, pairs.subsample(read_names(path), limit))
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for name, estimator in ESTIMATORS.items():
        try:
            rows.append({"estimator": name} | _row(estimator, predictions))
        except ImportError as error:
            missing[name] = f"{error}; pip install pycolmap"
    return Comparison(dataset, level, read_about(path)["matcher"], len(predictions), rows, missing)


def _row(estimator: Estimator, predictions: Sequence[Prediction]) -> dict[str, Any]:
    errors, precision, seconds = [], [], []
    maps = False
    for p in predictions:
        points0, points1 = (np.asarray(points, dtype=np.float64) for points in (p.matches.points0, p.matches.points1))
        start = time.perf_counter()
        found = estimator(points0, points1, p.shape0) if len(points0) >= 8 else None
        seconds.append(time.perf_counter() - start)
        maps = maps or (found is not None and found.matrix is not None)
        errors.append(metrics.corner_error(None if found is None else found.matrix, p.truth, p.shape0))
        if found is not None and found.inliers.any():
            right = metrics.match_errors(points0[found.inliers], points1[found.inliers], p.truth) < THRESHOLD
            precision.append(float(right.mean()))
        else:
            precision.append(0.0)
    row: dict[str, Any] = {f"SR@{t}": metrics.success_rate(errors, t) if maps else None for t in metrics.SR_PIXELS}
    row["median corner error"] = float(np.median(errors)) if maps else None
    return row | {"inlier precision@3": float(np.mean(precision)), "seconds": float(np.median(seconds))}


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Lay comparisons out as Markdown."""
    lines = [
        "# Robust estimators on the same matches",
        "",
        f"Threshold {THRESHOLD:g} px for all. SR: share of pairs with a mean corner error below so many px, percent;",
        "Precision: share of the inliers within 3 px of the truth, mean over pairs. Below 8 matches, all fail.",
    ]
    for c in comparisons:
        ceiling = LEVELS[c.level].describe() if c.level in LEVELS else "the set's own truth"
        lines += ["", f"## {c.matcher} on {c.dataset}, level {c.level} ({c.pairs} pairs; {ceiling})", ""]
        rows = []
        for row in c.rows:
            cells = ["–" if row[f"SR@{t}"] is None else f"{100 * row[f'SR@{t}']:.1f}" for t in metrics.SR_PIXELS]
            median = row["median corner error"]
            cells += ["–" if median is None else f"{median:.2f}", f"{100 * row['inlier precision@3']:.1f}"]
            rows.append([row["estimator"], *cells, f"{1000 * row['seconds']:.1f}"])
        heads = ["estimator", *(f"SR@{t}" for t in metrics.SR_PIXELS), "median px", "inlier precision", "ms"]
        lines += [*grid(heads, rows), "", *(f"- {name}: not run: {reason}" for name, reason in c.not_run.items())]
    return "\n".join(lines).rstrip() + "\n"


def _fit(points0: Array, points1: Array, model: metrics.Model) -> Found | None:
    fit = fit_transform(points0, points1, model=model, threshold=THRESHOLD)
    return None if fit is None else Found(fit.matrix, fit.inliers)


def _refit(found: Found | None, points0: Array, points1: Array, model: metrics.Model) -> Found | None:
    if found is None:
        return None
    matrix = fit_least_squares(points0[found.inliers], points1[found.inliers], model, found.matrix)
    return None if matrix is None else Found(matrix, found.inliers)


def _with_inliers(matrix: Array | None, points0: Array, points1: Array) -> Found | None:
    return None if matrix is None else Found(matrix, metrics.match_errors(points0, points1, matrix) < THRESHOLD)


def _unit(matrix: Any) -> Array:
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(matrix / matrix[2, 2], dtype=np.float64)


def _options(colmap: Any) -> Any:
    return colmap.RANSACOptions(max_error=THRESHOLD, confidence=CONFIDENCE, max_num_trials=ITERATIONS, random_seed=0)
