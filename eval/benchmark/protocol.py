"""What every matcher is asked to solve: the levels, their stored warps, and the bytes a matcher sees.

A level says how far image1 is moved from image0. Its warps are drawn once, one matrix per pair name, and stored as JSON
under ``eval/warps/``; a run only reads them, so that nothing is random when matchers are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.benchmark.metrics import Model
from eval.datasets import Dataset, Sample
from kornia_tar.files import replacing
from kornia_tar.geometry import fit_least_squares
from kornia_tar.raster import percentile_stretch

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Border = Literal["fill", "crop", "none"]

SIZE = 256
WARPS = Path(__file__).parents[1] / "warps"
REAL = "real"  # the level of data sets that bring their own truth: nothing is warped


@dataclass(frozen=True)
class Level:
    """Ranges of the random warp; all draws are uniform, the scale on a log axis where ``log_scale`` says so.

    Args:
        rotation: largest rotation either way, degrees, about the image centre.
        scale: smallest and largest isotropic scale of image1 against image0.
        translation: largest shift either way and per axis, as a share of the image side.
        perspective: largest change of the projective denominator at the middle of an edge, either way and per axis.
        log_scale: draw the logarithm of the scale.
    """

    rotation: float
    scale: tuple[float, float]
    translation: float
    perspective: float = 0.0
    log_scale: bool = False

    def draw(self, rng: np.random.Generator, size: int = SIZE) -> Matrix:
        """Draw one matrix (3, 3) that maps image0 to image1, both ``size`` x ``size`` pixels."""
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        low, high = np.log(self.scale) if self.log_scale else self.scale
        scale = rng.uniform(low, high)
        scale = np.exp(scale) if self.log_scale else scale
        shift = rng.uniform(-self.translation, self.translation, 2) * size
        tilt = rng.uniform(-self.perspective, self.perspective, 2) / (size / 2)
        centre = (size - 1) / 2
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        similarity = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]])
        projective = np.array([[1, 0, 0], [0, 1, 0], [*tilt, 1]])
        matrix = translation(centre, centre) @ similarity @ projective @ translation(-centre, -centre)
        return np.asarray(matrix / matrix[2, 2], dtype=np.float64)

    @property
    def model(self) -> Model:
        """The model that the shared estimator fits: the simplest that can follow the warp."""
        return "homography" if self.perspective else "affine"

    def describe(self) -> str:
        """Say in one line what is drawn."""
        text = f"rotation +-{self.rotation:g} deg, scale {self.scale[0]:g} to {self.scale[1]:g}"
        text += " (log-uniform)" if self.log_scale else ""
        text += f", translation +-{self.translation:.0%} per axis"
        return text + (f", perspective +-{self.perspective:.0%} per axis" if self.perspective else "")


LEVELS = {
    # The paper's deformation (arXiv 2605.12064).
    "tar": Level(rotation=35, scale=(0.7, 1.3), translation=0.10),
    # Ours: any rotation, twice as far in scale and shift, and a mild tilt.
    "hard": Level(rotation=180, scale=(0.5, 2.0), translation=0.20, perspective=0.05, log_scale=True),
}


@dataclass(frozen=True)
class Pair:
    """One question to a matcher.

    Args:
        name: the sample's name.
        image0: optical image, (H0, W0) or (H0, W0, 3) uint8.
        image1: the other image, (H1, W1) uint8, warped unless the level is ``real``.
        truth: (3, 3) matrix that maps image0 to image1; least squares on the tie points where a set has only those.
        border: how image1 ends: ``crop`` (cut from a larger image), ``fill`` (zeros where nothing is there), ``none``.
        hints: ``modality0`` and ``modality1`` ("optical" | "sar"), each present only where it is one of the two.
        tie_points: (N, 4) x0, y0, x1, y1 px, points identified by hand in both images, or None.
    """

    name: str
    image0: Image
    image1: Image
    truth: Matrix
    border: Border
    hints: dict[str, str]
    tie_points: NDArray[np.float64] | None = None

    @property
    def digest(self) -> str:
        """Hash the question and its truth: answers kept from other images or truths must not be taken for it."""
        told = hashlib.sha256(repr((self.image0.shape, self.image1.shape, sorted(self.hints.items()))).encode())
        for part in (self.image0, self.image1, self.truth, self.tie_points):
            told.update(b"none" if part is None else np.ascontiguousarray(part).tobytes())
        return told.hexdigest()[:16]


def translation(x: float, y: float) -> Matrix:
    """Return the matrix (3, 3) that shifts by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def draw_warps(names: Iterable[str], level: str, seed: int) -> dict[str, Matrix]:
    """Draw one matrix per name; a name's matrix depends on seed, level and name alone, never on the other names."""
    warps = {}
    for name in sorted(names):
        digest = hashlib.sha256(f"{seed}/{level}/{name}".encode()).digest()
        matrix = find_level(level).draw(np.random.default_rng(int.from_bytes(digest[:16], "big")))
        # Short decimals keep the files small; the rounded matrix is the truth, so nothing is lost by it.
        warps[name] = np.array([float(f"{value:.7g}") for value in matrix.ravel()]).reshape(3, 3)
    return warps


def find_level(level: str) -> Level:
    """Return the level of that name, or raise ValueError."""
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is unknown: choose from {', '.join([*LEVELS, REAL])}")
    return LEVELS[level]


def warps_path(dataset: str, level: str, folder: Path = WARPS) -> Path:
    """Return where the warps of a set and level are stored."""
    return folder / f"{dataset}.{level}-level.json"


def write_warps(path: Path, dataset: str, level: str, seed: int, warps: dict[str, Matrix]) -> None:
    """Store warps as JSON, one pair per line, atomically."""
    head = {
        "set": dataset,
        "level": level,
        "seed": seed,
        "size": SIZE,
        "drawn": find_level(level).describe(),
        "by": "numpy default_rng(first 128 bits of sha256('{seed}/{level}/{name}')), eval/benchmark/protocol.py",
        "convention": "row-major 3x3, image0 -> image1, both size x size; pixel centres at integers, x before y",
    }
    rows = (f"    {json.dumps(name)}: {json.dumps(matrix.ravel().tolist())}" for name, matrix in warps.items())
    text = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "warps": {\n' + ",\n".join(rows) + "\n  }\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_warps(dataset: str, level: str, folder: Path = WARPS) -> dict[str, Matrix]:
    """Read the stored warps of a set.

    Raises:
        FileNotFoundError: when the set has none for this level.
        ValueError: when the file is not one of ours.
    """
    path = warps_path(dataset, level, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"no stored warps for set {dataset!r}, level {level!r} ({path.name}): draw them with 'python -m eval warps'"
        )
    try:
        stored = json.loads(path.read_text())
        warps = {name: np.array(row, dtype=np.float64).reshape(3, 3) for name, row in stored["warps"].items()}
        size = stored["size"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a file of stored warps ({error}): restore it from git") from error
    if size != SIZE:
        raise ValueError(f"{path.name} holds warps for {size} pixels, this protocol has {SIZE}: draw them again")
    return warps


def levels_for(dataset: Dataset, wanted: Sequence[str]) -> list[str]:
    """Return the levels a set is run at: ``real`` for one that brings its own truth, else those wanted."""
    first = dataset.read(dataset.names[0])
    return [REAL] if first.truth is not None or first.tie_points is not None else list(wanted)


def own_truth(sample: Sample) -> Matrix:
    """Return the matrix a sample brings, or the affine map that fits its tie points best.

    Raises:
        ValueError: when it brings neither.
    """
    if sample.truth is not None:
        return sample.truth
    ties = sample.tie_points
    matrix = None if ties is None else fit_least_squares(ties[:, :2], ties[:, 2:])
    if matrix is None:
        raise ValueError(f"{sample.name} brings no truth: level {REAL!r} needs it, choose a level with warps")
    return matrix


def make_pair(sample: Sample, warp: Matrix | None) -> Pair:
    """Turn a sample into the pair a matcher sees.

    With a warp, both sides are ``SIZE`` x ``SIZE``: image0 is the centre of the optical image, image1 is taken from the
    whole other image through the warp, so that a larger source is cropped and a smaller one is filled with zeros.
    Without a warp the sample's own images and truth are used.

    Raises:
        ValueError: when a warp is wanted of images that differ in size or are too small, or no truth is known.
    """
    # Stretched before it is warped: filled zeros must not move the percentiles.
    image0, image1 = percentile_stretch(sample.optical), percentile_stretch(sample.other)
    sides = (("modality0", "optical"), ("modality1", sample.modality))
    hints = {key: value for key, value in sides if value in ("optical", "sar")}
    if warp is None:
        return Pair(sample.name, image0, image1, own_truth(sample), "none", hints, sample.tie_points)
    height, width = image1.shape[:2]
    if image0.shape[:2] != (height, width) or min(height, width) < SIZE:
        raise ValueError(
            f"{sample.name}: images are {image0.shape[:2]} and {(height, width)}; warps need two of one size >= {SIZE}"
        )
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    matrix = warp @ translation(-left, -top)
    moved = cv2.warpPerspective(image1, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderValue=0)
    inside = cv2.warpPerspective(np.ones((height, width), np.uint8), matrix, (SIZE, SIZE), flags=cv2.INTER_NEAREST)
    centre = np.ascontiguousarray(image0[top : top + SIZE, left : left + SIZE])
    return Pair(sample.name, centre, np.asarray(moved, np.uint8), warp, "crop" if inside.all() else "fill", hints)
