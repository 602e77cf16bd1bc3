"""The worst pairs of a set by the cached matches, as two pictures.

``draw_images`` shows the pairs themselves, for the eyes of whoever holds the data. ``draw_outlines`` shows where image1
was put and where it belongs without a pixel of either image, so that it may stand in a model card.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from eval.benchmark import metrics
from eval.benchmark.cache import cache_path, read_about, read_names, read_predictions
from eval.benchmark.pairs import model_of
from eval.benchmark.protocol import REAL, Pair, make_pair
from eval.benchmark.score import score_prediction
from eval.benchmark.table import motion
from eval.datasets import Dataset
from eval.peers import Matches
from eval.report.page.pictures import checkerboard
from kornia_tar.files import replacing
from kornia_tar.geometry import transform_points
from kornia_tar.outputs.drawing import to_rgb

Array = NDArray[np.float64]

PIXELS = 1200  # width of both pictures
CELLS = 8  # of the grid over image1, per axis
RASTER = 11  # of image0, per axis: at most one arrow a cell
REACH = 0.6  # sides of image0 around it that a drawing shows at most
_DPI = 100
_MARGIN, _HEAD = 24, 96  # px
_PAPER, _INK, _SOFT, _RULE = "#fbfbf9", "#1f2428", "#5d666e", "#c9cdcc"  # as in page.css
_TRUE, _FOUND = "#0b6bb5", "#d1580e"
_ABOUT = (
    "px off: mean error of image0's corners by the shared estimator · "
    f"right: within {metrics.NCM_PIXELS} px of the truth · scale and rotation: the truth's"
)
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _RULE,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Failure:
    """One pair, and what was made of it.

    Args:
        pair: the images and the truth.
        matches: what the matcher found.
        matrix: (3, 3), the shared estimator's, image0 -> image1; None where it found none.
        score: the pair's scores.
    """

    pair: Pair
    matches: Matches
    matrix: Array | None
    score: metrics.PairScore

    @property
    def caption(self) -> str:
        """Error, motion and matches in one line."""
        rotation, scale = motion(self.pair.truth, self.pair.image0.shape)
        error = self.score.corner_error
        said = (
            "no transform" if self.matrix is None else f"{error:.0f} px off" if error >= 10 else f"{error:.1f} px off"
        )
        turn = f"{rotation:.0f}".replace("-", "−")
        right = 100 * self.score.ncm / max(1, self.score.matches)
        return f"{said} · scale {scale:.2f} · rotation {turn}° · {self.score.matches} matches, {right:.1f} % right"


@dataclass(frozen=True)
class Worst:
    """The worst pairs of a set and level by one matcher, the worst first."""

    dataset: str
    level: str
    matcher: str
    pairs: int
    failures: list[Failure]

    @property
    def title(self) -> str:
        """What is shown, in words."""
        return (
            f"The {len(self.failures)} worst of {self.pairs} pairs · {self.matcher} on {self.dataset}, "
            f"level {self.level}"
        )


def worst(dataset: Dataset, level: str, matcher: str, count: int, folder: Path) -> Worst:
    """Choose the pairs without a transform first, then those with the largest corner errors.

    Args:
        dataset: the set, for its images.
        level: name of a level, or ``real``.
        matcher: the matcher's key; all pairs that its cache holds are compared.
        count: number of pairs to choose.
        folder: folder of the caches.

    Raises:
        FileNotFoundError: when nothing is cached of it.
        ValueError: when the cache holds pairs that the set does not.
    """
    path = cache_path(folder, dataset.name, level, matcher)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no matches cached of {matcher!r}: do 'python -m eval run' first")
    names, known = read_names(path), set(dataset.names)
    if strange := [name for name in names if name not in known]:
        raise ValueError(
            f"{path}: {len(strange)} of its pairs are not in {dataset.name}, first {strange[0]!r}; run again"
        )
    predictions = read_predictions(path, names)
    scores = [score_prediction(prediction, model_of(level)) for prediction in predictions]
    order = sorted(range(len(names)), key=lambda index: (-scores[index].corner_error, names[index]))
    found = []
    for index in order[:count]:
        said = predictions[index]
        # A stored truth is the drawn warp itself; a set with its own truth is read as it is.
        pair = make_pair(dataset.read(names[index]), None if level == REAL else said.truth)
        matrix = metrics.estimate(said.matches.points0, said.matches.points1, model_of(level))
        found.append(Failure(pair, said.matches, matrix, scores[index]))
    return Worst(dataset.name, level, read_about(path)["matcher"], len(names), found)


def draw_images(worst: Worst, path: Path) -> Path:
    """Write a PNG with a row a pair: both images, and their checkerboards by the found and by the true transform."""
    side, gap, words, below = 282, 8, 26, 56
    with _styled():
        figure = _figure(worst.title, _HEAD + len(worst.failures) * (words + side + below) - 10)
        for row, failure in enumerate(worst.failures):
            pair, top = failure.pair, _HEAD + row * (words + side + below)
            _caption(figure, failure, _MARGIN, top, wide=True)
            image0, image1 = to_rgb(pair.image0), to_rgb(pair.image1)
            found = image0 if failure.matrix is None else checkerboard(image0, image1, failure.matrix)
            pictures = [
                (_label(pair, 0), image0, None),
                (_label(pair, 1), image1, None),
                ("found" if failure.matrix is not None else "nothing found", found, failure.matrix),
                ("true", checkerboard(image0, image1, pair.truth), pair.truth),
            ]
            for column, (label, picture, matrix) in enumerate(pictures):
                colour = _SOFT if matrix is None else (_TRUE if column == 3 else _FOUND)
                axes = _axes(figure, _MARGIN + column * (side + gap), top + words, side, side)
                axes.imshow(picture, interpolation="bilinear")
                if matrix is not None:
                    limits = axes.axis()
                    _grid(axes, matrix, pair.image1.shape, colour, cells=1)
                    axes.axis(limits)
                axes.set_xlabel(label, color=colour, labelpad=5)
        return _save(figure, path)


def draw_outlines(worst: Worst, path: Path) -> Path:
    """Write a PNG with a drawing a pair, in image0's frame and without any image's content.

    The outline and grid of image1 as found and as it is, and arrows from where a match has its point of image1 to where
    that belongs: the match nearest to the middle of each of ``RASTER`` x ``RASTER`` fields of image0.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    side, gap, words, legend = 564, 24, 48, 42
    colours = ListedColormap(colormaps["Purples"](np.linspace(0.3, 1, 256)))  # neither outline's hue, nor the paper's
    with _styled():
        height = _HEAD + legend + -(-len(worst.failures) // 2) * (side + words + 28) - 4
        figure = _figure(worst.title, height)
        _legend(figure, _HEAD + 4, colours)
        for place, failure in enumerate(worst.failures):
            left, top = _MARGIN + place % 2 * (side + gap), _HEAD + legend + place // 2 * (side + words + 28)
            _caption(figure, failure, left, top, wide=False)
            _outlines(_axes(figure, left, top + words, side, side), failure, colours)
        return _save(figure, path, colours=256)


def _outlines(axes: Any, failure: Failure, colours: Any) -> None:
    from matplotlib.patches import Rectangle

    pair, (height, width) = failure.pair, failure.pair.image0.shape[:2]
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, facecolor="white", edgecolor=_SOFT, linewidth=1))
    corners = [np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])]
    corners.append(_grid(axes, pair.truth, pair.image1.shape, _TRUE, CELLS))
    if failure.matrix is not None:
        corners.append(_grid(axes, failure.matrix, pair.image1.shape, _FOUND, CELLS))
    shown = _spread(failure.matches.points0, (height, width))
    start = np.asarray(failure.matches.points0, dtype=np.float64)[shown]
    end = transform_points(np.linalg.pinv(pair.truth), failure.matches.points1[shown])
    step = np.where(np.isfinite(end), end - start, np.nan)
    axes.quiver(
        *start.T, *step.T, failure.matches.confidence[shown], cmap=colours, clim=(0, 1), angles="xy", scale_units="xy",
        scale=1, units="dots", width=1.5, headwidth=4.5, headlength=5, headaxislength=4.5, zorder=2.5,
    )  # fmt: skip
    everything = np.concatenate(corners)
    everything = everything[np.isfinite(everything).all(axis=1)]
    reach = REACH * max(height, width)
    low = np.maximum(everything.min(axis=0), -reach)
    high = np.minimum(everything.max(axis=0), np.array([width, height]) + reach)
    middle, half = (low + high) / 2, 0.52 * (high - low).max()
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))
    axes.spines[:].set_visible(False)


def _grid(axes: Any, matrix: Array, shape1: tuple[int, ...], colour: str, cells: int) -> Array:
    """Draw image1's outline, grid and first cell in image0's frame; returns the outline's points (N, 2)."""
    from matplotlib.collections import LineCollection

    size = np.array([shape1[1], shape1[0]])
    along, inverse = np.linspace(0, 1, 8 * cells + 1), np.linalg.pinv(matrix)

    def line(corner: Array, direction: Array) -> Array:
        return transform_points(inverse, (corner + along[:, None] * direction) * size - 0.5)

    right, down = np.eye(2)
    lines = [line(k / cells * a, b) for a, b in ((down, right), (right, down)) for k in range(cells + 1)]
    outline = [lines[0], lines[cells], lines[cells + 1], lines[-1]]
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.7, alpha=0.55, zorder=2))
    axes.add_collection(LineCollection(outline, colors=colour, linewidths=2, capstyle="round", zorder=3))
    field = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) / max(cells, CELLS) * size - 0.5
    axes.fill(*transform_points(inverse, field).T, color=colour, alpha=0.45, linewidth=0, zorder=3)
    return np.concatenate(outline)


def _spread(points: Any, size: tuple[int, int]) -> NDArray[np.intp]:
    """Choose the point (N, 2) nearest to the middle of each field of an image (height, width); returns indices."""
    place = (np.asarray(points, dtype=np.float64).reshape(-1, 2) + 0.5) / (size[1], size[0]) * RASTER
    field = np.floor(place)
    order = np.argsort(np.linalg.norm(place - field - 0.5, axis=1), kind="stable")
    _, first = np.unique(field[order], axis=0, return_index=True)
    return np.asarray(order[first], dtype=np.intp)


def _label(pair: Pair, which: int) -> str:
    modality = pair.hints.get(f"modality{which}")
    return f"image{which}" + (f", {'SAR' if modality == 'sar' else modality}" if modality else "")


def _caption(figure: Any, failure: Failure, left: float, top: float, *, wide: bool) -> None:
    _say(figure, left, top + 8, failure.pair.name, weight="bold")
    if wide:
        _say(figure, PIXELS - _MARGIN, top + 8, failure.caption, ha="right", color=_SOFT)
    else:
        _say(figure, left, top + 28, failure.caption, color=_SOFT)


def _legend(figure: Any, top: float, colours: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=_TRUE, linewidth=2, label="image1, true"),
        Line2D([], [], color=_FOUND, linewidth=2, label="image1, found"),
        Patch(facecolor=_SOFT, alpha=0.45, label="its first corner"),
        Patch(facecolor="white", edgecolor=_SOFT, label="image0"),
    ]
    height = figure.get_figheight() * _DPI
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=((_MARGIN - 8) / PIXELS, 1 - top / height), ncols=4,
        frameon=False, borderaxespad=0, handlelength=1.6, columnspacing=1.8,
    )  # fmt: skip
    _say(figure, 1028, top, "a match, from found to true place: confidence 0", ha="right")
    bar = _axes(figure, 1036, top - 6, 120, 12)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto")
    _say(figure, 1164, top, "1")


def _styled() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _figure(title: str, height: int) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PIXELS / _DPI, height / _DPI), dpi=_DPI)
    _say(figure, _MARGIN, 36, title, size=15)
    _say(figure, _MARGIN, 64, _ABOUT, color=_SOFT)
    return figure


def _axes(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes without ticks in a box in px from the figure's top left."""
    whole = figure.get_figheight() * _DPI
    axes = figure.add_axes((left / PIXELS, 1 - (top + height) / whole, width / PIXELS, height / whole))
    axes.set(xticks=[], yticks=[])
    return axes


def _say(figure: Any, left: float, top: float, text: str, **look: Any) -> None:
    """Write a line whose middle lies at a place in px from the figure's top left."""
    figure.text(left / PIXELS, 1 - top / (figure.get_figheight() * _DPI), text, va="center", **look)


def _save(figure: Any, path: Path, colours: int | None = None) -> Path:
    """Write a PNG; few ``colours``, which a drawing can do with, make it a third as large."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Pillow.open(buffer).convert("RGB")
    if colours is not None:
        picture = picture.quantize(colours, dither=Pillow.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        picture.save(temporary, "png", optimize=True)
    return path
