"""What a file says of where its pixels lie: by an affine transform, by ground control points (GCPs), or by RPCs.

Convention:
    Points are pixels, centres at integers, x before y; the corner that GDAL counts from lies half a pixel up and left.
    Map coordinates are those of the georeference's own reference system, (easting, northing) or (longitude, latitude)
    in this order, whatever the system's official axes are. Metres are metres on the ground, not of a projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kornia_tar.files import one_line
from kornia_tar.geometry import FloatArray
from kornia_tar.raster.gdal import QUIET
from kornia_tar.raster.image import GeoProfile, Raster

LONLAT = "EPSG:4326"
SEMI_MAJOR, FLATTENING = 6_378_137.0, 1 / 298.257223563  # of the WGS 84 ellipsoid; metres
MAX_SPLINE_GCPS = 1000  # more would take seconds; a polynomial of order 2 is as close on so dense a grid
EARTH = (540.0, 90.0)  # degrees, the largest longitude and latitude; longitudes may be counted from -180 or from 0
HALF = 0.5  # px, from a pixel's corner to its centre


@dataclass(frozen=True)
class Georeference:
    """Pixels of one image ↔ map coordinates, longitude and latitude.

    GCPs are joined by a thin-plate spline, which meets every one of them: those of a Sentinel-1 product bend with the
    terrain between them, where a polynomial leaves pixels. RPCs are taken at their mean height.

    Attributes:
        profile: as it was read.
        size: (H, W) px.
        crs: rasterio CRS of the map coordinates.
        kind: "transform", "GCPs" or "RPCs".
    """

    profile: GeoProfile
    size: tuple[int, int]
    crs: Any = field(init=False)
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        from rasterio.crs import CRS

        kind = self.profile.kind
        if kind is None:
            raise ValueError("has no georeference")
        crs = LONLAT if kind == "RPCs" else self.profile.crs
        if crs is None:
            raise ValueError("has a georeference that names no coordinate reference system")
        if kind == "GCPs" and len(self.profile.gcps) < 3:
            raise ValueError(f"has {len(self.profile.gcps)} GCPs, fewer than the three that a georeference needs")
        if kind == "transform" and self.profile.transform.determinant == 0:
            raise ValueError("has a georeference in which pixels have no extent")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "crs", CRS.from_user_input(crs))
        if not (np.abs(self.to_lonlat([self.centre])[0]) <= EARTH).all():  # nan is not, either
            raise ValueError("has a georeference that leads to no longitude and latitude")

    @classmethod
    def of(cls, raster: Raster) -> Georeference:
        """Take an image's georeference.

        Raises:
            ValueError: it has none that can be used; the words go on after the image's name.
        """
        if raster.profile is None:
            raise ValueError("has no georeference")
        return cls(raster.profile, raster.size)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) px of the middle."""
        return (self.size[1] - 1) / 2, (self.size[0] - 1) / 2

    def to_map(self, points: ArrayLike) -> FloatArray:
        """Map pixels (N, 2) to map coordinates (N, 2); not finite where the georeference says nothing."""
        at = np.asarray(points, np.float64).reshape(-1, 2) + HALF
        return self._apply(lambda t: t.xy(at[:, 1], at[:, 0], offset="ul"), len(at))

    def from_map(self, coordinates: ArrayLike) -> FloatArray:
        """Map map coordinates (N, 2) to pixels (N, 2); not finite where the georeference says nothing."""
        at = np.asarray(coordinates, np.float64).reshape(-1, 2)
        known = np.asarray(np.isfinite(at).all(axis=1))
        safe = np.where(known[:, None], at, self.to_map([self.centre]))
        rows_columns = self._apply(lambda t: t.rowcol(safe[:, 0], safe[:, 1], op=np.positive), len(at))
        return np.where(known[:, None], rows_columns[:, ::-1] - HALF, np.nan)

    def to_lonlat(self, points: ArrayLike) -> FloatArray:
        """Map pixels (N, 2) to longitude and latitude (N, 2), WGS 84 degrees."""
        return reproject(self.to_map(points), self.crs, LONLAT)

    def ground_distance(self, at: tuple[float, float] | None = None) -> tuple[float, float]:
        """Metres between neighbouring pixels, along x and along y, at a pixel; without one, in the middle."""
        x, y = self.centre if at is None else at
        ends = self.to_lonlat([[x - HALF, y], [x + HALF, y], [x, y - HALF], [x, y + HALF]])
        along = np.linalg.norm(metres(ends[::2], ends[1::2]), axis=1)
        return float(along[0]), float(along[1])

    def spread_points(self, count: int = 33) -> FloatArray:
        """(P, 2) px: ``count`` × ``count`` points all over the image, its outer edges among them."""
        x, y = (np.linspace(-HALF, length - HALF, count) for length in self.size[::-1])
        x, y = np.meshgrid(x, y)
        return np.stack([x.ravel(), y.ravel()], 1)

    def _transformer(self) -> AbstractContextManager[Any]:
        from rasterio import transform

        if self.kind == "GCPs":
            spline = len(self.profile.gcps) <= MAX_SPLINE_GCPS
            return transform.GCPTransformer(list(self.profile.gcps), tps=spline)  # type: ignore[no-any-return]
        if self.kind == "RPCs":
            height = self.profile.rpcs.height_off
            return transform.RPCTransformer(self.profile.rpcs, rpc_height=height)  # type: ignore[no-any-return]
        return transform.AffineTransformer(self.profile.transform)  # type: ignore[no-any-return]

    def _apply(self, call: Callable[[Any], Any], count: int) -> FloatArray:
        """Ask rasterio; (N, 2), nan throughout where it cannot say."""
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError

        try:
            quiet = np.errstate(over="ignore", invalid="ignore")  # what lies beyond all numbers is not finite
            with QUIET, quiet, self._transformer() as transformer:  # it warns of what cannot be said, which is nan
                return np.stack([np.asarray(v, np.float64).reshape(-1) for v in call(transformer)], 1)
        except (RasterioError, CPLE_BaseError, ValueError) as error:  # GCPs on one line, RPCs without a solution
            if count and isinstance(error, ValueError) and not isinstance(error, RasterioError):
                raise ValueError(f"has a georeference that cannot be used ({one_line(error)})") from error
            return np.full((count, 2), np.nan)


def reproject(coordinates: ArrayLike, source: Any, target: Any) -> FloatArray:
    """Take map coordinates (N, 2) from one reference system to another; nan where that is not possible."""
    from rasterio.warp import transform

    at = np.asarray(coordinates, np.float64).reshape(-1, 2)
    known = np.isfinite(at).all(axis=1)
    out = np.full(at.shape, np.nan)
    if not known.any():
        return out
    try:
        out[known] = np.stack(transform(source, target, *at[known].T), 1)
    except Exception:  # rasterio tells of one bad point by an error of GDAL's own kind, and gives none of the others
        for row in np.flatnonzero(known):
            try:
                out[row] = np.concatenate(transform(source, target, *at[row : row + 1].T))
            except Exception:
                out[row] = np.nan
    out[~np.isfinite(out).all(axis=1)] = np.nan
    return out


def pixel_map(first: Georeference, second: Georeference) -> Callable[[ArrayLike], FloatArray]:
    """Give the map from ``first``'s pixels to ``second``'s that the two georeferences claim.

    Returns:
        a function of points (N, 2) px; nan where they say nothing.
    """
    middle = second.to_map([second.centre])[0, 0]

    def there(points: ArrayLike) -> FloatArray:
        coordinates = reproject(first.to_map(points), first.crs, second.crs)
        if second.crs.is_geographic:  # longitudes may be counted from -180 or from 0
            coordinates[:, 0] += 360 * np.round((middle - coordinates[:, 0]) / 360)
        return second.from_map(coordinates)

    return there


def metres(start: ArrayLike, end: ArrayLike) -> FloatArray:
    """Measure the way between points in longitude and latitude.

    Args:
        start: (N, 2) degrees.
        end: (N, 2) degrees, some kilometres from there at most.

    Returns:
        (N, 2) metres to the east and to the north, on the ellipsoid.
    """
    a, b = (np.asarray(v, np.float64).reshape(-1, 2) for v in (start, end))
    east = (b[:, 0] - a[:, 0] + 180) % 360 - 180
    latitude, squared = np.radians((a[:, 1] + b[:, 1]) / 2), FLATTENING * (2 - FLATTENING)
    w = 1 - squared * np.sin(latitude) ** 2
    across, along = SEMI_MAJOR / np.sqrt(w), SEMI_MAJOR * (1 - squared) / w**1.5  # radii of curvature
    return np.stack([np.radians(east) * across * np.cos(latitude), np.radians(b[:, 1] - a[:, 1]) * along], 1)


def mean_distance(pair: tuple[float, float]) -> float:
    """One ground sampling distance for the two of x and y: their geometric mean."""
    return math.sqrt(pair[0] * pair[1])
