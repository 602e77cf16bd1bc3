"""An image as it lies in its file: pixels, mask, georeference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

#: Largest number of pixels read without being told otherwise (argument, or KORNIA_TAR_MAX_PIXELS).
MAX_PIXELS = 2**28


TIFF_SUFFIXES = {".tif", ".tiff"}
#: Of names that are an image's, and no folder's.
IMAGE_SUFFIXES = TIFF_SUFFIXES | {
    ".png", ".jpg", ".jpeg", ".jp2", ".gif", ".bmp", ".webp", ".avif", ".vrt", ".img", ".bil", ".bsq", ".nc", ".hdf",
}  # fmt: skip


NEEDS_GEO = 'needs rasterio: pip install "kornia-tar[geo]"'


@dataclass(frozen=True)
class GeoProfile:
    """The georeference of a raster, as rasterio has it.

    Attributes:
        crs: rasterio CRS (or anything it takes for one) of the transform or the GCPs, or None.
        transform: affine.Affine, pixel corner (column, row) -> map; see the module's convention. None where GCPs or
            RPCs take its place.
        nodata: the value that marks missing pixels, or None.
        gcps: rasterio GroundControlPoints, whose rows and columns count from the first pixel's corner, too.
        rpcs: rasterio RPC, or None.
    """

    crs: Any
    transform: Any
    nodata: float | None = None
    gcps: tuple[Any, ...] = ()
    rpcs: Any = None

    @property
    def kind(self) -> str | None:
        """What tells where the pixels lie: "transform", "GCPs", "RPCs", or None."""
        if self.transform is not None and not self.transform.is_identity:
            return "transform"
        return "GCPs" if self.gcps else "RPCs" if self.rpcs is not None else None


@dataclass(frozen=True)
class Bands:
    """What a file says of its bands, one entry a band; alpha left out, a colour table expanded.

    Attributes:
        names: descriptions, or None.
        colours: names of ``rasterio.enums.ColorInterp``, such as "red", "gray" or "undefined".
        scales: of the values that the pixels stand for.
        offsets: likewise.
        units: of those values, or None.
        table: of one band of indices, which were left as they are, the colour (red, green, blue, alpha) of each.
    """

    names: tuple[str | None, ...]
    colours: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str | None, ...]
    table: Mapping[int, tuple[int, int, int, int]] | None = None


@dataclass(frozen=True)
class Raster:
    """An image as it lies in its file.

    Attributes:
        pixels: (H, W) or (H, W, C), dtype of the file (complex SAR: its magnitude), alpha removed.
        mask: (H, W) bool, True where every band holds data: not nodata, not transparent, finite.
        profile: georeference; None for a plain image.
        path: where it was read.
        bands: what a GeoTIFF or its kin says of its bands; None for a plain image.
        note: which georeference or nodata value was left aside, and why, in a line; or None.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    profile: GeoProfile | None
    path: Path
    bands: Bands | None = None
    note: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return cast(tuple[int, int], self.mask.shape)
