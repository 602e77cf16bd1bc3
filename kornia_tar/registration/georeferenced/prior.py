"""The georeference as a prior: register near where two files say that they lie, and everywhere where that fails.

image1 is brought to image0's grid by what both georeferences claim; the registrar looks for the small transform that
remains; the two are composed. Flip, turn, scale and map projection are the georeference's matter: acceptance judges
what remains alone. A georeference may be wrong by more than the search radius, or altogether: then both images are
registered as if they had none, but for the scale, which is hardly ever what is wrong.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import DisplacementField, Transform, compose, decompose
from kornia_tar.raster import Raster
from kornia_tar.raster.georeference import Georeference, mean_distance
from kornia_tar.raster.graphics import without_shared_graphics
from kornia_tar.raster.resample import smooth_transform
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.acceptance import Check, unlike
from kornia_tar.registration.georeferenced.common_grid import CommonGrid
from kornia_tar.registration.held_out import HeldOut
from kornia_tar.registration.registrar import Registrar
from kornia_tar.registration.result import Registration, Search

MAX_TURN, MAX_STRETCH = 10.0, 1.25  # degrees and times, of what remains once the georeferences are undone
MAX_SIDE = 2.0  # times the search's own side, for an image that covers a part of the grid


def register_georeferenced(
    registrar: Registrar,
    first: Raster,
    second: Raster,
    grey0: NDArray[Any],
    grey1: NDArray[Any],
    modality0: str | None = "optical",
    modality1: str | None = "sar",
    radius: float | None = None,
    use: bool = True,
) -> tuple[Registration, Search]:
    """Register two images, by their georeferences where both have one, else by their pixels alone.

    Args:
        registrar: how, and what to trust.
        first: image0, for its georeference and mask.
        second: image1.
        grey0: (H0, W0) uint8 or float in [0, 1], image0 as the matcher sees it.
        grey1: (H1, W1), likewise.
        modality0: "optical", "sar", or None to infer it.
        modality1: likewise.
        radius: m, how far image1 may lie from where its georeference says; None for one that fits the data.
        use: False leaves georeferences aside.

    Returns:
        the registration, in the pixels of both images, and the search that led to it. Of two refusals, the more
        probable one.

    Raises:
        ValueError: a radius that is not positive; an image that does not fit, named.
    """
    check_radius(radius)
    full = lambda: registrar(grey0, grey1, first.mask, second.mask, modality0, modality1)  # noqa: E731
    if not use:
        return full(), Search("full", "georeferences were left aside", None)
    if missing := _missing(first, second):
        return full(), Search("full", missing, None)
    try:
        grid = CommonGrid.of(Georeference.of(first), Georeference.of(second), radius)
        view0 = MaskedImage.of(grey0, first.mask, modality0, "image0")
        view1 = MaskedImage.of(grey1, second.mask, modality1, "image1")
        if registrar.config.mask_graphics:  # what is drawn on both coincides in the files' pixels, not on the grid
            view0, view1 = without_shared_graphics(view0, view1)
        views = grid.views(view0, view1)
    except ValueError as error:
        return full(), Search("full", f"{error}; searched without them", None)
    within = f"within {grid.radius:.0f} m of where the georeferences say"
    try:
        near = _near(registrar, grid, views)
    except ValueError as error:  # such as a homography whose horizon lies in the images
        return full(), Search("full", f"no transform {within} ({error}); searched without them", grid.radius)
    if near.registered:
        return near, Search("georeference", f"found {within}", grid.radius)
    anywhere = _told_scale(registrar, grid)(grey0, grey1, first.mask, second.mask, modality0, modality1)
    if anywhere.registered:
        why = f"refused {within} ({'; '.join(near.reasons)}), found without them"
        return anywhere, Search("full", why, grid.radius)
    why = f"refused {within}, and without them"
    if near.probability >= anywhere.probability:
        return near, Search("georeference", why, grid.radius)
    return anywhere, Search("full", why, grid.radius)


def check_radius(radius: float | None) -> None:
    """Refuse a search radius that is none; None leaves it to the data."""
    if radius is not None and not 0 < radius < math.inf:
        raise ValueError(f"the search radius is {radius} m; it must be a positive number of metres")


def _missing(first: Raster, second: Raster) -> str | None:
    """Say which image has no georeference that can be used."""
    told = []
    for name, raster in (("image0", first), ("image1", second)):
        try:
            Georeference.of(raster)
        except ValueError as error:
            told.append(f"{name} {error}")
    return "; ".join(told) or None


def _near(registrar: Registrar, grid: CommonGrid, views: tuple[MaskedImage, MaskedImage]) -> Registration:
    """Register on the common grid, near the identity; the outcome in the images' own pixels."""
    view0, view1 = views
    search = registrar.config.search
    wide = min(MAX_SIDE, max(1.0, 0.5 / grid.share))  # a chip must not shrink to a few cells
    config = replace(
        registrar.config,
        search=replace(
            search,
            rotations=1,
            told_scale=1.0,
            side=round(search.side * wide),
            near=grid.radius / grid.distance,
        ),
    )
    outcome = registrar.with_config(config)(
        view0.image, view1.image, view0.mask, view1.mask, view0.modality, view1.modality
    )
    if outcome.transform is None:
        return outcome
    return _in_pixels(outcome.also(*_strays(outcome.transform, grid)), grid)


def _told_scale(registrar: Registrar, grid: CommonGrid) -> Registrar:
    """A registrar that searches everywhere, but at the scale that the georeferences tell alone.

    Where an image lies is what georeferences have wrong, hardly ever how large its pixels are; the network needs it to
    some 40 %. A scale that would be refused is not believed.
    """
    search, most = registrar.config.search, registrar.config.acceptance.limits.max_scale
    scale = mean_distance(grid.first.ground_distance()) / mean_distance(grid.second.ground_distance())
    if not 1 / most <= scale <= most:
        return registrar
    config = replace(registrar.config, search=replace(search, told_scale=scale))
    return registrar.with_config(config)


def _strays(transform: Transform, grid: CommonGrid) -> tuple[Check, ...]:
    """Ask whether what remains is more than two georeferences differ by."""
    middle = np.array([[(grid.size[1] - 1) / 2, (grid.size[0] - 1) / 2]])
    shift = float(np.linalg.norm(transform(middle) - middle)) * grid.distance
    parts = decompose(transform.matrix, at=(float(middle[0, 0]), float(middle[0, 1])))
    turn, near = abs(parts.rotation_degrees), MAX_STRETCH if parts.scale > 1 else 1 / MAX_STRETCH
    return (
        Check(
            "shift_metres", "metres from where the georeferences say", shift, shift <= grid.radius,
            f"the images fit {unlike(shift, grid.radius, '.0f')} m from where the georeferences say, beyond the search "
            f"radius of {unlike(grid.radius, shift, '.0f')} m: give a larger one", most=grid.radius,
        ),
        Check(
            "turn_degrees", "degrees turned against the georeferences", turn, turn <= MAX_TURN,
            f"the images are turned by {unlike(turn, MAX_TURN, '.0f')}° against their georeferences, at most "
            f"{MAX_TURN:g}° is allowed", most=MAX_TURN,
        ),
        Check(
            "georeferenced_scale", "scale, times what the georeferences say", parts.scale,
            1 / MAX_STRETCH <= parts.scale <= MAX_STRETCH,
            f"the scale is {unlike(parts.scale, near)} times what the georeferences say, {1 / MAX_STRETCH:g} to "
            f"{MAX_STRETCH:g} is allowed", 1 / MAX_STRETCH, MAX_STRETCH,
        ),
    )  # fmt: skip


def _in_pixels(outcome: Registration, grid: CommonGrid) -> Registration:
    """Compose what was found on the grid with what the georeferences claim."""
    assert outcome.transform is not None
    rest, size0, size1 = outcome.transform, grid.first.size, grid.second.size
    there = lambda points: grid.to_second(rest(points))  # noqa: E731
    # Over the grid alone: elsewhere image0 may reach to where image1's map projection knows nothing.
    whole = smooth_transform(there, grid.size, math.inf if rest.field is None else min(rest.field.spacing))
    field, scale = whole.field, grid.to_grid[[0, 1], [0, 1]]
    if field is not None:
        origin, spacing = (np.array(field.origin) - grid.to_grid[:2, 2]) / scale, np.array(field.spacing) / scale
        field = DisplacementField(
            (float(origin[0]), float(origin[1])), (float(spacing[0]), float(spacing[1])), field.shift
        )
    finer, m = grid.finer, outcome.matches
    matches = replace(m, points0=grid.to_first(m.points0), points1=grid.to_second(m.points1), std=m.stated_std * finer)
    kept = np.isfinite(matches.points1).all(axis=1)
    for points, size in ((matches.points0, size0), (matches.points1, size1)):
        kept &= ((points >= -0.5) & (points <= np.array(size[::-1]) - 0.5)).all(axis=1)
    return replace(
        outcome, matrix=compose(grid.to_grid, whole.matrix), field=field,
        matches=matches.chosen(kept), inliers=outcome.inliers[kept],
        rmse=outcome.rmse * finer, corner_std=outcome.corner_std * finer, disagreement=outcome.disagreement * finer,
        held_out=None if outcome.held_out is None else _in_image_pixels(outcome.held_out, grid),
    )  # fmt: skip


def _in_image_pixels(held: HeldOut, grid: CommonGrid) -> HeldOut:
    """Turn errors in the grid's pixels into the images' own; the blocks stay where they are, over the common area."""
    middles, vectors = held.places.reshape(-1, 2), held.blocks.reshape(-1, 2)
    blocks = (grid.to_second(middles + np.nan_to_num(vectors)) - grid.to_second(middles)).reshape(held.blocks.shape)
    blocks[np.isnan(held.blocks)] = np.nan
    coarser = 1 / math.sqrt(grid.to_grid[0, 0] * grid.to_grid[1, 1])
    return HeldOut(
        held.points, held.rmse_px * grid.finer, held.ce90_px * grid.finer,
        held.rmse_px_image0 * coarser, held.ce90_px_image0 * coarser, blocks,
        grid.to_first(middles).reshape(blocks.shape),
    )  # fmt: skip
