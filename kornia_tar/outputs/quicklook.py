"""One picture that tells at a glance whether a registration is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from kornia_tar.outputs.drawing import (
    GAP,
    GREY,
    INK,
    MARGIN,
    PAPER,
    Picture,
    checkerboard,
    draw_matches,
    fit,
    overlay,
    paste,
    subsample,
    to_rgb,
)
from kornia_tar.outputs.windows import Window

_TITLE = 30
_PANEL = 420  # side of the box of each of the three panels of the upper row
_WIDTH = 2 * MARGIN + 3 * _PANEL + 2 * GAP
_OUTLIER = (196, 72, 64)
_LOW, _HIGH = np.array([232.0, 176, 72]), np.array([36.0, 168, 150])  # amber to teal, apart for the colour-blind too
_MAX_LINES = 120


def draw_quicklook(
    optical: NDArray[np.uint8],
    sar: NDArray[np.uint8],
    registered: NDArray[np.uint8],
    points0: ArrayLike,
    points1: ArrayLike,
    inliers: ArrayLike,
    caption: Sequence[str] = (),
    *,
    confidence: ArrayLike | None = None,
    valid: NDArray[np.bool_] | None = None,
    before: tuple[NDArray[np.uint8], NDArray[np.bool_]] | None = None,
    windows: Sequence[tuple[Window, str]] = (),
    exact: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]] | None = None,
) -> NDArray[np.uint8]:
    """Draw before, after, checkerboard, match lines and windows at full resolution on one sheet.

    The overlays show the optical image in cyan and the SAR image in red: what agrees turns grey or white, and
    what does not shows coloured fringes. "Before" lays the SAR image pixel on pixel, from the top-left corner,
    where nothing else is told.

    Args:
        optical: (H, W) or (H, W, 3) uint8, image0.
        sar: (H1, W1) or (H1, W1, 3) uint8, image1.
        registered: (H, W) or (H, W, 3) uint8, image1 resampled into the frame of image0.
        points0: (N, 2) pixels in image0.
        points1: (N, 2) pixels in image1.
        inliers: (N,) bool.
        caption: lines for the head; the first one is set larger.
        confidence: (N,) in [0, 1]; colours the inliers, and picks those drawn where there are too many.
        valid: (H, W) bool, where ``registered`` holds data; elsewhere the optical image alone is shown.
        before: (H, W) or (H, W, 3) uint8, image1 in image0's frame by the files' georeferences, and (H, W) bool, where
            it holds data.
        windows: parts of the optical image's frame, and what to say of them.
        exact: optical, registered and valid at full size, to cut the windows from, where the others are reduced.

    Returns:
        (rows, columns, 3) uint8 RGB; the width is fixed, the height follows the shape of the images.
    """
    image0, image1, warped = to_rgb(optical), to_rgb(sar), to_rgb(registered)
    if warped.shape != image0.shape:
        raise ValueError(
            f"registered is {registered.shape} and optical {optical.shape}; both need the same height and width"
        )
    xy0, xy1 = (np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in (points0, points1))
    good = np.asarray(inliers, dtype=bool).reshape(-1)
    trust = np.ones(len(xy0)) if confidence is None else np.asarray(confidence, dtype=np.float64).reshape(-1)
    if not len(xy0) == len(xy1) == len(good) == len(trust):
        raise ValueError(
            f"points0, points1, inliers, confidence have {len(xy0)}, {len(xy1)}, {len(good)}, {len(trust)} rows"
        )
    shown = np.ones(image0.shape[:2], dtype=bool) if valid is None else valid

    naive, covered = _pasted(image1, image0.shape[:2]) if before is None else (to_rgb(before[0]), before[1])
    start = "Before" if before is None else "By the georeferences"
    panels = [
        (f"{start} · optical cyan, SAR red", overlay(image0, naive, covered)),
        ("After", overlay(image0, warped, shown)),
        ("Checkerboard", checkerboard(image0, warped, shown)),
    ]
    upper = [(title, fit(panel, _PANEL, _PANEL)) for title, panel in panels]
    lines, drawn = _match_panel(image0, image1, xy0, xy1, good, trust)
    legend = f"Matches · {good.sum()} inliers of {len(good)}" + (f", {drawn} drawn" if drawn < len(good) else "")

    head = MARGIN + (34 + 22 * (len(caption) - 1) + 14 if caption else 0)
    row = max(panel.shape[0] for _, panel in upper)
    below = head + _TITLE + row + GAP
    rows = [
        (
            title,
            [
                np.repeat(np.repeat(part, w.magnify, 0), w.magnify, 1)
                for part in w.cut(*(exact or (image0, warped, shown)))
            ],
        )
        for w, title in windows
    ]
    foot = below + _TITLE + lines.shape[0]
    bottom = foot + sum(GAP + _TITLE + parts[0].shape[0] for _, parts in rows)
    sheet = Image.new("RGB", (_WIDTH, bottom + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(caption):
        y = MARGIN + (34 + 22 * (number - 1) if number else 0)
        pen.text((MARGIN, y), text, INK if number == 0 else GREY, ImageFont.load_default(15 if number else 24))
    for column, (title, panel) in enumerate(upper):
        left = MARGIN + column * (_PANEL + GAP)
        pen.text((left, head + 4), title, INK, ImageFont.load_default(15))
        sheet.paste(Image.fromarray(panel), (left + (_PANEL - panel.shape[1]) // 2, head + _TITLE))
    pen.text((MARGIN, below + 4), legend, INK, ImageFont.load_default(15))
    _draw_key(pen, _WIDTH - MARGIN, below + 4, confidence is not None, bool((~good).any()))
    sheet.paste(Image.fromarray(lines), (MARGIN, below + _TITLE))
    for title, parts in rows:
        pen.text((MARGIN, foot + GAP + 4), title, INK, ImageFont.load_default(15))
        for column, part in enumerate(parts):
            sheet.paste(Image.fromarray(part), (MARGIN + column * (_PANEL + GAP), foot + GAP + _TITLE))
        foot += GAP + _TITLE + parts[0].shape[0]
    return np.asarray(sheet).copy()


def _match_panel(
    image0: Picture, image1: Picture, xy0: Any, xy1: Any, good: NDArray[np.bool_], trust: NDArray[np.float64]
) -> tuple[Picture, int]:
    """Both images side by side at one height, and lines between them; outliers below, the surest on top."""
    inner = _WIDTH - 2 * MARGIN - GAP
    ratio = image0.shape[1] / image0.shape[0] + image1.shape[1] / image1.shape[0]
    height = max(1, min(int((inner - 1) / ratio), 2 * _PANEL))
    left, right = fit(image0, inner, height), fit(image1, inner, height)
    canvas = np.full((height, inner + GAP, 3), PAPER, np.uint8)
    offset = (inner - left.shape[1] - right.shape[1]) // 2
    on0 = paste(canvas, left, (offset, 0), image0.shape[1])
    on1 = paste(canvas, right, (offset + left.shape[1] + GAP, 0), image1.shape[1])
    colours = _LOW + (_HIGH - _LOW) * np.clip(trust, 0, 1)[:, None]
    colours[~good] = _OUTLIER
    inlying, outlying = (_choose(np.flatnonzero(which), trust) for which in (good, ~good))
    chosen = np.concatenate([outlying[: _MAX_LINES // 4], inlying])
    picture = draw_matches(canvas, on0, on1, xy0[chosen], xy1[chosen], colours[chosen], radius=2.5, opacity=0.8)
    return picture, len(chosen)


def _choose(which: NDArray[np.intp], trust: NDArray[np.float64]) -> NDArray[np.intp]:
    """At most ``_MAX_LINES``, evenly over the range of confidence, in rising order of it."""
    return subsample(which[np.argsort(trust[which], kind="stable")], _MAX_LINES)


def _draw_key(pen: ImageDraw.ImageDraw, right: int, top: int, graded: bool, outliers: bool) -> None:
    """What the colours of the lines mean, set flush right."""
    font = ImageFont.load_default(13)

    def word(text: str, colour: tuple[int, int, int] = GREY) -> None:
        nonlocal right
        right -= int(pen.textlength(text, font))
        pen.text((right, top + 1), text, colour, font)
        right -= 8

    if outliers:
        word("outlier")
        right -= 14
        pen.line([(right, top + 9), (right + 14, top + 9)], _OUTLIER, 2)
        right -= 22
    word("1  confidence" if graded else "inlier")
    length = 72 if graded else 14
    right -= length
    for x in range(length):
        colour = _LOW + (_HIGH - _LOW) * (x / (length - 1) if graded else 1.0)
        pen.line([(right + x, top + 5), (right + x, top + 13)], tuple(int(v) for v in colour))
    right -= 8
    if graded:
        word("0")


def _pasted(image: Picture, size: tuple[int, int]) -> tuple[Picture, NDArray[np.bool_]]:
    """The image laid on an empty sheet of ``size``, and where it lies."""
    out, covered = np.zeros((*size, 3), np.uint8), np.zeros(size, bool)
    height, width = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    out[:height, :width], covered[:height, :width] = image[:height, :width], True
    return out, covered
