"""What the words are worth: all that is measured of the land-cover map, from one folder of data.

Four questions, each on images that no training of the map saw with their answer:

- **Scenes.** RSSCN7's held-out third by the rule of ``eval/studies/landcover.py``; WHU-RS19's held-out quarter: is the
  class the word with the largest mean probability, is it among the three largest (of all words of the text)?
- **Words that training never saw**, where the weights name some: the same of their images alone, among all words, among
  the unseen ones, and how well the word's score tells its images from the others (area under the ROC curve; chance is
  a half).
- **Places.** The share of cells with the same word in the optical and the SAR image of one place, and in the optical
  images of two places; of SEN1-2's validation pairs (five kinds of scenes), and of all of val-000 (70 % of which are
  one Sentinel tile, so that two places are often alike).
- **Floods.** Intersection over union, over all pixels, of what the flood's words take more than half of the probability
  for and what Copernicus EMS drew, on OMBRIA's own *after* test images, which lie in the shards of training pairs and
  are left out by the training of the map (not by that of the features). Beside it what the share of drawn pixels alone
  gives ("all flooded"), and the darker side of Otsu's threshold on the smoothed image.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.benchmark.pairs import subsample
from eval.benchmark.provenance import provenance
from eval.datasets.webdataset import load_image
from eval.report.markdown import grid
from eval.studies.landcover import MODALITIES, Row, Sameness, compare, measure, read_cover
from eval.studies.landcover import Scenes as Maps
from kornia_tar.files import write_json, write_text
from kornia_tar.matching.landcover import read_landcover
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.raster import percentile_stretch, to_grey
from kornia_tar.text import GROUPS
from kornia_tar.training.data import label_held_out
from kornia_tar.training.lessons import event_held_out, read_floods

FILES = ("optical_only-000.tar", "optical_only-101.tar", "val-000.tar", "ombria-floods.tar")
Progress = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Ranks:
    """How high the true word stands among an image's words; shares of the images.

    Args:
        images: N.
        first: the true word is the highest.
        third: it is among the three highest.
        words: among how many.
    """

    images: int
    first: float
    third: float
    words: int


@dataclass(frozen=True)
class Unseen:
    """What the map makes of words that its training did not see.

    Args:
        among_all: ranks of their images' words among all words.
        among_unseen: among the unseen words alone.
        area: per word the area under the ROC curve.
    """

    among_all: Ranks
    among_unseen: Ranks
    area: dict[str, float]


@dataclass(frozen=True)
class Flood:
    """Flooded pixels of one modality's images: intersection over union with what was drawn."""

    images: int
    found: float
    everything: float
    dark: float


@dataclass(frozen=True)
class Words:
    """All answers; what the weights lack words for is None."""

    seen: tuple[str, ...] | None
    rsscn7: list[Row]
    whurs19: Ranks
    unseen: Unseen | None
    sen12: Sameness
    everywhere: Sameness
    floods: dict[str, Flood] = field(default_factory=dict)


def measure_words(folder: Path, matcher: TARMatcher, progress: Progress = list) -> Words:
    """Answer all questions.

    Args:
        folder: holds :data:`FILES`.
        matcher: whose map it is.
        progress: wraps names of images, such as ``tqdm``.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a file that cannot be read, or a text that lacks a word.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; need {', '.join(FILES)}")
    rsscn7, _ = measure(folder / FILES[0], matcher, progress=progress)
    classes, scores = read_classes(folder / FILES[1], matcher, progress)
    maps = read_maps(folder / FILES[2], matcher, progress)
    sen12 = [k for k, name in enumerate(maps[0].names) if name.startswith("sen12")]
    return Words(
        matcher.seen_names, rsscn7,
        rank(scores, classes, matcher.text_names), ask_unseen(scores, classes, matcher),
        compare([_some(part, sen12) for part in maps]), compare(maps),
        measure_floods(read_flooded(folder), matcher),
    )  # fmt: skip


def read_classes(path: Path, matcher: TARMatcher, progress: Progress = list) -> tuple[list[str], NDArray[np.float64]]:
    """Read WHU-RS19's held-out images: N classes, and (N, K) mean probabilities of the words."""
    with tarfile.open(path, "r:") as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        names = sorted(name.removesuffix(".json") for name in members if name.endswith(".json"))
        names = [name for name in names if label_held_out(name)]
        if not names:
            raise ValueError(f"{path}: holds no image of WHU-RS19 that is held out")
        classes = []
        for name in names:
            file = tar.extractfile(members[f"{name}.json"])
            assert file is not None
            classes.append(str(json.loads(file.read())["class"]))
        covers = [
            read_cover(path, tar, members[f"{name}.optical.webp"], "optical", matcher) for name in progress(names)
        ]
    return classes, np.stack([cover.mean for cover in covers])


def rank(scores: NDArray[np.float64], classes: Sequence[str], words: Sequence[str]) -> Ranks:
    """Rank the true word of each image among an image's (N, K) scores.

    Raises:
        ValueError: a class that is none of the words.
    """
    if lacking := sorted(set(classes) - set(words)):
        raise ValueError(f"the weights' text has no {lacking[0]!r}: it has {', '.join(words)}")
    own = scores[np.arange(len(classes)), [list(words).index(name) for name in classes]]
    above = (scores > own[:, None]).sum(axis=1)
    return Ranks(len(classes), float((above < 1).mean()), float((above < 3).mean()), len(words))


def ask_unseen(scores: NDArray[np.float64], classes: Sequence[str], matcher: TARMatcher) -> Unseen | None:
    """Rank the words that training did not see; None where the weights name none."""
    words = list(matcher.text_names)
    unseen = [word for word in words if word not in (matcher.seen_names or words) and word in classes]
    if len(unseen) < 2:
        return None
    rows = np.array([name in unseen for name in classes])
    theirs = [name for name in classes if name in unseen]
    columns = [words.index(word) for word in unseen]
    area = {word: roc_area(scores[:, words.index(word)], np.array(classes) == word) for word in unseen}
    return Unseen(rank(scores[rows], theirs, words), rank(scores[rows][:, columns], theirs, unseen), area)


def roc_area(score: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Share of couples of a right and a wrong image in which the right one has the larger score; ties count half."""
    wrong = np.sort(score[~right])
    below = np.searchsorted(wrong, score[right], "left") + np.searchsorted(wrong, score[right], "right")
    return float(below.mean() / (2 * len(wrong)))


def read_maps(path: Path, matcher: TARMatcher, progress: Progress = list) -> list[Maps]:
    """Read the map of every image of a tar of pairs, optical ones first."""
    with tarfile.open(path, "r:") as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        names = sorted({name.partition(".")[0] for name in members if name.endswith(".sar.webp")})
        parts = []
        for modality in MODALITIES:
            covers = [
                read_cover(path, tar, members[f"{name}.{modality}.webp"], modality, matcher) for name in progress(names)
            ]
            scores, dominant = np.stack([c.mean for c in covers]), np.stack([c.dominant for c in covers])
            parts.append(Maps(modality, (), names, np.zeros(len(names), int), matcher.text_names, scores, dominant))
    return parts


class FloodedPair(NamedTuple):
    """A pair of a held-out flood: (S, S) or (S, S, 3) uint8, and where it was drawn, (S, S) bool."""

    name: str
    optical: NDArray[np.uint8]
    sar: NDArray[np.uint8]
    drawn: NDArray[np.bool_]


def read_flooded(folder: Path, limit: int | None = None) -> list[FloodedPair]:
    """Read the *after* pairs of held-out floods from a folder's shards, sorted by name; ``limit`` spread evenly.

    Raises:
        FileNotFoundError: no masks in the folder.
        ValueError: no such pair.
    """
    masks, found = folder / FILES[3], dict[str, dict[str, bytes]]()
    if not masks.is_file():
        raise FileNotFoundError(f"{masks}: no such file; it holds the masks of the floods")
    for shard in sorted([*folder.glob("train-*.tar"), *folder.glob("val-*.tar")]):
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                name, _, kind = Path(member.name).name.partition(".")
                if event_held_out(name) and name.endswith("after") and kind in ("optical.webp", "sar.webp"):
                    file = tar.extractfile(member)
                    assert file is not None
                    found.setdefault(name, {})[kind] = file.read()
    drawn = read_floods(masks, sorted(found))
    if not drawn:
        raise ValueError(f"{folder}: the shards hold no pair after a held-out flood that {masks.name} has a mask of")
    return [
        FloodedPair(
            name,
            load_image(io.BytesIO(found[name]["optical.webp"]), ("RGB", "L")),
            load_image(io.BytesIO(found[name]["sar.webp"]), ("L",)),
            drawn[name].numpy(),
        )
        for name in subsample(list(drawn), limit)
    ]


def measure_floods(pairs: Sequence[FloodedPair], matcher: TARMatcher) -> dict[str, Flood]:
    """Hold the map's flooded pixels against what was drawn, by modality; {} for a text without the flood's words."""
    water = [k for k, name in enumerate(matcher.text_names) if name in GROUPS["flood"]]
    found: dict[str, Flood] = {}
    for modality in MODALITIES if water else ():
        counts = np.zeros((3, 2))
        for pair in pairs:
            image, truth = to_grey(pair.optical if modality == "optical" else pair.sar), pair.drawn
            grey = percentile_stretch(image)
            share = read_landcover(matcher, grey, modality=modality).probabilities[water].sum(axis=0)
            said = cv2.resize(share, truth.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
            smooth = cv2.GaussianBlur(grey, (0, 0), 2)
            level, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
            for row, answer in enumerate((said, np.ones_like(truth), smooth <= level)):
                counts[row] += (answer & truth).sum(), (answer | truth).sum()
        found[modality] = Flood(len(pairs), *(float(both / max(1, either)) for both, either in counts))
    return found


def write(folder: Path, title: str, answers: Words) -> Path:
    """Write ``words.md`` and ``words.json``; returns the former's path."""
    made, percent = provenance(), lambda share: f"{100 * share:.1f}"
    rows = [[f"RSSCN7's held-out {row.images}, {'corrected' if row.corrected else 'plain'}: right", percent(row.right),
             percent(row.shuffled)] for row in answers.rsscn7]  # fmt: skip
    own = answers.whurs19
    rows += [[f"WHU-RS19's held-out {own.images}: the word of {own.words} that stands first", percent(own.first),
              percent(1 / own.words)],
             ["the same, among the first three", percent(own.third), percent(3 / own.words)]]  # fmt: skip
    if answers.unseen is not None:
        every, alone = answers.unseen.among_all, answers.unseen.among_unseen
        rows += [[f"words that training did not see ({every.images} images): first", percent(every.first),
                  percent(1 / every.words)],
                 ["the same, among the first three", percent(every.third), percent(3 / every.words)],
                 ["the same, first among the unseen", percent(alone.first), percent(1 / alone.words)]]  # fmt: skip
        rows += [[f"area under the ROC curve, {word}", percent(area), "50.0"] for word, area in
                 answers.unseen.area.items()]  # fmt: skip
    for name, same in (("SEN1-2", answers.sen12), ("val-000", answers.everywhere)):
        one = "–" if same.one_place is None else percent(same.one_place)
        rows += [[f"{name}: cells of one place with the same word in optical and SAR", one, percent(same.chance)],
                 [f"{name}: of two places, optical", percent(same.two_places), percent(same.chance)]]  # fmt: skip
    for modality, flood in answers.floods.items():
        rows += [[f"floods, {modality}, {flood.images} images: IoU", percent(flood.found),
                  f"{percent(flood.everything)} all, {percent(flood.dark)} dark"]]  # fmt: skip
    seen = "no land-cover head: TAFE's attention" if answers.seen is None else f"{len(answers.seen)} words seen"
    lines = [
        f"## What the words are worth: {title}", "",
        f"{seen}. In percent; rule and sets: `eval/studies/text/words.py`.", "",
        *grid(("what", "map", "chance or control"), rows), "",
        f"Made by `{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['date']}.",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "words.json", {"title": title, **asdict(answers), "made": made})
    return write_text(folder / "words.md", "\n".join(lines) + "\n")


def _some(part: Maps, index: Sequence[int]) -> Maps:
    return Maps(part.modality, part.labels, [part.names[k] for k in index], part.truth[list(index)], part.text,
                part.scores[list(index)], part.dominant[list(index)])  # fmt: skip
