"""The picture of two land-cover maps."""

from __future__ import annotations

import numpy as np
import pytest

from kornia_tar.matching.landcover import LandCoverMap
from kornia_tar.outputs.landcover_sheet import Side, colour_of, draw_landcover

NAMES = ("forest", "river", "heliport")


def side(shares: tuple[int, ...] = (60, 39, 1), sure: float = 0.9, size: tuple[int, int] = (80, 80), **changed) -> Side:
    """Columns of cells in the shares (of 100) of the three names, on a mid-grey image."""
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    index = np.repeat(np.arange(3), shares).reshape(10, 10) if size == (80, 80) else np.zeros((rows, columns), int)
    probabilities = np.where(index == np.arange(3)[:, None, None], sure, (1 - sure) / 2).astype(np.float32)
    grey = np.full(size, 128, np.uint8)
    cover = LandCoverMap(NAMES, probabilities, np.ones(index.shape, bool), "optical")
    return Side(**{"image": grey, "grey": grey, "cover": cover, "title": "a", "short": "b", **changed})


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=-1).sum())


def test_every_word_has_its_own_lasting_colour():
    words = ("forest", "river", "heliport", "dam", "vineyard")
    assert len({colour_of(word) for word in words}) == len(words)
    assert colour_of("heliport") == colour_of("heliport")


def test_legend_shows_large_words_and_folds_small_ones():
    sheet = draw_landcover(side(), side(), ["Title", "more"])
    assert sheet.dtype == np.uint8 and sheet.shape[1:] == (1348, 3)
    swatch = 150  # pixels, at least, of a legend's swatch
    assert count(sheet, colour_of("forest")) > swatch and count(sheet, colour_of("river")) > swatch
    assert count(sheet, colour_of("heliport")) == 0  # 1 % in both: "other"
    larger = draw_landcover(side(), side((50, 40, 10)))
    assert count(larger, colour_of("heliport")) > swatch  # 10 % in one is enough


def test_colour_follows_certainty_and_validity():
    def tint(**changed) -> float:
        sheet = draw_landcover(side((100, 0, 0), **changed), side((100, 0, 0), **changed)).astype(int)
        part = sheet[700:900, 100:400]  # inside of the map of the first image
        return float((part[..., 1] - part[..., 0]).mean())

    green = tint(sure=0.95)
    assert green > 40 and 5 < tint(sure=0.4) < 0.7 * green
    empty = side((100, 0, 0)).cover
    blank = LandCoverMap(NAMES, empty.probabilities, np.zeros((10, 10), bool), "optical")
    assert tint(cover=blank) == 0


@pytest.mark.parametrize("size", [(33, 700), (700, 33), (50, 70)])
def test_any_shape_fits(size):
    sheet = draw_landcover(side(size=size), side(title="x" * 300), ["A"])
    assert sheet.shape[1] == 1348 and sheet.std() > 5


def test_maps_of_different_words_are_refused():
    other = LandCoverMap(("forest", "river", "dam"), side().cover.probabilities, side().cover.valid, "sar")
    with pytest.raises(ValueError, match="different names"):
        draw_landcover(side(), side(cover=other))
