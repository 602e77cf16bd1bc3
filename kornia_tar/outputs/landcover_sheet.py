"""The picture of two land-cover maps: each image, its map laid over it, and how much of it each word covers."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kornia_tar.conventions import CELL
from kornia_tar.matching.landcover import LandCoverMap
from kornia_tar.outputs.drawing import GAP, GREY, INK, MARGIN, PAPER, Picture, fit, to_rgb

LEAST = 0.02  # a word with less in both images is drawn as "other"

_PANEL, _LEGEND, _TITLE = 484, 280, 30
_WIDTH = 2 * MARGIN + 2 * _PANEL + GAP + MARGIN + _LEGEND
_FAINT, _STRONG = 0.15, 0.78  # how much of the colour lies over the image where the map is not sure, and where it is
_FINE = 2  # the maps are drawn so many times larger first, for smooth borders
_OTHER, _RULE = (176, 176, 172), (222, 222, 218)

# Water is blue, what grows is green or straw, bare ground is sand, what is built is red, and traffic is violet.
_COLOURS = {
    "river": (52, 120, 200), "pond": (66, 176, 208), "lake": (40, 150, 200), "water": (44, 132, 204),
    "sea": (32, 92, 164), "wetland": (96, 168, 160), "port": (48, 88, 148), "harbor": (48, 88, 148),
    "beach": (240, 208, 132), "desert": (226, 182, 110), "bare land": (206, 170, 122), "mountain": (150, 122, 98),
    "forest": (40, 122, 70), "meadow": (150, 196, 88), "grassland": (150, 196, 88), "park": (94, 180, 104),
    "farmland": (236, 198, 78), "farmlands": (236, 198, 78), "cropland": (236, 198, 78),
    "residential": (222, 98, 82), "building": (196, 84, 84), "commercial": (230, 132, 72),
    "industrial": (168, 84, 128), "football field": (120, 214, 150), "airport": (136, 112, 196),
    "railway station": (104, 92, 150), "parking": (186, 156, 216), "bridge": (214, 128, 190),
    "viaduct": (176, 100, 180), "road": (128, 120, 160),
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One image and its map.

    Attributes:
        image: (H, W) or (H, W, 3) uint8, as it is shown.
        grey: (H, W) uint8, what the map is laid over.
        cover: its map.
        title: over the image.
        short: over its column of the legend.
    """

    image: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    cover: LandCoverMap
    title: str
    short: str


def colour_of(name: str) -> tuple[int, int, int]:
    """RGB of a word: the same in every picture, whatever other words stand beside it."""
    if name in _COLOURS:
        return _COLOURS[name]
    code = zlib.crc32(name.encode())
    red, green, blue = colorsys.hls_to_rgb((code % 360) / 360, 0.45 + (code >> 9) % 3 * 0.09, 0.5)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_landcover(first: Side, second: Side, caption: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Draw two images, their land-cover maps and the legend on one sheet.

    A cell's colour is that of its most probable word, the fuller the surer the map is; without colour where there are
    no data. Words that cover less than 2 % of both images are one grey "other".

    Args:
        first: image0.
        second: image1; its map has the same names.
        caption: lines for the head; the first one is set larger.

    Returns:
        (rows, columns, 3) uint8 RGB; the width is fixed, the height follows the shape of the images.

    Raises:
        ValueError: maps of different names, or an image that is no uint8.
    """
    sides = (first, second)
    if first.cover.names != second.cover.names:
        raise ValueError("the two maps speak of different names")
    shares = np.stack([side.cover.shares for side in sides])  # (2, K)
    kept = [int(k) for k in shares.sum(axis=0).argsort(kind="stable")[::-1] if shares[:, k].max() >= LEAST]
    colours = np.full((len(first.cover.names), 3), _OTHER, np.uint8)
    for k in kept:
        colours[k] = colour_of(first.cover.names[k])

    upper = [fit(to_rgb(side.image), _PANEL, _PANEL) for side in sides]
    lower = [_draw_map(side, colours, panel.shape[:2]) for side, panel in zip(sides, upper, strict=True)]
    rows = [(first.cover.names[k], (int(colours[k][0]), int(colours[k][1]), int(colours[k][2])), shares[:, k])
            for k in kept]  # fmt: skip
    if len(kept) < len(first.cover.names) and (rest := 1 - shares[:, kept].sum(axis=1)).max() > 5e-4:
        rows.append(("other", _OTHER, rest))

    head = MARGIN + (34 + 22 * (len(caption) - 1) + 14 if caption else 0)
    height = max(panel.shape[0] for panel in upper)
    bottom = max(head + _TITLE + 2 * height + GAP, head + _TITLE + 40 + 34 * len(rows) + 80) + MARGIN
    sheet = Image.new("RGB", (_WIDTH, bottom), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(caption):
        y = MARGIN + (34 + 22 * (number - 1) if number else 0)
        pen.text((MARGIN, y), text, INK if number == 0 else GREY, ImageFont.load_default(15 if number else 24))
    for column, side in enumerate(sides):
        left = MARGIN + column * (_PANEL + GAP)
        font = ImageFont.load_default(15)
        pen.text((left, head + 4), _shortened(pen, side.title, font, _PANEL), INK, font)
        for row, panel in enumerate((upper[column], lower[column])):
            top = head + _TITLE + row * (height + GAP)
            sheet.paste(Image.fromarray(panel), (left + (_PANEL - panel.shape[1]) // 2, top))
    _draw_legend(pen, _WIDTH - MARGIN - _LEGEND, head, [side.short for side in sides], rows)
    return np.asarray(sheet).copy()


def _draw_map(side: Side, colours: NDArray[np.uint8], size: tuple[int, int]) -> Picture:
    """The map over the image, (height, width) of ``size`` pixels."""
    height, width = _FINE * size[0], _FINE * size[1]
    # From pixels of the drawing to cells; centres of both lie at integers.
    x, y = (
        ((np.arange(n, dtype=np.float32) + 0.5) * (whole / n / CELL) - 0.5)
        for n, whole in ((width, side.grey.shape[1]), (height, side.grey.shape[0]))
    )
    at_x, at_y = np.meshgrid(x, y)

    def enlarge(cells: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.remap(cells, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)

    best, sure = np.zeros((height, width), np.intp), np.zeros((height, width), np.float32)
    for k, cells in enumerate(side.cover.probabilities):  # one at a time: all at once would be K drawings in memory
        probability = enlarge(np.ascontiguousarray(cells))
        larger = probability > sure
        best[larger], sure[larger] = k, probability[larger]
    base = cv2.cvtColor(cv2.resize(side.grey, (width, height), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    shown = enlarge(side.cover.valid.astype(np.float32)) > 0.5
    alpha = (np.where(shown, _FAINT + (_STRONG - _FAINT) * sure, 0))[..., None]
    blended = base * (1 - alpha) + colours[best] * alpha
    return np.asarray(cv2.resize(blended.astype(np.uint8), size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _draw_legend(
    pen: ImageDraw.ImageDraw, left: int, top: int, heads: Sequence[str],
    rows: Sequence[tuple[str, tuple[int, int, int], NDArray[np.float64]]],
) -> None:  # fmt: skip
    """Each word's colour and its share of both images as numbers and bars, and what faint colour means."""
    name_font, number_font = ImageFont.load_default(15), ImageFont.load_default(13)
    column = 62
    edges = _WIDTH - MARGIN - column - 14, _WIDTH - MARGIN  # right ends of the two columns
    for edge, text in zip(edges, heads, strict=True):
        pen.text((edge, top + 5), text, GREY, number_font, anchor="ra")
    y = top + _TITLE
    longest = max((float(share.max()) for _, _, share in rows), default=1.0)
    for name, colour, share in rows:
        pen.line([(left, y), (_WIDTH - MARGIN, y)], _RULE, 1)
        pen.rounded_rectangle([left, y + 9, left + 16, y + 25], 4, colour)
        name = _shortened(pen, name, name_font, edges[0] - column - left - 30)
        pen.text((left + 26, y + 17), name, INK, name_font, anchor="lm")
        for edge, part in zip(edges, share, strict=True):
            text = f"{100 * part:.0f} %"
            pen.text((edge, y + 13), text, INK, number_font, anchor="rm")
            length = round(column * part / longest)
            if length:
                pen.rectangle([edge - length, y + 24, edge - 1, y + 27], colour)
        y += 34
    pen.line([(left, y), (_WIDTH - MARGIN, y)], _RULE, 1)
    y += 22
    for x in range(_LEGEND // 2):
        alpha = _FAINT + (_STRONG - _FAINT) * x / (_LEGEND // 2)
        pen.line(
            [(left + x, y), (left + x, y + 10)], tuple(round(128 * (1 - alpha) + c * alpha) for c in (40, 122, 70))
        )
    pen.text((left, y + 16), "unsure", GREY, number_font)
    pen.text((left + _LEGEND // 2, y + 16), "sure", GREY, number_font, anchor="ra")


def _shortened(pen: ImageDraw.ImageDraw, text: str, font: Any, room: int) -> str:
    """As much of a text as fits into ``room`` pixels."""
    while pen.textlength(text, font) > room:
        text = text.removesuffix("…")[:-1] + "…"
    return text
