"""What a registration says in metres and in map coordinates, where the files have a georeference."""

from __future__ import annotations

from typing import Any

import numpy as np

from kornia_tar.geometry import FloatArray, PointMatches, Transform, decompose
from kornia_tar.raster import Georeference, Raster, pixel_map
from kornia_tar.raster.georeference import mean_distance, metres, reproject
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.resample import smooth_transform
from kornia_tar.registration.result import Registration

Place = Raster | Grid  # an image, or what is kept of it: size and georeference


def georeference_of(place: Place) -> Georeference | None:
    """Take an image's georeference, if it has one that can be used."""
    return Grid(place.size, place.profile).georeference


def claimed_transform(first: Raster, second: Raster) -> Transform | None:
    """Give image0 → image1 as the two georeferences have it; None without both, or where they say nothing."""
    one, other = georeference_of(first), georeference_of(second)
    if one is None or other is None:
        return None
    try:
        return smooth_transform(pixel_map(one, other), first.size)
    except ValueError:  # image0 reaches beyond image1's map projection
        return None


def metres_per_pixel(outcome: Registration, first: Place, second: Place) -> float | None:
    """Give the metres on the ground of one pixel of image1, by its georeference or else image0's; None without both."""
    distances = [_distance(first), _distance(second)]
    if distances[1] is not None:
        return mean_distance(distances[1])
    if distances[0] is None or outcome.transform is None:
        return None
    at = _middle(outcome, first)
    return mean_distance(distances[0]) / decompose(outcome.transform.matrix, at=(float(at[0]), float(at[1]))).scale


def ground_report(outcome: Registration, first: Place, second: Place) -> dict[str, Any]:
    """Say a registration in metres on the ground; None for what cannot be said.

    Args:
        outcome: of image0 and image1.
        first: image0, or its grid: ``ground_report(outcome, *outcome.grids)`` of what was registered from files.
        second: image1, likewise.

    Returns:
        plain values for JSON: ``gsd0_metres`` and ``gsd1_metres``, [along x, along y] in the middle of either image;
        ``shift_metres``, how far image1's georeference is off by image0's, {"east", "north"}, where the inliers are,
        of what is registered;
        ``error_estimate_metres``; ``held_out_metres``, {"rmse", "ce90", "blocks"}, the last [east, north] of each.
    """
    georeferences = georeference_of(first), georeference_of(second)
    distances = _distance(first), _distance(second)
    shift = error = held = None
    transform, unit = outcome.transform, metres_per_pixel(outcome, first, second)
    if transform is not None:
        if outcome.registered and georeferences[0] is not None and georeferences[1] is not None:
            at = _middle(outcome, first)
            way = metres(georeferences[0].to_lonlat(at), georeferences[1].to_lonlat(transform(at)))[0]
            shift = {"east": float(way[0]), "north": float(way[1])} if np.isfinite(way).all() else None
        if unit is not None:
            error = outcome.error_estimate * unit
            if outcome.held_out is not None:
                held = {
                    "rmse": outcome.held_out.rmse_px * unit, "ce90": outcome.held_out.ce90_px * unit,
                    "blocks": _held_out_blocks(outcome, transform, georeferences),
                }  # fmt: skip
    return {
        "gsd0_metres": distances[0] and list(distances[0]),
        "gsd1_metres": distances[1] and list(distances[1]),
        "shift_metres": shift,
        "error_estimate_metres": error,
        "held_out_metres": held,
    }


def _held_out_blocks(
    outcome: Registration, transform: Transform, georeferences: tuple[Georeference | None, Georeference | None]
) -> list[list[list[float] | None]]:
    """Rows of [east, north] m, the residuals of the held-out blocks on the ground; None for one that says nothing.

    By image1's georeference or else image0's, as in :func:`metres_per_pixel`.
    """
    held = outcome.held_out
    assert held is not None
    at, error = held.places.reshape(-1, 2), held.blocks.reshape(-1, 2)
    known = np.isfinite(error).all(axis=1)
    fitted = transform(at[known])
    told, georeference = fitted - error[known], georeferences[1]
    if georeference is None:
        fitted, told, georeference = at[known], transform.inverse_points(told), georeferences[0]
    assert georeference is not None
    ways = np.full(at.shape, np.nan)
    ways[known] = metres(georeference.to_lonlat(told), georeference.to_lonlat(fitted))
    return [
        [way.round(3).tolist() if np.isfinite(way).all() else None for way in row]
        for row in ways.reshape(held.blocks.shape)
    ]


def _distance(place: Place) -> tuple[float, float] | None:
    """Metres between neighbouring pixels, along x and y, in the middle of an image; None without a georeference."""
    georeference = georeference_of(place)
    return None if georeference is None else georeference.ground_distance()


def _middle(outcome: Registration, first: Place) -> FloatArray:
    """(x, y) px of image0, the middle of the inliers; of the image, where there are none."""
    inliers = outcome.matches.points0[outcome.inliers]
    if len(inliers):
        return np.asarray(inliers.mean(axis=0), np.float64)
    return np.array([(first.size[1] - 1) / 2, (first.size[0] - 1) / 2])


def map_coordinates(matches: PointMatches, first: Raster, second: Raster) -> dict[str, Any]:
    """Give tie points in map coordinates.

    Args:
        matches: of image0 and image1.
        first: image0.
        second: image1.

    Returns:
        nothing where image0 has no georeference. Else ``map0`` (N, 2), where it puts ``keypoints0``; ``map_crs``, the
        reference system; and where image1 has one, too, ``map1`` (N, 2), where that one puts ``keypoints1``.
    """
    reference, other = georeference_of(first), georeference_of(second)
    if reference is None:
        return {}
    told = {"map0": reference.to_map(matches.points0), "map_crs": reference.crs.to_string()}
    if other is not None:
        told["map1"] = reproject(other.to_map(matches.points1), other.crs, reference.crs)
    return told
