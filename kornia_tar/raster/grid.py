"""The grid of an image, its size and georeference, kept without pixels: what a transform leads from or to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kornia_tar.geometry import FloatArray
from kornia_tar.geometry.transform import PointMap
from kornia_tar.raster.georeference import Georeference, pixel_map
from kornia_tar.raster.image import GeoProfile, Raster

MAX_SIDE, MAX_GCPS = 2**24, 10**6  # of a file that is read
SLIVER = 1e-3  # px: a last row or column of less is none
SAME_SHAPE = 0.01  # up to which two images without georeferences are of one shape


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an image lie.

    Attributes:
        size: (H, W).
        profile: its georeference, or None.
    """

    size: tuple[int, int]
    profile: GeoProfile | None

    @classmethod
    def of(cls, raster: Raster) -> Grid:
        """Take an image's grid."""
        return cls(raster.size, raster.profile)

    @property
    def georeference(self) -> Georeference | None:
        """What tells where it lies; None where nothing does that can be used."""
        try:
            return None if self.profile is None else Georeference(self.profile, self.size)
        except ValueError:
            return None

    def to(self, other: Grid) -> PointMap:
        """Map pixels of this grid to those of another one of the same scene.

        By both georeferences; without them, or without one, as two pictures of the same extent.

        Raises:
            ValueError: two shapes that do not fit, and no georeferences that say how.
        """
        here, there = self.georeference, other.georeference
        if here is not None and there is not None:
            return pixel_map(here, there)
        ratio = np.array(other.size[::-1]) / self.size[::-1]
        if abs(ratio[0] / ratio[1] - 1) > SAME_SHAPE:
            raise ValueError(
                f"is {other.size[1]}x{other.size[0]} pixels, another shape than {self.size[1]}x{self.size[0]}, and "
                "without two georeferences nothing says how they lie on each other"
            )

        def scaled(points: ArrayLike) -> FloatArray:
            return (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * ratio - 0.5

        return scaled

    def with_resolution(self, resolution: float) -> Grid:
        """Cover the same ground from the same corner with pixels of another size.

        Args:
            resolution: sides of the pixels, above 0, in units of the reference system: metres of UTM, degrees of
                EPSG:4326.

        Raises:
            ValueError: too many pixels, or too few; or the grid is none of equal pixels, but of GCPs, RPCs, or nothing.
        """
        georeference = self.georeference
        if self.profile is None or georeference is None or georeference.kind != "transform":
            kind = "none that can be used" if georeference is None else f"one by {georeference.kind}"
            raise ValueError(f"a resolution needs a georeference with pixels of one size, and the grid has {kind}")
        t = self.profile.transform
        ratios = resolution / math.hypot(t.a, t.d), resolution / math.hypot(t.b, t.e)  # of x and y
        sides = [
            length / ratio if ratio > 0 else math.inf for length, ratio in zip(self.size[::-1], ratios, strict=True)
        ]
        if max(sides) > MAX_SIDE:
            pixels = f"{sides[0]:g}x{sides[1]:g} pixels of the grid, more than {MAX_SIDE} along a side"
            units = _units(georeference)
            raise ValueError(f"a resolution of {resolution:g} would make {pixels}: give a larger one; {units}")
        width, height = (math.ceil(side - SLIVER) for side in sides)
        if min(width, height) < 2:  # no map leads from a line
            whole = " x ".join(f"{side * resolution:.4g}" for side in sides)
            units = _units(georeference)
            raise ValueError(f"a resolution of {resolution:g} is not smaller than the whole grid, {whole}: {units}")
        x, y = ratios
        scaled = type(t)(t.a * x, t.b * y, t.c, t.d * x, t.e * y, t.f)
        return Grid((height, width), replace(self.profile, transform=scaled, gcps=(), rpcs=None))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; inverse of :meth:`from_dict`."""
        plain: dict[str, Any] = {"size": list(self.size)}
        profile = self.profile
        if profile is not None:
            from rasterio.crs import CRS

            plain["crs"] = None if profile.crs is None else CRS.from_user_input(profile.crs).to_wkt()
            plain["transform"] = None if profile.transform is None else list(profile.transform)[:6]
            plain["gcps"] = [[gcp.row, gcp.col, gcp.x, gcp.y, gcp.z] for gcp in profile.gcps]
            plain["rpcs"] = None if profile.rpcs is None else profile.rpcs.to_dict()
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Read what :meth:`to_dict` gives.

        Raises:
            ValueError: something is missing, not a number, or too large.
            ImportError: it has a georeference, and rasterio is absent.
        """
        try:
            height, width = (int(length) for length in values["size"])
            if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
                raise ValueError(f"its size is {width}x{height}")
            if "transform" not in values:
                return cls((height, width), None)
            from affine import Affine
            from rasterio.control import GroundControlPoint
            from rasterio.crs import CRS
            from rasterio.rpc import RPC

            gcps = values["gcps"]
            if len(gcps) > MAX_GCPS:
                raise ValueError(f"it has {len(gcps)} GCPs, more than {MAX_GCPS}")
            points = [GroundControlPoint(*map(float, gcp)) for gcp in gcps]
            crs, transform, rpcs = values["crs"], values["transform"], values["rpcs"]
            profile = GeoProfile(
                None if crs is None else CRS.from_wkt(crs),
                None if transform is None else Affine(*map(float, transform)),
                gcps=tuple(points), rpcs=None if rpcs is None else RPC(**rpcs),
            )  # fmt: skip
            return cls((height, width), profile)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:  # int() of what JSON calls Infinity
            raise ValueError(f"not the grid of an image: {type(error).__name__} {error}") from None


def _units(georeference: Georeference) -> str:
    """What a resolution counts in, in words."""
    epsg, unit = georeference.crs.to_epsg(), georeference.crs.units_factor[0]
    return f"it counts in units of {'the reference system' if epsg is None else f'EPSG:{epsg}'} ({unit})"
