"""AROSICS (Scheffler et al., Remote Sensing 2017): shifts by phase correlation in windows, on a grid."""

from __future__ import annotations

import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from typing import Any

import numpy as np
import torch

from eval.peers.base import Image, Matches
from eval.peers.classical import _grid as grid
from eval.peers.store import Store, need
from kornia_tar.raster import to_grey

INSTALL = (
    "in an environment of its own, because it needs GDAL and an older NumPy: apt install python3-gdal, then"
    " /usr/bin/python3 -m venv --system-site-packages and pip install -c constraints.txt 'numpy<2' 'gdal==3.6.2'"
    " 'setuptools<80' 'scikit-image<0.23' arosics==1.9.1"
)
GRID, WINDOW, GLOBAL_WINDOW, MAX_SHIFT = 16, 96, 192, 40
PLACE = (500_000.0, 1.0, 0.0, 4_000_000.0, 0.0, -1.0)  # one metre a pixel, somewhere in a UTM zone
ZONE = 32632


class Arosics:
    """Local shifts on a grid that pass AROSICS' checks of reliability and likeness; its global shift where none do.

    Its own RANSAC is not asked for: all are judged by the shared estimator. Fewer than three points are none.
    Both images are told to lie upon one another at one metre a pixel, so it starts from no movement. Apache-2.0.
    """

    name = "AROSICS"
    parameters = 0
    one_transform = True  # the mean reliability tells turns apart, not the number of points

    def __init__(self) -> None:
        try:
            from arosics import COREG, COREG_LOCAL
            from geoarray import GeoArray
            from osgeo import osr
        except ImportError as error:
            raise need(f"arosics and GDAL ({error})", INSTALL) from error
        self._global, self._local, self._array = COREG, COREG_LOCAL, GeoArray
        osr.UseExceptions()
        system = osr.SpatialReference()
        system.ImportFromEPSG(ZONE)
        self._projection = system.ExportToWkt()
        self.settings = (
            f"arosics {version('arosics')}, local grid {GRID} px, windows {WINDOW} px, else global window"
            f" {GLOBAL_WINDOW} px, at most {MAX_SHIFT} px"
        )

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is AROSICS' reliability as a share, and for a global shift 0 for all."""
        arrays = [self._array(_grey(image), PLACE, self._projection) for image in (image0, image1)]
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it talks of every window
            found = self._tie_points(arrays)
            if found is not None:
                return found.on_images(image0, image1)
            shift = self._shift(arrays)
        if shift is None:
            return grid.none()
        # The whole image's one shift is its fallback: in a rotation search a turn with local points is the better one.
        return grid.matches(np.column_stack([np.eye(2), shift]), 0.0, image0, image1)

    def _tie_points(self, arrays: list[Any]) -> Matches | None:
        try:
            table = self._local(
                *arrays, grid_res=GRID, window_size=(WINDOW, WINDOW), max_shift=MAX_SHIFT, tieP_filter_level=2,
                progress=False, q=True, CPUs=torch.get_num_threads(),
                footprint_poly_ref=_outline(arrays[0]), footprint_poly_tgt=_outline(arrays[1]),
            ).CoRegPoints_table  # fmt: skip
        except Exception:  # it fails in its own many ways where no window correlates
            return None
        if "ABS_SHIFT" not in table:
            return None
        table = table[(table.ABS_SHIFT >= 0) & (table.OUTLIER == False)]  # noqa: E712 - a column, and -9999 is no shift
        if len(table) < 3:
            return None
        points0 = table[["X_IM", "Y_IM"]].to_numpy(np.float32)
        # Its shifts move image1 onto image0.
        points1 = points0 - table[["X_SHIFT_PX", "Y_SHIFT_PX"]].to_numpy(np.float32)
        return Matches(points0, points1, (table.RELIABILITY.to_numpy(np.float32) / 100).clip(0, 1))

    def _shift(self, arrays: list[Any]) -> np.ndarray | None:
        try:
            found = self._global(
                *arrays, ws=(GLOBAL_WINDOW, GLOBAL_WINDOW), max_shift=MAX_SHIFT, progress=False, q=True, CPUs=1,
                footprint_poly_ref=_outline(arrays[0]), footprint_poly_tgt=_outline(arrays[1]),
            )  # fmt: skip
            found.calculate_spatial_shifts()
        except Exception:
            return None
        if not found.success:
            return None
        return -np.array([found.x_shift_px, found.y_shift_px], float)


def _outline(array: Any) -> str:
    """Return the whole image as its footprint, in map coordinates; AROSICS would else look for nodata."""
    left, top = PLACE[0], PLACE[3]
    right, bottom = left + array.shape[1], top - array.shape[0]
    return f"POLYGON(({left} {top},{right} {top},{right} {bottom},{left} {bottom},{left} {top}))"


def _grey(image: Image) -> np.ndarray:
    return np.ascontiguousarray(to_grey(image))


def create(store: Store) -> Arosics:
    """Build it; it needs no weights."""
    return Arosics()
