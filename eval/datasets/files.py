"""What the sets of plain files share: pairs by name, images to 8 bits, matrices and tie points from text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.datasets.base import Sample
from kornia_tar import raster

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_MAX_TEXT = 16 << 20


@dataclass(frozen=True)
class Files:
    """Where the parts of one pair lie."""

    optical: Path
    other: Path
    truth: Path | None = None
    tie_points: Path | None = None


class PairFiles:
    """A set of pairs in files, read one at a time; iterating yields ``Sample`` in the order of the names.

    Args:
        name: the set's name; made safe for file names.
        files: the pairs by name.
        modality: what the other images are.
        columns: of the tie points' CSV files: x0, y0, x1, y1.
    """

    def __init__(
        self,
        name: str,
        files: dict[str, Files],
        modality: str = "sar",
        columns: Sequence[str] = ("x0", "y0", "x1", "y1"),
    ) -> None:
        self.name = safe_name(name)
        self.names = sorted(files)
        self._files, self._modality, self._columns = files, modality, tuple(columns)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.names)

    def read(self, name: str) -> Sample:
        """Read one pair: optical (H, W) or (H, W, 3), other (H, W), both uint8, and the truth that stands beside."""
        files = self._files[name]
        return Sample(
            name,
            read_optical(files.optical),
            read_grey(files.other, self._modality),
            modality=self._modality,
            truth=None if files.truth is None else read_matrix(files.truth),
            tie_points=None if files.tie_points is None else read_tie_points(files.tie_points, self._columns),
        )


def safe_name(text: str) -> str:
    """Replace what a file name or a glob pattern cannot hold."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "set"


def images_in(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by stem; empty when there is no such folder."""
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGES}


def read_optical(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W) or (H, W, 3) uint8; more than 8 bits are stretched from the 2 to the 98 percentile."""
    image = _read(path)
    if image.pixels.ndim == 3 and image.pixels.shape[-1] >= 3:
        return image.pixels[..., :3] if image.pixels.dtype == np.uint8 else raster.to_rgb8(image)
    return _grey(image, "optical")


def read_grey(path: Path, modality: str) -> NDArray[np.uint8]:
    """Read an image as (H, W) uint8; more than 8 bits are stretched from the 2 to the 98 percentile, SAR in decibels.

    Decibels as in ``kornia_tar.raster.to_grey8``, so that a matcher is asked what its users ask it.
    """
    return _grey(_read(path), modality)


def _grey(image: raster.Raster, modality: str) -> NDArray[np.uint8]:
    if image.pixels.dtype != np.uint8:
        return raster.to_grey8(image, "sar" if modality == "sar" else "optical")
    if image.pixels.ndim == 2:
        return image.pixels
    bands = image.pixels[..., :3]
    return np.array(Image.fromarray(bands).convert("L")) if bands.shape[-1] == 3 else bands[..., 0]


def _read(path: Path) -> raster.Raster:
    try:
        return raster.read_image(path)
    except ImportError as error:  # rasterio is missing; the message says how to get it
        raise ValueError(str(error)) from error


def read_matrix(path: Path) -> NDArray[np.float64]:
    """Read six or nine numbers, row by row, as a (3, 3) matrix that maps optical to other."""
    try:
        values = np.array(_text(path).replace(",", " ").split(), dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: is not a matrix ({error}); give 2x3 or 3x3 numbers") from error
    if values.size not in (6, 9) or not np.isfinite(values).all():
        raise ValueError(f"{path}: is not a matrix: {values.size} numbers; give 2x3 or 3x3 finite numbers")
    matrix = np.eye(3)
    matrix.flat[: values.size] = values
    return matrix


def read_tie_points(path: Path, columns: Sequence[str]) -> NDArray[np.float64]:
    """Read the named columns x0, y0, x1, y1 of a CSV file with a header as (N, 4)."""
    rows = csv.DictReader(_text(path).lstrip("\ufeff").splitlines(), skipinitialspace=True)
    if missing := [column for column in columns if column not in (rows.fieldnames or ())]:
        raise ValueError(f"{path}: has no column {', '.join(missing)}; its header must name {', '.join(columns)}")
    try:
        points = np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: line {rows.line_num} is not four numbers ({error})") from error
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: holds tie points that are not finite; leave those lines out")
    return points.reshape(-1, 4)


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > _MAX_TEXT:
        raise ValueError(f"{path}: has {size} bytes, more than {_MAX_TEXT}; this cannot be a matrix or tie points")
    return path.read_text(encoding="utf-8")
