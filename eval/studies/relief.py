"""What a field brings where the ground has relief, and what it costs where there is none.

Image1 is bent by a known smooth field, and registered by several models. A large scene shows real relief of its own,
which nobody measured, so it is asked in two ways: as it is, where the ground is what ``spline`` finds in it unbent; and
laid flat, image1 resampled by that answer, where the ground is the grid itself. Small pairs under a level's warps show
next to none: there a field can only do harm, until they are bent too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.benchmark.pairs import LevelPairs, subsample
from eval.benchmark.provenance import made_by, provenance
from eval.datasets import Dataset
from eval.report.markdown import grid
from kornia_tar import Registrar, RegistrarConfig, Registration, TARMatcher
from kornia_tar.files import write_text
from kornia_tar.geometry import Transform, warp_image
from kornia_tar.registration.config import RegistrationModel

Array = NDArray[np.float64]
PointMap = Callable[[Array], Array]
Register = Callable[[NDArray[np.uint8], NDArray[np.uint8], RegistrationModel], Registration]

MODELS: tuple[RegistrationModel, ...] = ("affine", "spline", "auto")
WAVES = 6  # of each component of a field
STEP = 16  # px between the points of the ground
NODES = 8.0  # px between those of a field


@dataclass(frozen=True)
class Answer:
    """One registration.

    Args:
        case: which images.
        asked: model.
        found: model.
        registered: whether it was accepted.
        rmse: px of image1 over the ground that both images show; inf where there is no transform.
        held_out: the RMSE that the registration states itself, of blocks that were not fitted; nan where it has none.
        seconds: of one CPU core.
    """

    case: str
    asked: str
    found: str
    registered: bool
    rmse: float
    held_out: float
    seconds: float


def draw_field(seed: int, size: tuple[int, int], amplitude: float, wavelengths: tuple[float, float]) -> PointMap:
    """Draw a smooth field over an image of ``size`` (H, W): plane waves, the largest shift ``amplitude`` px."""
    rng, shape = np.random.default_rng(seed), (WAVES, 2)
    length, (angle, phase) = rng.uniform(*wavelengths, shape), rng.uniform(0.0, 2 * np.pi, (2, *shape))
    height = rng.uniform(0.5, 1, shape)
    wave = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])  # (2, WAVES, 2)

    def waves(points: Array) -> Array:
        return np.asarray((height * np.sin(np.einsum("nd,dwc->nwc", points, wave) + phase)).sum(1))

    most = float(np.linalg.norm(waves(ground(size)), axis=1).max())
    return lambda points: waves(points) * (amplitude / most)


def ground(size: tuple[int, int]) -> Array:
    """(N, 2) px all over an image of ``size`` (H, W)."""
    y, x = np.mgrid[: size[0] : STEP, : size[1] : STEP]
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)


def bend(image: NDArray[np.uint8], field: PointMap) -> tuple[NDArray[np.uint8], Transform]:
    """Move what ``image`` shows at x to x + field(x); also that map."""
    size = image.shape[0], image.shape[1]
    way = Transform.of(lambda points: points + field(points), size, NODES)
    return warp_image(image, way.inverse(size), size, interpolation=cv2.INTER_CUBIC), way


def ask(
    register: Register, case: str, image0: NDArray[np.uint8], image1: NDArray[np.uint8], truth: PointMap,
    models: Sequence[RegistrationModel],
) -> Iterator[Answer]:  # fmt: skip
    """Register a pair by each model and measure it."""
    points = ground((image0.shape[0], image0.shape[1]))
    there = truth(points)
    seen = ((there >= 0) & (there <= np.array(image1.shape[1::-1]) - 1)).all(1)
    for model in models:
        started = time.process_time()
        found = register(image0, image1, model)
        seconds, rmse = time.process_time() - started, np.inf
        if found.transform is not None:
            rmse = float(np.sqrt(np.square(found.transform(points) - there)[seen].sum(1).mean()))
        held_out = found.held_out.rmse_px if found.held_out else np.nan
        yield Answer(case, model, found.model, found.registered, rmse, held_out, seconds)


def ask_scene(
    register: Register, image0: NDArray[np.uint8], image1: NDArray[np.uint8], amplitude: float, seeds: Sequence[int],
    wavelengths: tuple[float, float] = (300.0, 600.0),
) -> Iterator[Answer]:  # fmt: skip
    """Register a scene on one grid as it is, laid flat, and both bent."""
    size = image1.shape[0], image1.shape[1]
    own = register(image0, image1, "spline").transform
    if own is None:
        raise ValueError("the scene does not register: no cells agree on a pose")
    flat = warp_image(image1, own, (image0.shape[0], image0.shape[1]), interpolation=cv2.INTER_CUBIC)
    for name, picture, base in (("as it is", image1, own), ("laid flat", flat, Transform(np.eye(3)))):
        if picture is flat:  # where it is as it is, the answer is the truth
            yield from ask(register, name, image0, picture, base, MODELS)
        for seed in seeds:
            bent, way = bend(picture, draw_field(seed, size, amplitude, wavelengths))
            yield from ask(register, f"{name}, bent by {amplitude:g} px", image0, bent, after(base, way), MODELS)


def after(first: PointMap, second: PointMap) -> PointMap:
    """Apply two maps, one after the other."""
    return lambda points: second(first(points))


def ask_pairs(
    register: Register, dataset: Dataset, level: str, limit: int, amplitude: float,
    wavelengths: tuple[float, float] = (120.0, 240.0),
) -> Iterator[Answer]:  # fmt: skip
    """Register ``limit`` pairs of a set under a level's stored warps, as they are and bent."""
    source = LevelPairs.open(dataset, level)
    for seed, pair in enumerate(source.each(subsample(dataset.names, limit))):
        size = pair.image1.shape[0], pair.image1.shape[1]
        bent, way = bend(pair.image1, draw_field(seed, size, amplitude, wavelengths))
        name, matrix = f"{dataset.name}, {level}", Transform(pair.truth)
        models: tuple[RegistrationModel, ...] = ("affine", "auto")
        yield from ask(register, f"{name}, flat", pair.image0, pair.image1, matrix, models)
        yield from ask(register, f"{name}, bent by {amplitude:g} px", pair.image0, bent, after(matrix, way), models)


def registrar(matcher: TARMatcher) -> Register:
    """Register an optical with a SAR image by a model."""
    return lambda image0, image1, model: Registrar(matcher, RegistrarConfig(model=model))(image0, image1)


def rows(answers: Sequence[Answer]) -> list[list[str]]:
    """One row for each case and model asked for."""
    found = []
    for case, asked in dict.fromkeys((one.case, one.asked) for one in answers):
        own = [one for one in answers if (one.case, one.asked) == (case, asked)]
        rmse = np.array([one.rmse for one in own])
        names = [one.found for one in own]
        models = ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(sorted(names)))
        found.append(
            [case, asked, str(len(own)), models, str(sum(one.registered for one in own)), f"{np.median(rmse):.2f}",
             f"{rmse.max():.2f}", f"{np.nanmedian([one.held_out for one in own]):.2f}",
             f"{np.mean([one.seconds for one in own]):.1f}"]
        )  # fmt: skip
    return found


def worse(answers: Sequence[Answer]) -> list[float]:
    """By how many px ``auto`` is worse than ``affine`` on the same pictures; negative where it is better."""
    plain = [one.rmse for one in answers if one.asked == "affine"]
    return [one.rmse - other for one, other in zip((a for a in answers if a.asked == "auto"), plain, strict=True)]


def write(answers: Sequence[Answer], scene: str, path: Path) -> Path:
    """Write the table as Markdown."""
    heads = ("images", "model", "of", "found", "accepted", "RMSE, median", "most", "held out", "s")
    flat = [one for one in answers if one.case.endswith("flat")]
    difference = np.array(worse(flat))
    lines = [
        "# What a field brings where the ground has relief",
        "",
        "RMSE over the ground that both images show, px of image1; *held out*: the RMSE that the registration states "
        f'itself. Scene {scene} "as it is" has relief of its own, and no truth: the ground is what `spline` finds in '
        "it unbent, moved by the known field. Laid flat it is resampled by that answer, so that errors of the answer "
        "are not seen. Seconds of one CPU core.",
        "",
        *grid(heads, rows(answers)),
        "",
        f"Where nothing was bent ({len(difference)} pairs and scenes), RMSE of `auto` minus RMSE of `affine`: "
        f"mean {difference.mean():+.2f} px, most {difference.max():+.2f} px; worse by more than 0.1 px on "
        f"{int((difference > 0.1).sum())} of {len(difference)}.",
        "",
        *made_by(provenance()),
    ]
    return write_text(path, "\n".join(lines) + "\n")
