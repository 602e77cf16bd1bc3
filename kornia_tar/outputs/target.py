"""Target: the grid that image1 is written on, and how its pixels are brought there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kornia_tar.geometry import FloatArray, Transform
from kornia_tar.geometry.transform import PointMap
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.read import pixel_limit
from kornia_tar.raster.resample import smooth_transform

Resampling = Literal["nearest", "bilinear", "cubic"]
GridChoice = Literal["reference", "source"]


@dataclass(frozen=True)
class Target:
    """Where and how image1, or another file of its product, is written.

    Attributes:
        resampling: "nearest" mixes nothing, else what is finer than the grid is averaged over areas first.
        grid: "reference" for image0's; "source" for the file's own, on which its content is moved to where image0's
            georeference says that it lies.
        resolution: sides of the pixels, in units of the grid's reference system; None for those that the grid has.
    """

    resampling: Resampling = "bilinear"
    grid: GridChoice = "reference"
    resolution: float | None = None

    def chosen(self, reference: Grid, source: Grid) -> Grid:
        """Return the grid.

        Args:
            reference: image0's.
            source: the file's.

        Raises:
            ValueError: a choice that needs a georeference which is not there, or a grid of too many pixels.
        """
        if self.grid == "source" and (reference.georeference is None or source.georeference is None):
            raise ValueError("--grid source needs a georeference in both images; leave it out for image0's grid")
        grid = reference if self.grid == "reference" else source
        if self.resolution is not None:
            grid = grid.with_resolution(self.resolution)
        if grid.size[0] * grid.size[1] > (limit := pixel_limit()):
            size = f"{grid.size[1]}x{grid.size[0]}"
            raise ValueError(f"the result would have {size} pixels; raise KORNIA_TAR_MAX_PIXELS from {limit}")
        return grid

    def reached(
        self, transform: Transform, reference: Grid, source: Grid, onward: PointMap | None = None
    ) -> tuple[Grid, Transform]:
        """Return the grid, and the map from its pixels to the file's.

        Args:
            transform: image0 → image1.
            reference: image0's grid.
            source: the file's.
            onward: image1's pixels → the file's; None where the file is image1.

        Raises:
            ValueError: as :meth:`chosen`; or one of the maps is not finite all over the grid.
        """
        grid = self.chosen(reference, source)
        if onward is None and grid is reference:
            return grid, transform
        first = None if grid is reference else grid.to(reference)
        spacing = math.inf if transform.field is None else min(transform.field.spacing)

        def way(points: FloatArray) -> FloatArray:
            there = transform(points if first is None else first(points))
            return there if onward is None else onward(there)

        return grid, smooth_transform(way, grid.size, spacing)
