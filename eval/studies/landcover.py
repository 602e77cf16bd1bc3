"""Is the land-cover map true? Its dominant word against scenes whose class their own data set names.

**Rule**, fixed before any result was looked at: an image's score for a word is the mean probability of the word over
the image's cells. Of the words that stand for one of the set's classes the highest decides, and the class it stands for
is the answer. "Prior-corrected" subtracts from each word's log score its mean over all images of the row: no label is
needed for that, but the whole set is. What the answers are held against: classes drawn evenly, the largest class
always, the same answers dealt out to the images at random, and the text's names shuffled.

The words are those of WHU-RS19, which the shipped weights read. Neither set is independent of their training: two
thirds of RSSCN7's optical images taught the words of their classes (``kornia_tar.training.data.SCENES``), and only the
others, which it saw without a name, are asked here; SEN1-2's training folders taught theirs, and its validation images
may share scenes with the training's.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from eval.benchmark.pairs import subsample
from eval.benchmark.provenance import provenance
from eval.datasets.files import safe_name
from eval.datasets.webdataset import load_image
from eval.report.markdown import grid
from kornia_tar.files import write_json, write_text
from kornia_tar.matching.landcover import LandCoverMap, read_landcover
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.raster import Raster, to_grey8
from kornia_tar.training.data import label_held_out

SHUFFLES = 1000
Modality = Literal["optical", "sar"]
MODALITIES: tuple[Modality, ...] = ("optical", "sar")
_IMAGE = re.compile(r"(?P<name>[^/\\]+?)\.(?P<modality>optical|sar)\.(?:webp|png|jpe?g)")


@dataclass(frozen=True)
class Label:
    """One class of a set.

    Args:
        name: what we call it.
        mark: how the part of a member's name behind the source, ``__``, begins.
        words: those of the text that stand for it.
    """

    name: str
    mark: str
    words: tuple[str, ...]


RSSCN7 = (
    Label("grass", "aGrass", ("meadow", "park")),
    Label("field", "bField", ("farmland",)),
    Label("industry", "cIndustry", ("industrial",)),
    Label("river/lake", "dRiverLake", ("river", "pond")),
    Label("forest", "eForest", ("forest",)),
    Label("residential", "fResident", ("residential",)),
    Label("parking", "gParking", ("parking",)),
)
SEN12 = (
    Label("agriculture", "agriculture", ("farmland",)),
    Label("forest", "forest", ("forest",)),
    Label("gorge", "gorge", ("mountain",)),
    Label("residential", "resident", ("residential",)),
    Label("river", "river", ("river",)),
)
SETS = {"rsscn7": RSSCN7, "sen12": SEN12}  # by how a member's name begins


@dataclass(frozen=True)
class Scenes:
    """What the map says of N images of one modality, and what they show.

    Args:
        modality: "optical" or "sar".
        labels: the classes.
        names: N members' names.
        truth: (N,) index of the class.
        text: the text's K words.
        scores: (N, K) mean probability of each word.
        dominant: (N, h, w) index of each cell's most probable word.
    """

    modality: str
    labels: tuple[Label, ...]
    names: list[str]
    truth: NDArray[np.intp]
    text: tuple[str, ...]
    scores: NDArray[np.float64]
    dominant: NDArray[np.intp]


@dataclass(frozen=True)
class Sameness:
    """Share of cells with the same word in two maps, laid on each other cell by cell.

    A map of what is on the ground has it in two images of one place and not in those of two places; a map of where a
    cell lies in the frame has it in both.

    Args:
        one_place: in the optical and the SAR image of one place; None without SAR images.
        two_places: in the images of two places, half of the sorted set apart, of the first modality.
        chance: what those maps' shares alone would give.
    """

    one_place: float | None
    two_places: float
    chance: float


@dataclass(frozen=True)
class Row:
    """How often the dominant word is true.

    Args:
        modality: of the images.
        corrected: whether each word's mean log score was subtracted.
        images: N.
        right: share of right answers.
        error: its standard error.
        balanced: mean over the classes of the share of right answers among their images.
        even: what classes drawn evenly would give.
        largest: what always answering the largest class would give.
        dealt: what the same answers would give, dealt out at random.
        shuffled: mean share of right answers over ``SHUFFLES`` shuffles of the text's names.
        shuffled_95: what 95 % of the shuffles stay below.
        confusion: per true class the number of answers of each class.
    """

    modality: str
    corrected: bool
    images: int
    right: float
    error: float
    balanced: float
    even: float
    largest: float
    dealt: float
    shuffled: float
    shuffled_95: float
    confusion: dict[str, dict[str, int]]


def measure(
    path: Path, matcher: TARMatcher, limit: int | None = None, progress: Callable[[Sequence[str]], Sequence[str]] = list
) -> tuple[list[Row], Sameness]:
    """Two rows, plain and prior-corrected, for each modality of a tar of labelled images, and the maps' sameness.

    Args:
        path: a WebDataset tar with ``<name>.optical.webp``, ``<name>.sar.webp`` or both; images of other sets than
            ``SETS`` are passed over.
        matcher: whose map it is.
        limit: at most so many images of each modality, spread evenly over the sorted names and so over the classes.
        progress: wraps the names of one modality's images, such as ``tqdm``.

    Raises:
        ValueError: no readable tar, no image of a known class, images of several sets, or a text that lacks a word.
    """
    scenes = read_scenes(path, matcher, limit, progress)
    return [score(part, corrected) for part in scenes for corrected in (False, True)], compare(scenes)


def read_scenes(
    path: Path, matcher: TARMatcher, limit: int | None = None, progress: Callable[[Sequence[str]], Sequence[str]] = list
) -> list[Scenes]:
    """Read the map of every labelled image of a tar; args and errors as in :func:`measure`."""
    try:
        with tarfile.open(path, "r:") as tar:
            labels, found = _labelled(path, tar)
            if lacking := [word for label in labels for word in label.words if word not in matcher.text_names]:
                raise ValueError(f"the weights' text has no {lacking[0]!r}: it has {', '.join(matcher.text_names)}")
            scenes = []
            for modality in MODALITIES:
                members = found.get(modality, {})
                if not members:
                    continue
                names = subsample(list(members), limit)
                covers = [read_cover(path, tar, members[name][0], modality, matcher) for name in progress(names)]
                if len({cover.valid.shape for cover in covers}) > 1:
                    raise ValueError(f"{path}: holds images of several sizes; need one")
                truth = np.array([members[name][1] for name in names])
                scores, dominant = np.stack([c.mean for c in covers]), np.stack([c.dominant for c in covers])
                scenes.append(Scenes(modality, labels, names, truth, matcher.text_names, scores, dominant))
            return scenes
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a readable tar ({error})") from error


def decide(
    scores: NDArray[np.float64], text: Sequence[str], labels: Sequence[Label], corrected: bool
) -> NDArray[np.intp]:
    """(N, K) scores of the text's words → (N,) index of the class whose word is the highest."""
    if corrected:
        log = np.log(np.maximum(scores, 1e-12))
        scores = log - log.mean(axis=0)
    best = [scores[:, [text.index(word) for word in label.words]].max(axis=1) for label in labels]
    return np.stack(best).argmax(axis=0)


def score(scenes: Scenes, corrected: bool, seed: int = 0) -> Row:
    """Hold a row's answers against the truth and against chance."""
    labels, truth, count = scenes.labels, scenes.truth, len(scenes.truth)
    answers = decide(scenes.scores, scenes.text, labels, corrected)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, answers), 1)
    asked, given = confusion.sum(axis=1), confusion.sum(axis=0)
    rng = np.random.default_rng(seed)
    shuffled = [
        float((decide(scenes.scores, rng.permutation(scenes.text).tolist(), labels, corrected) == truth).mean())
        for _ in range(SHUFFLES)
    ]
    right = float((answers == truth).mean())
    names = [label.name for label in labels]
    return Row(
        scenes.modality, corrected, count, right, float(np.sqrt(right * (1 - right) / count)),
        balanced=float((confusion.diagonal()[asked > 0] / asked[asked > 0]).mean()),
        even=1 / len(labels), largest=float(asked.max() / count), dealt=float(asked @ given) / count**2,
        shuffled=float(np.mean(shuffled)), shuffled_95=float(np.quantile(shuffled, 0.95)),
        confusion={a: {b: int(n) for b, n in zip(names, row, strict=True)}
                   for a, row in zip(names, confusion, strict=True)},
    )  # fmt: skip


def compare(scenes: Sequence[Scenes]) -> Sameness:
    """Lay the maps of one place, and those of two places, on each other."""
    names, valid = scenes[0].names, scenes[0].dominant[0] >= 0
    maps = [part.dominant[:, valid] for part in scenes if part.dominant.shape == scenes[0].dominant.shape]  # (N, n)
    paired = len(maps) == 2 and scenes[1].names == names
    other = np.roll(maps[0], len(names) // 2, axis=0)
    shares = np.stack([np.bincount(m, minlength=len(scenes[0].text)) / len(m) for m in maps[0]])
    return Sameness(
        one_place=float((maps[0] == maps[1]).mean()) if paired else None,
        two_places=float((maps[0] == other).mean()),
        chance=float((shares * np.roll(shares, len(names) // 2, axis=0)).sum(axis=1).mean()),
    )


def write(folder: Path, path: Path, rows: Sequence[Row], same: Sameness) -> Path:
    """Write ``<set>.landcover.json`` and ``.md``; returns the latter's path."""
    stem, made = f"{safe_name(path.stem)}.landcover", provenance()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stem}.json", {"rows": [asdict(row) for row in rows], "cells": asdict(same), "made": made})
    lines = [
        f"## Is the land-cover map true? {path.stem}", "",
        "The class whose word has the highest mean probability in the image, in percent of the images; rule, words and "
        "what the training saw of these images: `eval/studies/landcover.py`. Even, largest, dealt: drawn evenly, the "
        f"largest class always, the same answers dealt out at random. Shuffled: mean and 95 % quantile of {SHUFFLES} "
        "shuffles of the text's names.", "",
        *grid(
            ("images", "score", "n", "right", "±", "balanced", "even", "largest", "dealt", "shuffled",
             "shuffled, 95 %"),
            ([row.modality, _kind(row), str(row.images), *(f"{100 * share:.1f}" for share in (
                row.right, row.error, row.balanced, row.even, row.largest, row.dealt, row.shuffled, row.shuffled_95))]
             for row in rows), text=2),
    ]  # fmt: skip
    one = "" if same.one_place is None else f"in the two images of one place {100 * same.one_place:.1f} %, "
    other = f"in the images of two places {100 * same.two_places:.1f} %, by chance {100 * same.chance:.1f} %."
    lines += ["", f"Cells with the same word: {one}{other}"]
    for row in rows:
        lines += ["", f"{row.modality}, {_kind(row)}: the truth in rows, the answers in columns", ""]
        lines += grid(["", *row.confusion], ([true, *map(str, n.values())] for true, n in row.confusion.items()))
    return write_text(folder / f"{stem}.md", "\n".join(lines) + "\n")


def _labelled(
    path: Path, tar: tarfile.TarFile
) -> tuple[tuple[Label, ...], dict[str, dict[str, tuple[tarfile.TarInfo, int]]]]:
    """The set's classes, and per modality and name the member and the index of its class."""
    found: dict[str, dict[str, tuple[tarfile.TarInfo, int]]] = {}
    sets = set()
    for member in tar:
        match = _IMAGE.fullmatch(Path(member.name).name)
        if match is None or not member.isfile():
            continue
        kind = next((kind for kind in SETS if match["name"].startswith(kind)), None)
        rest = match["name"].partition("__")[2]
        index = next((k for k, label in enumerate(SETS.get(kind or "", ())) if rest.startswith(f"{label.mark}_")), None)
        taught = kind == "rsscn7" and not label_held_out(match["name"])
        if kind is not None and index is not None and not taught:
            sets.add(kind)
            found.setdefault(match["modality"], {})[match["name"]] = member, index
    if len(sets) != 1:
        told = f"images of {' and '.join(sorted(sets))}" if sets else "no image whose name tells a class"
        raise ValueError(f"{path}: holds {told}; need those of one of {', '.join(SETS)}")
    return SETS[sets.pop()], found


def read_cover(
    path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, modality: Modality, matcher: TARMatcher
) -> LandCoverMap:
    """The map of one image, stretched as the command line does it."""
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    try:
        pixels = load_image(io.BytesIO(file.read()), ("RGB", "L") if modality == "optical" else ("L",))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: {member.name} is not a readable image ({error})") from error
    raster = Raster(pixels, np.ones(pixels.shape[:2], bool), None, path)
    return read_landcover(matcher, to_grey8(raster, modality), modality=modality)


def _kind(row: Row) -> str:
    return "prior-corrected" if row.corrected else "plain"
