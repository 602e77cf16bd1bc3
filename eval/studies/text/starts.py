"""Could meaning find what texture cannot? Land-cover maps vote for turn, scale and shift of pairs that were lost.

A vote is the correlation of two maps of words: image1's is turned and scaled to each of a grid of poses, slid over
image0's, and at every shift compared cell by cell over what both show. Words of the same ground should agree better
at the true pose than anywhere else, whatever the texture. Beside the words stand what could explain a success without
meaning (how bright the cells are), what chance gives (words that mean something else in image1, another place), and
what votes can do at all (image0 itself in the place of image1).

A pose counts as a start when it lies within 12 px of the truth in the middle of the overlap: the alignment comes home
from there. From within 24 px it sometimes does at half the size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from eval.benchmark.cache import cache_path, read_names, read_predictions
from eval.benchmark.pairs import LevelPairs
from eval.benchmark.protocol import Pair
from eval.benchmark.provenance import made_by, provenance
from eval.benchmark.score import score_prediction
from eval.report.markdown import grid
from kornia_tar import TARMatcher
from kornia_tar.conventions import CELL
from kornia_tar.files import write_text
from kornia_tar.geometry import FloatArray, decompose, transform_points
from kornia_tar.matching.landcover import read_landcover
from kornia_tar.network.msfl import standardise
from kornia_tar.network.tafe import brightness
from kornia_tar.raster import to_grey

LOST = 20.0  # px, mean corner error from which a pair counts as lost
TURNS = tuple(np.arange(0, 360, 15.0))  # degrees
SCALES = tuple(2 ** (k / 4) for k in range(-4, 5))
LEAST = 0.25  # of the cells of the smaller map that both must show
BEST = (1, 3, 10)  # votes of a pair that are looked at
LIMITS = (12.0, 24.0)  # px
APART = 2.5  # cells between two votes of a pose: neighbours of a peak are the same answer


@dataclass(frozen=True)
class Planes:
    """What one image says of its cells: (K, h, w) planes and where they show ground, (h, w) bool."""

    planes: Tensor
    valid: Tensor


def whiten(both: tuple[Planes, Planes], words: bool) -> tuple[Planes, Planes]:
    """Centre both images' planes at their common mean, divided by its root (words) or their spread; 0 where invalid."""
    seen = torch.cat([image.planes[:, image.valid] for image in both], 1)
    mean = seen.mean(1)[:, None, None]
    spread = mean.clamp_min(1e-3).sqrt() if words else seen.std(1)[:, None, None].clamp_min(1e-3)
    first, second = (Planes((image.planes - mean) / spread * image.valid, image.valid) for image in both)
    return first, second


def vote(first: Planes, second: Planes, most: int = max(BEST)) -> list[tuple[float, FloatArray]]:
    """Find the poses in which two images' planes agree best.

    Args:
        first: image0's, whitened.
        second: image1's.
        most: poses to return.

    Returns:
        scores, greatest first, and 3×3 matrices from image0's pixels to image1's. A score is the planes' correlation
        over the cells that both show, times the root of how many these are.
    """
    side = max(*first.valid.shape, *second.valid.shape)
    canvas = 4 * side  # room for the larger scale, and for sliding
    spectra0 = [_spectrum(part, canvas) for part in _parts(first)]
    least = LEAST * float(min(first.valid.sum(), second.valid.sum()))
    found: list[tuple[float, FloatArray]] = []
    for turn in TURNS:
        for scale in SCALES:
            linear = scale * _rotation(turn)
            moved, corner = _moved(second, linear, 2 * side)
            spectra1 = [_spectrum(part, canvas) for part in _parts(moved)]
            # At a shift d image0's cell x meets the moved map's cell x + d.
            score = _correlation(spectra0, spectra1, canvas, max(least * min(1.0, scale**-2), 16))
            best = score.flatten().topk(3)
            for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                shift = np.array([place % canvas, place // canvas], float)
                shift[shift >= canvas / 2] -= canvas
                matrix = np.eye(3)
                # Cells' centres: pixel = CELL·(cell + 1/2) - 1/2 in both images.
                matrix[:2, :2] = linear
                middle = CELL * 0.5 - 0.5
                matrix[:2, 2] = CELL * (linear @ (shift + corner)) + middle - linear @ np.full(2, middle)
                found.append((value, matrix))
    return _distinct(found, first.valid.shape, most)


def _rotation(degrees: float) -> FloatArray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def _parts(image: Planes) -> tuple[Tensor, Tensor, Tensor]:
    """What correlations are made of: planes, their energy, and ones where there is ground."""
    return image.planes, image.planes.square().sum(0, keepdim=True), image.valid[None].float()


def _spectrum(planes: Tensor, canvas: int) -> Tensor:
    return torch.fft.rfft2(planes, (canvas, canvas))


def _correlation(a: Sequence[Tensor], b: Sequence[Tensor], canvas: int, least: float) -> Tensor:
    """Correlate two images' planes at every shift over the cells that both show, each less its mean there.

    Args:
        a: spectra of :func:`_parts` of image0.
        b: likewise of image1's moved planes.
        canvas: side of the frame that was transformed.
        least: cells that both must show.

    Returns:
        (canvas, canvas) correlation times the root of the number of cells; minus infinity where they are too few.
    """

    def together(one: Tensor, other: Tensor) -> Tensor:
        return torch.fft.irfft2(one.conj() * other, (canvas, canvas))

    count = together(a[2], b[2])[0].clamp_min(1)
    sum0, sum1 = together(a[0], b[2]), together(a[2], b[0])
    product = torch.fft.irfft2((a[0].conj() * b[0]).sum(0), (canvas, canvas)) - (sum0 * sum1).sum(0) / count
    spread0 = together(a[1], b[2])[0] - sum0.square().sum(0) / count
    spread1 = together(a[2], b[1])[0] - sum1.square().sum(0) / count
    score = product / (spread0.clamp_min(1e-3) * spread1.clamp_min(1e-3)).sqrt() * count.sqrt()
    return torch.where(count < least, -torch.inf, score)


def _moved(image: Planes, linear: FloatArray, side: int) -> tuple[Planes, FloatArray]:
    """Show image1's planes in image0's turn and scale, side × side cells.

    Returns:
        the planes: cell ``y`` shows image1's cell ``linear @ (y + corner)``; and that corner.
    """
    height, width = image.valid.shape
    middle = np.linalg.solve(linear, np.array([(width - 1) / 2, (height - 1) / 2]))
    corner = np.round(middle - (side - 1) / 2)
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    places = (np.stack([columns, rows], -1) + corner) @ linear.T
    inside = torch.from_numpy((2 * places + 1) / np.array([width, height]) - 1).float()[None]
    stack = torch.cat([image.planes, image.valid[None].float()])[None]
    shown = F.grid_sample(stack, inside, align_corners=False)[0]
    valid = shown[-1] > 0.5
    return Planes(shown[:-1] * valid, valid), corner


def _distinct(found: list[tuple[float, FloatArray]], shape: Sequence[int], most: int) -> list[tuple[float, FloatArray]]:
    """Keep the best of those poses that put image0's middle and corners in about the same place."""
    height, width = shape
    marks = CELL * np.array([[0, 0], [width, 0], [0, height], [width, height], [width / 2, height / 2]])
    kept: list[tuple[float, FloatArray]] = []
    places: list[FloatArray] = []
    for value, matrix in sorted(found, key=lambda one: -one[0]):
        place = transform_points(matrix, marks)
        if np.isfinite(value) and all(np.abs(place - other).max() > APART * CELL for other in places):
            kept.append((value, matrix))
            places.append(place)
        if len(kept) == most:
            break
    return kept


def start_error(matrix: FloatArray, truth: FloatArray, shape0: Sequence[int], shape1: Sequence[int]) -> float:
    """How far a pose is off in the middle of what both images show by the truth, px of image1."""
    rows, columns = np.meshgrid(np.arange(4.0, shape0[0], 8), np.arange(4.0, shape0[1], 8), indexing="ij")
    points = np.stack([columns.ravel(), rows.ravel()], -1)
    there = transform_points(truth, points)
    inside = ((there >= 0) & (there < np.array(shape1[1::-1]))).all(1)
    middle = points[inside].mean(0, keepdims=True)
    return float(np.linalg.norm(transform_points(matrix, middle) - transform_points(truth, middle)))


def read_words(matcher: TARMatcher, pair: Pair) -> tuple[Planes, Planes]:
    """Read both images' land-cover maps."""
    return (
        read_side(matcher, pair.image0, False, pair.hints.get("modality0")),
        read_side(matcher, pair.image1, True, pair.hints.get("modality1")),
    )


def read_side(matcher: TARMatcher, image: NDArray[np.uint8], filled: bool, modality: str | None) -> Planes:
    """Read an image's land-cover map; ``filled``: zeros are no ground."""
    found = read_landcover(matcher, to_grey(image), _shown(image, filled), modality)
    return Planes(torch.from_numpy(found.probabilities), torch.from_numpy(found.valid))


def warped(pair: Pair) -> NDArray[np.uint8]:
    """Show image0 in the place of image1, so that texture and words are of one sensor: the control of the votes."""
    size = pair.image1.shape[1], pair.image1.shape[0]
    moved = cv2.warpPerspective(pair.image0, pair.truth, size, flags=cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(moved, np.uint8)


def read_brightness(pair: Pair) -> tuple[Planes, Planes]:
    """Read how bright both images' cells are, the planes that the land-cover head is given beside its features."""
    sides = []
    for image, filled in ((pair.image0, False), (pair.image1, True)):
        mask = torch.from_numpy(_shown(image, filled))[None, None].float()
        x = standardise(torch.from_numpy(to_grey(image))[None, None].float() / 255, mask)
        planes = brightness(x, mask)[0]
        sides.append(Planes(planes, F.avg_pool2d(mask, CELL)[0, 0] >= 0.5))
    return sides[0], sides[1]


def _shown(image: NDArray[np.uint8], filled: bool) -> NDArray[np.bool_]:
    """Where an image shows ground: a warped one was filled with zeros."""
    return to_grey(image) > 0 if filled else np.ones(image.shape[:2], bool)


@dataclass(frozen=True)
class Found:
    """What one kind of planes found: for each of N pairs the errors of its votes, px, best vote first."""

    lost: list[list[float]]
    found: list[list[float]]


KINDS = (
    "words",
    "words of image0 in the place of image1",
    "words, other names in image1",
    "words of another place in image1",
    "brightness, no words",
)  # fmt: skip


def choose(dataset: str, level: str, cache: Path, registrar: str = "tar_registrar") -> tuple[list[str], list[str]]:
    """Name the pairs that the Registrar lost, and as many that it found within 3 px, of the likest relative scales.

    Raises:
        FileNotFoundError: nothing is cached of the Registrar.
    """
    path = cache_path(cache, dataset, level, registrar)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no matches kept of the Registrar: do 'python -m eval run' first")
    names = sorted(read_names(path))
    errors, scales = {}, {}
    for name, known in zip(names, read_predictions(path, names), strict=True):
        errors[name] = score_prediction(known, "homography").corner_error
        scales[name] = np.log(decompose(known.truth, (known.shape0[1] / 2, known.shape0[0] / 2)).scale)
    lost = [name for name in names if errors[name] >= LOST]
    free = [name for name in names if errors[name] < 3]
    found = []
    for name in lost[: len(free)]:
        like = min(free, key=lambda other: abs(scales[other] - scales[name]))
        free.remove(like)
        found.append(like)
    return lost, found


def measure(
    matcher: TARMatcher, source: LevelPairs, lost: Sequence[str], found: Sequence[str], seed: int = 0,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, Found]:  # fmt: skip
    """Let every kind of planes vote on all pairs; ``seed`` shuffles the names."""
    order = torch.randperm(len(matcher.text_names), generator=torch.Generator().manual_seed(seed))
    names = [*lost, *found]
    words = {pair.name: read_words(matcher, pair) for pair in source.each(names)}
    errors: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for number, pair in enumerate(source.each(names)):
        first, second = words[pair.name]
        other = words[names[(number + len(names) // 2) % len(names)]][1]
        asked = {
            KINDS[0]: whiten((first, second), True),
            KINDS[1]: whiten((first, read_side(matcher, warped(pair), True, pair.hints.get("modality0"))), True),
            KINDS[2]: whiten((first, Planes(second.planes[order], second.valid)), True),
            KINDS[3]: whiten((first, other), True),
            KINDS[4]: whiten(read_brightness(pair), False),
        }
        for kind, planes in asked.items():
            votes = vote(*planes)
            shapes = pair.image0.shape, pair.image1.shape
            errors[kind].append([start_error(matrix, pair.truth, *shapes) for _, matrix in votes])
        tick(1)
    return {kind: Found(told[: len(lost)], told[len(lost) :]) for kind, told in errors.items()}


def rows(results: dict[str, Found]) -> list[list[str]]:
    """One row a kind: pairs with a start among the best votes, of those that were lost and of those that were found."""
    table = []
    for kind, told in results.items():
        for label, errors in (("lost", told.lost), ("found", told.found)):
            cells = [
                f"{sum(min(one[:best], default=np.inf) <= limit for one in errors)} of {len(errors)}"
                for limit in LIMITS
                for best in BEST
            ]
            table.append([kind, label, *cells])
    return table


def write(results: dict[str, Found], title: str, path: Path) -> Path:
    """Write the table as Markdown."""
    heads = ["what votes", "pairs", *(f"≤ {limit:g} px, best {best}" for limit in LIMITS for best in BEST)]
    lines = [
        "# Starts that words vote for", "", title, "",
        "A start counts in the middle of the overlap. Lost: 20 px off or more by the Registrar; found: within 3 px, of "
        f"the likest scales. {len(TURNS)} turns, {len(SCALES)} scales of {SCALES[0]:g} to {SCALES[-1]:g}, all shifts.",
        "", *grid(heads, rows(results), text=2), "", *made_by(provenance()),
    ]  # fmt: skip
    return write_text(path, "\n".join(lines) + "\n")
