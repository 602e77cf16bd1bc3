"""Images and GeoTIFFs: in from disk and out to it, stretched, and on their way to the matcher.

Convention:
    Pixel centres lie at integers, x before y, origin top-left. A GeoTIFF's ``transform`` counts from the corner
    of the first pixel, as GDAL does: the centre of pixel (x, y) lies at ``transform * (x + 0.5, y + 0.5)``.
"""

from kornia_tar.raster.georeference import Georeference, pixel_map
from kornia_tar.raster.image import MAX_PIXELS, Bands, GeoProfile, Raster
from kornia_tar.raster.nodata import suspected_fill
from kornia_tar.raster.read import read_image, remarks, source_files
from kornia_tar.raster.stretch import percentile_stretch, to_grey, to_grey8, to_rgb8, told_modality
from kornia_tar.raster.write import write_image

__all__ = [
    "MAX_PIXELS", "Bands", "GeoProfile", "Georeference", "Raster", "percentile_stretch", "pixel_map", "read_image",
    "remarks", "source_files", "suspected_fill", "to_grey", "to_grey8", "to_rgb8", "told_modality", "write_image",
]  # fmt: skip
