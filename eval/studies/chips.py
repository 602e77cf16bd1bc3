"""Does the registrar find a chip without a georeference: an image that shows a small part of what the other shows?

Chips are cut from one image of a scene and registered with the other image whole; turned, and resampled where the
relative scale is not 1. Once with the scene's own other image, once with that of the next scene, which must be refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.benchmark.forms import Scene
from eval.benchmark.provenance import made_by, provenance
from eval.report.markdown import grid
from kornia_tar import Registrar
from kornia_tar.files import write_text
from kornia_tar.geometry import FloatArray, compose, corner_error, invert, warp_image
from kornia_tar.raster import to_grey

RIGHT = 10.0  # px of the chip, mean corner error; Sentinel-1 lies 3 to 7 px off in these scenes by itself


@dataclass(frozen=True)
class Kind:
    """How a chip is cut.

    Attributes:
        side: px of the chip.
        turn: degrees, by which it is turned.
        finer: px of the chip for one of the scene.
        whole: px, side of the other image's middle that it is registered with; None for all of it.
    """

    side: int
    turn: float = 0.0
    finer: float = 1.0
    whole: int | None = None

    def __str__(self) -> str:
        turned = f", turned {self.turn:g}°" if self.turn else ""
        scaled = f", pixels {1 / self.finer:.2g} times as large" if self.finer != 1 else ""
        return f"{self.side}²{turned}{scaled}" + (f", in {self.whole}²" if self.whole else "")


KINDS = (
    Kind(300), Kind(102), Kind(300, turn=25), Kind(300, turn=160, finer=0.75), Kind(512, finer=2.8, whole=512),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One registration of a chip."""

    kind: Kind
    chip: str  # which image it was cut from
    scenes: tuple[str, str]  # of the optical and of the SAR image
    error: float | None  # px of the chip, mean corner error; None for two places
    registered: bool
    probability: float
    seconds: float


def cut(image: NDArray[Any], kind: Kind, rng: np.random.Generator) -> tuple[NDArray[Any], FloatArray]:
    """Cut a chip at random, and return the matrix (3, 3) from its pixels to those of the other image's middle."""
    height, width = image.shape[:2]
    angle, half = np.deg2rad(kind.turn), (kind.side - 1) / 2
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / kind.finer
    reach = np.abs(linear).sum(axis=1) * (half + 1)
    whole = np.array([width, height]) if kind.whole is None else np.full(2, kind.whole)
    corner = (np.array([width, height]) - whole) // 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = corner + rng.uniform(reach, whole - 1 - reach) - linear @ [half, half]
    if kind.finer < 1:  # what is resampled to larger pixels is low-pass filtered first
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(kind.finer**-2 - 1))
    chip = warp_image(image, matrix, (kind.side, kind.side), interpolation=cv2.INTER_CUBIC)
    return chip, compose(matrix, np.array([[1.0, 0, -corner[0]], [0, 1, -corner[1]], [0, 0, 1]]))


def middle(image: NDArray[Any], side: int | None) -> NDArray[Any]:
    """Cut the middle of an image."""
    if side is None:
        return image
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def measure(
    registrar: Registrar, scenes: Sequence[Scene], kinds: Sequence[Kind], tick: Callable[[int], None]
) -> list[Outcome]:
    """Register one optical and one SAR chip of each kind and scene, with its own scene and with the next one."""
    found = []
    for number, scene in enumerate(scenes):
        other = scenes[(number + 1) % len(scenes)]
        for seed, kind in enumerate(kinds):
            for chip_of in ("optical", "SAR"):
                rng = np.random.default_rng([number, seed, chip_of == "SAR"])
                chip, matrix = cut(to_grey(scene.optical) if chip_of == "optical" else scene.sar, kind, rng)
                for there in (scene, other):
                    whole = middle(there.sar if chip_of == "optical" else to_grey(there.optical), kind.whole)
                    images = (chip, whole) if chip_of == "optical" else (whole, chip)
                    started = time.process_time()
                    got = registrar(*images, modality0="optical", modality1="sar")
                    seconds = time.process_time() - started
                    error = None
                    if there is scene:
                        error = np.inf
                        if got.matrix is not None:
                            to_whole = got.matrix if chip_of == "optical" else invert(got.matrix)
                            error = corner_error(to_whole, matrix, chip.shape) * kind.finer
                    names = (scene.name, there.name) if chip_of == "optical" else (there.name, scene.name)
                    found.append(Outcome(kind, chip_of, names, error, got.registered, got.probability, seconds))
                    tick(1)
    return found


def write(found: Sequence[Outcome], title: str, path: Path) -> Path:
    """Write the table as Markdown."""
    rows = []
    for kind in [*dict.fromkeys(one.kind for one in found), None]:
        here = [one for one in found if kind is None or one.kind == kind]
        true, places = [o for o in here if o.error is not None], [o for o in here if o.error is None]
        right = [o for o in true if o.error is not None and o.error < RIGHT]
        errors = [o.error for o in right if o.error is not None]
        rows.append([
            "all" if kind is None else str(kind), f"{len(right)} of {len(true)}",
            str(sum(o.registered for o in right)), str(sum(o.registered for o in true if o not in right)),
            f"{np.median(errors):.1f}" if errors else "–", f"{sum(o.registered for o in places)} of {len(places)}",
            f"{max((o.probability for o in places), default=float('nan')):.2f}",
            f"{np.median([o.seconds for o in true]):.0f}", f"{np.median([o.seconds for o in places]):.0f}",
        ])  # fmt: skip
    heads = (
        "chip", "found", "found and accepted", "wrong but accepted", "median px", "two places: accepted",
        "highest probability", "CPU s, true", "CPU s, two places",
    )  # fmt: skip
    lines = ["# Chips without a georeference", "", title, "", *grid(heads, rows), "", *made_by(provenance())]
    return write_text(path, "\n".join(lines) + "\n")
