"""Does it help to ignore the flood? OMBRIA's *after* pairs, whose water lies elsewhere than it used to.

The pairs are OMBRIA's own test images, under ``tar`` warps, several for each pair, for there are few. The training of
the map left them out (``event_held_out``); that of the matching did not, at 0.3 of the usual draws: our data hold no
*after* pair that it has not seen. So the matches are better than on new floods, in every row. One forward of
``TARMatcher`` as shipped; the matches' precision at 3 px and the share of pairs whose mean corner error stays below
5 px after the shared estimator (SR@5). Rows:

- *off*: as shipped.
- *ignore flood*: ``TARMatcher(ignore=["flood"])``.
- *names shuffled*: the same with as many other words of the text, drawn for each pair: does the meaning matter?
- *true mask*: the pixels that were drawn as flooded, as ``mask0`` and ``mask1``: what a perfect map would bring.
- *map as mask*: the map's flooded pixels (more than half of the probability), likewise: a mask against a weight.
- *mask of equal area*: that mask laid elsewhere, moved by half of the image in x and y around its edges.

Differences to *off* are over the same pairs; their standard error takes the warps of one pair as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eval.benchmark.metrics import score_pair
from eval.benchmark.protocol import SIZE, Pair, draw_warps, make_pair
from eval.benchmark.provenance import provenance
from eval.datasets import Sample
from eval.peers import to_tensor
from eval.report.markdown import grid
from eval.studies.text.words import FloodedPair
from kornia_tar.files import write_json, write_text
from kornia_tar.matching.landcover import read_landcover
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.raster import to_grey
from kornia_tar.text import GROUPS

WORD = "flood"
ROWS = ("off", "ignore flood", "names shuffled", "true mask", "map as mask", "mask of equal area")
FIGURES = ("precision at 3 px, %", "SR@5, %", "matches", "ignored, %")
Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # True = counts, of image0 and image1


class Flooded(NamedTuple):
    """One question."""

    place: str
    pair: Pair
    counts: Masks  # False where drawn as flooded


@dataclass(frozen=True)
class Steered:
    """Figures by row: (P, 4) of all questions, in the order of :data:`FIGURES`, and the place of each question."""

    places: list[str]
    figures: dict[str, NDArray[np.float64]]


def warp_flooded(pairs: Sequence[FloodedPair], draws: int) -> Iterator[Flooded]:
    """Move each pair's SAR image by ``draws`` warps."""
    for seed in range(draws):
        warps = draw_warps([pair.name for pair in pairs], "tar", seed)
        for pair in pairs:
            warp = warps[pair.name]
            moved = cv2.warpPerspective(pair.drawn.astype(np.uint8), warp, (SIZE, SIZE), flags=cv2.INTER_NEAREST)
            asked = make_pair(Sample(pair.name, pair.optical, pair.sar), warp)
            yield Flooded(pair.name, asked, (~pair.drawn, moved == 0))


@torch.inference_mode()
def measure(
    matcher: TARMatcher, questions: Iterator[Flooded], tick: Callable[[int], Any] = lambda number: None
) -> Steered:
    """Ask every question in every row.

    Args:
        matcher: with a land-cover head, whose text has words of the flood.
        questions: pairs.
        tick: told how many more are done.

    Raises:
        ValueError: the matcher's text has no word of the flood, or it has no land-cover head.
    """
    names, places = matcher.text_names, list[str]()
    matcher.steer(ignore=[WORD])  # tells what is lacking
    own = [name for name in names if name in GROUPS[WORD]]
    others = [name for name in names if name not in own]
    rng = np.random.default_rng(0)
    figures: dict[str, list[list[float]]] = {row: [] for row in ROWS}
    for place, pair, counts in questions:
        places.append(place)
        matcher.steer()
        found = [
            read_landcover(matcher, to_grey(image), modality=kind)
            for image, kind in ((pair.image0, "optical"), (pair.image1, "sar"))
        ]
        said = [_dry(cover.probabilities[[names.index(name) for name in own]].sum(axis=0)) for cover in found]
        elsewhere = [np.roll(mask, (SIZE // 2, SIZE // 2), (0, 1)) for mask in said]
        shuffled = rng.choice(others, size=min(len(own), len(others)), replace=False).tolist()
        asked: dict[str, tuple[list[str], Masks | None]] = {
            "off": ([], None), "ignore flood": ([WORD], None), "names shuffled": (shuffled, None),
            "true mask": ([], counts), "map as mask": ([], (said[0], said[1])),
            "mask of equal area": ([], (elsewhere[0], elsewhere[1])),
        }  # fmt: skip
        for row, (words, masks) in asked.items():
            figures[row].append(_ask(matcher.steer(ignore=words), pair, masks))
        tick(1)
    matcher.steer()
    return Steered(places, {row: np.array(values) for row, values in figures.items()})


def _dry(share: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The pixels that the words of the flood take no more than half of the probability of."""
    return cv2.resize(share, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) <= 0.5


def _ask(matcher: TARMatcher, pair: Pair, masks: Masks | None) -> list[float]:
    """One row's figures of one pair."""
    data: dict[str, Any] = {"modality0": "optical", "modality1": "sar"}
    for k, image in enumerate((pair.image0, pair.image1)):
        data[f"image{k}"] = to_tensor(image, 1)
        if masks is not None:
            data[f"mask{k}"] = torch.from_numpy(masks[k])[None]
    out = matcher(data)
    points0, points1 = out["keypoints0"].numpy(), out["keypoints1"].numpy()
    score = score_pair(points0, points1, pair.truth, (SIZE, SIZE), "affine", None, None)
    ignored = 0.0 if masks is None else 1 - float(np.mean([mask.mean() for mask in masks]))
    if masks is None and matcher.net.steering is not None:
        cells = [matcher.encode(data[f"image{k}"], modality=data[f"modality{k}"]).features.mask for k in (0, 1)]
        ignored = 1 - float(np.mean([1.0 if cell is None else cell.float().mean() for cell in cells]))
    return [100 * score.precision[1], 100.0 * (score.corner_error < 5), float(score.matches), 100 * ignored]


def difference(steered: Steered, row: str, figure: int) -> tuple[float, float]:
    """Mean difference of a row to *off*, and its standard error over places."""
    change = steered.figures[row][:, figure] - steered.figures["off"][:, figure]
    places = np.array(steered.places)
    means = np.array([change[places == place].mean() for place in sorted(set(steered.places))])
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")


def write(folder: Path, title: str, steered: Steered) -> Path:
    """Write ``steering.md`` and ``steering.json``; returns the former's path."""
    made, rows, told = provenance(), [], {}
    for row, values in steered.figures.items():
        cells = []
        for k, mean in enumerate(values.mean(axis=0)):
            cell = f"{mean:.1f}"
            if row != "off" and k < 3:
                change, error = difference(steered, row, k)
                cell += f" ({change:+.1f} ± {error:.1f})"
            cells.append(cell)
        rows.append([row, *cells])
        told[row] = {figure: float(value) for figure, value in zip(FIGURES, values.mean(axis=0), strict=True)}
    lines = [
        f"## Ignoring the flood: {title}", "",
        f"{len(set(steered.places))} places, {len(steered.places)} pairs, one forward; in brackets the difference to "
        "*off* ± standard error over the places. Rows: `eval/studies/text/steering.py`.", "",
        *grid(("row", *FIGURES), rows), "",
        f"Made by `{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['date']}.",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "steering.json", {"title": title, "pairs": len(steered.places), "rows": told, "made": made})
    return write_text(folder / "steering.md", "\n".join(lines) + "\n")
