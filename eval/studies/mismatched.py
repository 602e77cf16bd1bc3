"""Does the registrar refuse crops of different places, of the size that scenes have?

Each pair is an optical crop of one place and a SAR crop of another, drawn at random from georeferenced scenes, both
north up: within one region fields and streets run alike, which is what misleads. No ground is shown by both. They come
without a georeference, or with one that lies: that of the SAR crop says that it shows the optical one's ground.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.benchmark.forms import CRS, GRID, Scene
from eval.benchmark.provenance import made_by, provenance
from eval.calibration.outcomes import Outcome, Outcomes
from eval.report.markdown import grid
from kornia_tar import Registrar, register_georeferenced
from kornia_tar.files import write_text
from kornia_tar.raster import Raster, to_grey
from kornia_tar.raster.image import GeoProfile

SIDES = (512, 1024)  # px
TRIES = 1000  # at a pair of places without common ground

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Crop:
    """A crop's corner (row, column) in a scene, and the ground that it shows: left, top, right, bottom."""

    scene: Scene
    row: int
    column: int
    ground: tuple[float, float, float, float]

    def of(self, image: Grey, side: int) -> Grey:
        """Cut it out of one of the scene's images."""
        return np.ascontiguousarray(image[self.row : self.row + side, self.column : self.column + side])

    def __str__(self) -> str:
        return f"{self.scene.name} {self.row},{self.column}"


def draw(scenes: Sequence[Scene], side: int, number: int) -> tuple[Crop, Crop]:
    """Draw crops of two places that show no common ground; equal numbers give equal crops.

    Raises:
        ValueError: no place is as large, or no two have been found.
    """
    rng = np.random.default_rng([side, number])
    large = [scene for scene in scenes if min(scene.sar.shape) >= side]
    room = np.array([np.prod(np.array(scene.sar.shape) / side) for scene in large])

    def crop() -> Crop:
        scene = large[rng.choice(len(large), p=room / room.sum())]
        row, column = (int(rng.integers(0, length - side + 1)) for length in scene.sar.shape)
        left, top = scene.transform.c + GRID * column, scene.transform.f - GRID * row
        return Crop(scene, row, column, (left, top, left + GRID * side, top - GRID * side))

    for _ in range(TRIES if large else 0):
        one, other = crop(), crop()
        a, b = one.ground, other.ground
        if a[2] <= b[0] or b[2] <= a[0] or a[3] >= b[1] or b[3] >= a[1]:
            return one, other
    raise ValueError(f"no two places of {side}² px without common ground")


def measure(
    registrar: Registrar, settings: str, scenes: Sequence[Scene], side: int, count: int, folder: Path,
    tick: Callable[[int], None], georeferenced: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Register ``count`` pairs of crops of ``side``² px; those that ``folder`` keeps are not registered again.

    ``georeferenced``: both with the georeference of the optical crop.
    """
    part = ".georeferenced" if georeferenced else ""
    kept = Outcomes(folder / "outcomes" / f"mismatched.{side}{part}.json", settings)
    return list(_outcomes(registrar, kept, scenes, side, count, tick, georeferenced))


def _outcomes(
    registrar: Registrar, kept: Outcomes, scenes: Sequence[Scene], side: int, count: int, tick: Callable[[int], None],
    georeferenced: bool,
) -> Iterator[Outcome]:  # fmt: skip
    for number in range(count):
        one, other = draw(scenes, side, number)
        images = to_grey(one.of(one.scene.optical, side)), other.of(other.scene.sar, side)
        digest = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()[:16]
        name = f"{one} and {other}"
        outcome = kept.get(name, digest)
        if outcome is None:
            started = time.process_time()
            if georeferenced:
                first, second = (_told(image, one) for image in images)
                found, _ = register_georeferenced(registrar, first, second, *images)
            else:
                found = registrar(*images, modality0="optical", modality1="sar")
            outcome = Outcome.of(name, found, None, time.process_time() - started, digest)
            kept.add(outcome)
        tick(1)
        yield outcome


def _told(image: Grey, crop: Crop) -> Raster:
    """An image whose georeference says that it shows a crop's ground."""
    from rasterio.transform import from_origin

    profile = GeoProfile(CRS, from_origin(*crop.ground[:2], GRID, GRID))
    return Raster(image, np.ones(image.shape, bool), profile, Path(str(crop)))


def write(found: dict[int, list[Outcome]], title: str, path: Path) -> Path:
    """Write the table as Markdown."""
    rows = [
        [
            f"{side}²", str(len(here)), str(sum(one.registered for one in here)),
            f"{max((one.probability for one in here), default=float('nan')):.2f}",
            *(f"{np.percentile([one.seconds for one in here], q):.0f}" for q in (50, 95)),
        ]
        for side, here in found.items()
    ]  # fmt: skip
    heads = ("crops", "pairs", "accepted", "highest probability", "CPU s, median", "CPU s, 95 %")
    lines = ["# Crops of different places", "", title, "", *grid(heads, rows), "", *made_by(provenance())]
    return write_text(path, "\n".join(lines) + "\n")
