"""What common graphics do to a registration: a map layout's graticule, collar, labels, logo, legend on both pictures.

Each true pair of a set, and each pair of two places, half of the sorted set apart, is registered with one kind of
graphics at the same pixels of both images. A true pair must end right or refused, two places refused. Once as it is,
once with the registrar's masking of graphics switched off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from eval.benchmark.pairs import LevelPairs, subsample
from eval.benchmark.provenance import made_by, provenance
from eval.datasets import Dataset
from eval.report.markdown import grid
from kornia_tar import Registrar, RegistrarConfig, TARMatcher
from kornia_tar.files import write_text
from kornia_tar.geometry import corner_error
from kornia_tar.raster import percentile_stretch, to_grey

Grey = NDArray[np.uint8]

RIGHT = 10.0  # px of the mean corner error
JPEG = 80  # quality
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Outcome:
    """One registration of a pair with graphics on it."""

    kind: str
    masked: bool  # whether graphics were looked for
    error: float | None  # px, mean corner error; None for a pair of two places
    registered: bool
    seconds: float


def _lines(image: Grey, step: int, width: int, tone: int, slope: float = 0.0) -> None:
    side, kind = max(image.shape), cv2.LINE_AA if slope else cv2.LINE_8
    for at in range(step // 2, 2 * side, step):
        cv2.line(image, (at, 0), (int(at - side * slope), side), tone, width, kind)
        cv2.line(image, (0, at), (side, int(at + side * slope)), tone, width, kind)


def _write(image: Grey, text: str, at: tuple[int, int], size: float, tone: int, width: int = 1) -> None:
    cv2.putText(image, text, at, FONT, size, tone, width, cv2.LINE_AA)


def _collar(image: Grey, _: Generator) -> None:
    wide, (height, width) = round(0.08 * max(image.shape)), image.shape
    ground = image[wide:-wide, wide:-wide].copy()
    image[:] = 255
    image[wide:-wide, wide:-wide] = ground
    cv2.rectangle(image, (wide - 1, wide - 1), (width - wide, height - wide), 0, 1)
    for at in range(wide + 20, max(image.shape) - wide, 50):
        cv2.line(image, (at, wide - 5), (at, wide), 0, 1)
        cv2.line(image, (wide - 5, at), (wide, at), 0, 1)
        _write(image, str(4200 + at), (at - 14, wide - 7), 0.3, 0)
        _write(image, str(at), (1, at), 0.3, 0)


def _frame(image: Grey, rng: Generator) -> None:
    wide = round(rng.uniform(0.05, 0.1) * max(image.shape))
    ground = np.maximum(image[wide:-wide, wide:-wide], 1)
    image[:] = 0
    image[wide:-wide, wide:-wide] = ground


def _labels(image: Grey, rng: Generator) -> None:
    height, width = image.shape
    for k in range(7):
        at = int(rng.uniform(0, 0.7) * width), int(rng.uniform(0.08, 1) * height)
        text, size = "".join(rng.choice(list("ABEKLMNORSTaeinorst"), 8)), rng.uniform(0.35, 0.7)
        if k % 2:
            _write(image, text, at, size, 0, 3)
        _write(image, text, at, size, 0 if k % 3 == 0 else 255)


def _furniture(image: Grey, _: Generator) -> None:
    """Legend, scale bar, logo, north arrow."""
    at = lambda x, y: (int(x * image.shape[1] / 256), int(y * image.shape[0] / 256))  # noqa: E731
    cv2.rectangle(image, at(170, 190), at(246, 246), 255, -1)
    cv2.rectangle(image, at(170, 190), at(246, 246), 0, 1)
    for row, (tone, text) in enumerate(((60, "forest"), (120, "town"), (200, "water"))):
        cv2.rectangle(image, at(176, 196 + 16 * row), at(190, 206 + 16 * row), tone, -1)
        _write(image, text, at(194, 205 + 16 * row), 0.35, 0)
    for box in range(4):
        cv2.rectangle(image, at(12 + 20 * box, 238), at(32 + 20 * box, 243), 255 * (box % 2), -1)
    cv2.rectangle(image, at(12, 238), at(92, 243), 0, 1)
    _write(image, "2 km", at(12, 233), 0.4, 255)
    cv2.circle(image, at(32, 32), at(22, 22)[0], 255, -1)
    cv2.circle(image, at(32, 32), at(14, 14)[0], 90, -1)
    _write(image, "KT", at(22, 37), 0.5, 255, 2)
    cv2.arrowedLine(image, at(228, 50), at(228, 14), 255, 2)
    _write(image, "N", at(222, 64), 0.5, 255, 2)


def _sheet(image: Grey, rng: Generator) -> None:
    for draw in (KINDS["graticule, 1 px"], _labels, _furniture, _collar):
        draw(image, rng)


def _faint(draw: Callable[[Grey, Generator], None], opacity: float) -> Callable[[Grey, Generator], None]:
    def drawn(image: Grey, rng: Generator) -> None:
        full = image.copy()
        draw(full, rng)
        image[:] = np.rint((1 - opacity) * image + opacity * full.astype(np.float64))

    return drawn


KINDS: dict[str, Callable[[Grey, Generator], None]] = {
    "graticule, 1 px": lambda image, rng: _lines(image, int(rng.integers(40, 70)), 1, int(rng.choice([0, 255]))),
    "graticule, 2 px, black": lambda image, rng: _lines(image, int(rng.integers(40, 80)), 2, 0),
    "graticule, 3 px, grey": lambda image, rng: _lines(image, int(rng.integers(50, 90)), 3, 128),
    "graticule, yellow": lambda image, rng: _lines(image, int(rng.integers(40, 70)), 1, 226),
    "graticule, slanting": lambda image, rng: _lines(image, int(rng.integers(40, 70)), 1, 255, rng.uniform(0.05, 0.15)),
    "collar": _collar,
    "black frame": _frame,
    "labels": _labels,
    "logo, legend, scale bar, arrow": _furniture,
    "all of a sheet": _sheet,
    "labels, half transparent": _faint(_labels, 0.5),
    "logo and legend, a third transparent": _faint(_furniture, 0.65),
}


def draw(kind: str, image: Grey, seed: int, jpeg: bool) -> Grey:
    """Draw graphics of a kind on a copy of (H, W) ``image``, and stretch it; equal seeds draw equal ones."""
    drawn = image.copy()
    KINDS[kind](drawn, np.random.default_rng(seed))
    if jpeg:
        coded = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG])[1]
        drawn = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)
    return percentile_stretch(drawn)


def measure(
    matcher: TARMatcher, dataset: Dataset, level: str, kinds: Sequence[str], limit: int, tick: Callable[[int], None]
) -> list[Outcome]:
    """Register ``limit`` true pairs and as many of two places with each kind; every other is kept as JPEG."""
    source, names, found = LevelPairs.open(dataset, level), sorted(dataset.names), []
    registrars = [(masked, Registrar(matcher, RegistrarConfig(mask_graphics=masked))) for masked in (False, True)]
    for seed, name in enumerate(subsample(names, limit)):
        pair = source.pair(name)
        other = source.pair(names[(names.index(name) + len(names) // 2) % len(names)])
        for kind in kinds:
            for image1, truth in ((pair.image1, pair.truth), (other.image1, None)):
                images = [draw(kind, to_grey(image), seed, seed % 2 == 1) for image in (pair.image0, image1)]
                for masked, registrar in registrars:
                    started = time.process_time()
                    got = registrar(images[0], images[1], modality0="optical", modality1="sar")
                    seconds = time.process_time() - started
                    error = None
                    if truth is not None:
                        error = np.inf if got.matrix is None else corner_error(got.matrix, truth, images[0].shape)
                    found.append(Outcome(kind, masked, error, got.registered, seconds))
                    tick(1)
    return found


def write(found: list[Outcome], title: str, path: Path) -> Path:
    """Write the table as Markdown."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in found):
        for masked in (False, True):
            here = [one for one in found if one.kind == kind and one.masked == masked]
            true, places = [o for o in here if o.error is not None], [o for o in here if o.error is None]
            right = sum(o.registered and o.error is not None and o.error < RIGHT for o in true)
            refused = sum(not o.registered for o in true)
            rows.append(
                [kind, "yes" if masked else "no", str(right), str(refused), str(len(true) - right - refused),
                 f"{sum(o.registered for o in places)} of {len(places)}", f"{np.mean([o.seconds for o in here]):.1f}"]
            )  # fmt: skip
    heads = (
        "graphics on both images", "taken out", "true pairs: right", "refused", "wrong", "two places: registered",
        "CPU s a pair",
    )  # fmt: skip
    lines = ["# Registrations with common graphics", "", title, "", *grid(heads, rows, 2), "", *made_by(provenance())]
    return write_text(path, "\n".join(lines) + "\n")
