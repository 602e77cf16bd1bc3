"""Find what is drawn on both of two pictures at the same pixels, and take it out: it is no ground.

Exports of map layouts and web viewers carry a graticule, a collar, labels, a logo, a scale bar or a legend. Between two
such pictures these agree perfectly at the identity, whatever the ground does, and a matcher that trusts them registers
different places. Three marks tell them from ground that coincides because a pair is aligned already:

1. One tone: pixels of one grey value here and of one there, more than the values around that pair have, whose outlines
   coincide to the pixel. Boxes, collars, thick lines, whatever has one ink.
2. Ridges: lines and strokes much brighter or darker than what is two pixels beside them, in both pictures at the same
   pixels. Antialiased lines and letters, which have no one grey.
3. Patches: windows whose fine structure is the same but for contrast. Logos and pictures that shine through.

Roads and shores of an optical and a SAR image on one grid coincide too, but not to the pixel for windows on end. Where
the ground itself coincides to the pixel (two images of one sensor on one grid), what is drawn agrees with it, misleads
nobody, and nothing is taken out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cv2 import (
    BORDER_CONSTANT,
    INTER_AREA,
    MORPH_BLACKHAT,
    MORPH_TOPHAT,
    GaussianBlur,
    boxFilter,
    connectedComponents,
    dilate,
    erode,
    morphologyEx,
    resize,
)
from numpy.typing import NDArray

from kornia_tar.raster.view import MaskedImage, shrunk, tiles

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

TOLERANCES = 1, 10  # grey values of 255 that are one tone, as drawn and after JPEG
TONES = 10  # pairs of tones that are looked at, at most
LEAST_TONE = 20  # pixels of a pair of tones
WINDOW = 15  # px, in which outlines are compared
AGREEMENT = 0.5  # of a window's outlines, the share that coincides
LEAST = 10, 12  # px of coinciding outlines and ridges in a window
RIDGE, FAINT, RIDGE_WIDTH = 60, 40, 5  # grey values above its surroundings, at first and further along; px, its width
PATCH, SAME, CONTRAST = 11, 0.85, 12  # px of a patch; correlation of its fine structure; its standard deviation
FINE = 2.0  # px, sigma, of structure that is fine
ALIGNED = 0.25  # median correlation of the ground's fine structure, above which the images show it alike
TILE, LEFT = 16, 0.2  # px, in which that is measured; share of the tiles that must be left to measure it in
BORDER = 3  # grey values that a row of a frame may vary
REACH = 12  # px, how far away ground is looked for to fill a thin line
MOST = 2048  # px, longest side of what is looked at at once
MAX_RATIO = 4.0  # of two pictures' sizes that may carry the same graphics


def without_shared_graphics(first: MaskedImage, second: MaskedImage) -> tuple[MaskedImage, MaskedImage]:
    """Take out what is drawn on both images at the same pixels, and frames of one tone around either.

    What is within some pixels of the ground is filled with pixels of the ground near it, so that a cell that a line
    crosses keeps its vote; what is further becomes invalid. Masks alone would not do: two images with one and the same
    fine mask agree by it as by the lines. Images of two sizes but of one shape are compared at the smaller size.

    Args:
        first: image0.
        second: image1.

    Returns:
        both; the same objects where nothing was found.
    """
    frames = [_frame(view) for view in (first, second)]
    shared = [np.zeros(view.size, bool) for view in (first, second)]
    ratio = np.array(first.size) / np.array(second.size)
    if abs(ratio[0] / ratio[1] - 1) < 0.01 and 1 / MAX_RATIO <= ratio[0] <= MAX_RATIO:
        size = min(first.size, second.size)
        views = [_at(view, frame, size) for view, frame in zip((first, second), frames, strict=True)]
        found = shared_graphics(views[0][0], views[1][0], views[0][1] & views[1][1])
        shared = [found if view.size == size else _resized(found, view.size) for view in (first, second)]
    one, two = (_cleaned(*parts, seed) for seed, parts in enumerate(zip((first, second), frames, shared, strict=True)))
    return one, two


def shared_graphics(grey0: NDArray[np.uint8], grey1: NDArray[np.uint8], valid: Bools) -> Bools:
    """Find what is drawn on two images of one size at the same pixels.

    Args:
        grey0: (H, W).
        grey1: (H, W).
        valid: (H, W), where both show something.

    Returns:
        (H, W), a pixel wider than what was seen.
    """
    found = np.zeros_like(valid)
    for part in tiles((valid.shape[0], valid.shape[1]), MOST):  # for memory's sake
        found[part] |= _found(grey0[part], grey1[part], valid[part])
    return found


def _found(grey0: NDArray[np.uint8], grey1: NDArray[np.uint8], valid: Bools) -> Bools:
    found = _tones(grey0, grey1, valid) | _ridges(grey0, grey1, valid)
    found |= _patches(grey0, grey1, valid & ~_dilated(found, 7))
    found = _dilated(found, 3)
    if not found.any() or _ground_alike(grey0, grey1, found, valid):
        return np.zeros_like(found)
    return found


def _tones(grey0: NDArray[np.uint8], grey1: NDArray[np.uint8], valid: Bools) -> Bools:
    """What has one grey value in either image and the same outlines."""
    found = np.zeros_like(valid)
    for tolerance in TOLERANCES:
        for tone0, tone1 in _frequent(grey0[valid], grey1[valid], tolerance):
            in0, in1 = (
                (np.abs(grey.astype(np.int16) - tone) <= tolerance) & valid
                for grey, tone in ((grey0, tone0), (grey1, tone1))
            )
            outline0, outline1 = (part & ~_eroded(part) for part in (in0, in1))
            same = _coinciding(outline0, outline1, LEAST[0])
            if not same.any():
                continue
            both = in0 & in1
            count, part = connectedComponents(both.astype(np.uint8), connectivity=8)
            outline = np.bincount(part[(outline0 | outline1) & both], minlength=count)
            agreed = np.bincount(part[same], minlength=count)
            filled = (agreed > 0) & (agreed >= 0.6 * outline)
            filled[0] = False
            found |= same | filled[part]
    return found


def _frequent(values0: NDArray[np.uint8], values1: NDArray[np.uint8], tolerance: int) -> list[tuple[int, int]]:
    """Pairs of grey values that are more frequent at the same pixel than the pairs around them."""
    joint = np.bincount(values0.astype(np.int64) * 256 + values1, minlength=256 * 256).reshape(256, 256)
    counts, ones = joint.astype(np.float32), np.ones((256, 256), np.float32)
    near, far = 2 * tolerance + 1, 6 * tolerance + 3
    inner, area = _sums(counts, near), _sums(ones, near)
    expected = (_sums(counts, far) - inner) / (_sums(ones, far) - area) * area
    excess = np.where((inner >= LEAST_TONE) & (inner > 3 * expected + 10), inner - expected, 0)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < TONES and excess.max() > 0:
        row, column = np.unravel_index(excess.argmax(), excess.shape)
        pairs.append((int(row), int(column)))
        rows, columns = (slice(max(0, k - 2 * tolerance), k + 2 * tolerance + 1) for k in pairs[-1])
        excess[rows, columns] = 0
    return pairs


def _ridges(grey0: NDArray[np.uint8], grey1: NDArray[np.uint8], valid: Bools) -> Bools:
    """Thin lines that stand out, in both images at the same pixels, be they brighter or darker."""
    kernel, found = np.ones((RIDGE_WIDTH, RIDGE_WIDTH), np.uint8), np.zeros_like(valid)
    heights0, heights1 = (
        [morphologyEx(grey, kind, kernel) * valid for kind in (MORPH_TOPHAT, MORPH_BLACKHAT)] for grey in (grey0, grey1)
    )
    for high0 in heights0:
        for high1 in heights1:
            further = high0 > FAINT, high1 > FAINT
            found |= _coinciding(high0 > RIDGE, high1 > RIDGE, LEAST[1], further)
    return found


def _coinciding(part0: Bools, part1: Bools, least: int, further: tuple[Bools, Bools] | None = None) -> Bools:
    """Find where two parts coincide, and what is connected to it by weaker agreement, or by that of ``further``."""
    both, count, union = _overlap(part0, part1)
    sure = both & (count >= least) & (count >= AGREEMENT * union)
    if not sure.any():
        return sure
    likely = both & (count >= 0.6 * least) & (count >= 0.5 * AGREEMENT * union)
    if further is not None:
        both, count, union = _overlap(*further)
        likely |= both & (count >= 0.6 * least) & (count >= 0.6 * AGREEMENT * union)
    _, piece = connectedComponents(_dilated(likely, 5 if further else 3).astype(np.uint8), connectivity=8)
    return likely & np.isin(piece, np.unique(piece[sure]))


def _overlap(part0: Bools, part1: Bools) -> tuple[Bools, Floats, Floats]:
    """What two parts share, and pixels of that and of either in the window around each pixel."""
    both = part0 & part1
    return both, _sums(both, WINDOW), _sums(part0 | part1, WINDOW)


def _patches(grey0: NDArray[np.uint8], grey1: NDArray[np.uint8], valid: Bools) -> Bools:
    """Windows whose fine structure is the same but for its contrast and sign."""
    fine0, fine1 = (np.where(valid, _fine(grey), 0) for grey in (grey0, grey1))
    area = _sums(valid, PATCH)
    power0, power1 = (_sums(fine * fine, PATCH).clip(0) for fine in (fine0, fine1))
    shared = np.abs(_sums(fine0 * fine1, PATCH))
    contrasty = (area > PATCH**2 / 2) & (np.minimum(power0, power1) > CONTRAST**2 * area)
    return np.asarray(contrasty & (shared > SAME * np.sqrt(power0 * power1)) & valid)


def _ground_alike(grey0: NDArray[np.uint8], grey1: NDArray[np.uint8], found: Bools, valid: Bools) -> bool:
    """Whether the ground coincides to the pixel: the median over tiles of the correlation of its fine structure.

    Where next to nothing is left beside what was found, that is judged: two copies of one image are alike all over.
    """
    for ground in (valid & ~_dilated(found, 5), valid):
        fine0, fine1 = (np.where(ground, _fine(grey), 0) for grey in (grey0, grey1))
        power = np.sqrt(_pooled(fine0 * fine0).clip(0) * _pooled(fine1 * fine1).clip(0))
        seen = (_pooled(ground) > TILE**2 / 2) & (power > TILE**2)
        if seen.sum() > LEFT * (_pooled(valid) > TILE**2 / 2).sum():
            return bool(np.median(_pooled(fine0 * fine1)[seen] / power[seen]) > ALIGNED)
    return False


def _pooled(values: NDArray[np.generic]) -> Floats:
    """Sums over tiles."""
    return _sums(values, TILE)[TILE // 2 :: TILE, TILE // 2 :: TILE]


def _frame(view: MaskedImage) -> Bools:
    """Rows and columns of one tone that an image begins or ends with, two or more on a side."""
    frame = np.zeros(view.size, bool)
    for turned, part in ((view.image, frame), (view.image.T, frame.T)):
        border = BORDER if turned.dtype == np.uint8 else BORDER / 255
        same, start = np.ptp(turned, axis=1) <= border, turned[:, 0].astype(np.float32)
        for rows in (np.arange(len(turned)), np.arange(len(turned))[::-1]):
            like = same[rows] & (np.abs(start[rows] - start[rows[0]]) <= border)
            wide = len(like) if like.all() else int(like.argmin())
            if wide >= 2:
                part[rows[:wide]] = True
    return frame & view.mask if not frame.all() else np.zeros_like(frame)


def _cleaned(view: MaskedImage, frame: Bools, graphics: Bools, seed: int) -> MaskedImage:
    """An image without its frame and graphics."""
    graphics = graphics & view.mask & ~frame
    if not graphics.any() and not frame.any():
        return view
    valid = view.mask & ~frame
    image, left = _filled(view.image, valid & ~graphics, graphics, np.random.default_rng(seed))
    valid &= ~left
    return MaskedImage(np.where(valid, image, image.dtype.type(0)), valid, view.modality) if valid.any() else view


def _filled(
    image: NDArray[Any], ground: Bools, drawn: Bools, rng: np.random.Generator
) -> tuple[NDArray[Any], Bools]:  # fmt: skip
    """Fill what is drawn with pixels picked from the ground near it, and say which found none.

    A smooth fill would leave the line to be seen on speckle, at the same place in both images.
    """
    image, left, (height, width) = image.copy(), drawn.copy(), image.shape
    for reach in np.linspace(3, REACH, 24):
        rows, columns = np.nonzero(left)
        if not len(rows):
            break
        angle = rng.uniform(0, 2 * np.pi, len(rows))
        from_rows = (rows + np.rint(reach * np.sin(angle)).astype(int)).clip(0, height - 1)
        from_columns = (columns + np.rint(reach * np.cos(angle)).astype(int)).clip(0, width - 1)
        there = ground[from_rows, from_columns]
        image[rows[there], columns[there]] = image[from_rows[there], from_columns[there]]
        left[rows[there], columns[there]] = False
    return image, left


def _at(view: MaskedImage, frame: Bools, size: tuple[int, int]) -> tuple[NDArray[np.uint8], Bools]:
    """An image of 8 bits at a smaller size, and where it shows something."""
    image, valid = view.image, view.mask & ~frame
    if view.size != size:
        image, valid = shrunk(image, size[::-1]), _resized(valid, size)
    if not valid.any():
        return np.zeros(size, np.uint8), valid
    low, high = (float(limit) for limit in (image.min(where=valid, initial=255), image.max(where=valid, initial=0)))
    if image.dtype == np.uint8:
        return _stretched(np.arange(256, dtype=np.float32), low, max(high, low + 1))[image], valid
    return _stretched(image, low, max(high, low + 1e-6)), valid


def _stretched(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    return np.rint(((values - low) * (255 / (high - low))).clip(0, 255)).astype(np.uint8)  # type: ignore[operator]


def _resized(mask: Bools, size: tuple[int, int]) -> Bools:
    """A mask at another size; a pixel that is covered in part counts."""
    if not mask.any():
        return np.zeros(size, bool)
    if size[0] <= mask.shape[0]:
        return shrunk(mask, size[::-1]) > 1e-3
    return np.asarray(resize(mask.astype(np.float32), size[::-1], interpolation=INTER_AREA) > 1e-3)


def _fine(grey: NDArray[np.uint8]) -> Floats:
    values = grey.astype(np.float32)
    return np.asarray(values - GaussianBlur(values, (0, 0), FINE), np.float32)


def _sums(values: NDArray[np.generic], side: int) -> Floats:
    """Sums over windows of ``side`` px, of nothing outside of the image."""
    window, flat = (side, side), values.astype(np.float32)
    return np.asarray(boxFilter(flat, -1, window, normalize=False, borderType=BORDER_CONSTANT), np.float32)


def _dilated(mask: Bools, side: int) -> Bools:
    return np.asarray(dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _eroded(mask: Bools) -> Bools:
    """A pixel less on all sides, but for the image's own."""
    kernel = np.ones((3, 3), np.uint8)
    return np.asarray(erode(mask.astype(np.uint8), kernel, borderType=BORDER_CONSTANT, borderValue=1) > 0)
