"""Reading land cover: shares, a choice of words, agreement, tiles, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import picture, small_matcher

from kornia_tar.matching import landcover
from kornia_tar.matching.landcover import LandCoverMap, compare_landcover, read_landcover

NAMES = ("forest", "river", "farmland")


def cover(dominant: list[list[int]], sure: float = 0.8) -> LandCoverMap:
    """A map with the named cells; -1 is invalid."""
    index = np.array(dominant)
    probabilities = np.full((len(NAMES), *index.shape), (1 - sure) / 2, np.float32)
    for k in range(len(NAMES)):
        probabilities[k][index == k] = sure
    return LandCoverMap(NAMES, probabilities / probabilities.sum(axis=0), index >= 0, "optical")


def named_matcher():
    matcher = small_matcher()
    matcher.info["text"] = {"names": ["forest", "river", "farmland", "port"]}
    return matcher


def grey(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.asarray(picture(seed, height, width)[0, 0] * 255).astype(np.uint8)


def test_shares_are_of_the_valid_cells():
    found = cover([[0, 0, 1, -1]])
    np.testing.assert_allclose(found.shares, [2 / 3, 1 / 3, 0])
    np.testing.assert_array_equal(found.dominant, [[0, 0, 1, -1]])
    np.testing.assert_allclose(found.mean, [(0.8 + 0.8 + 0.1) / 3, (0.1 + 0.1 + 0.8) / 3, 0.1], rtol=1e-6)


def test_fewer_words_share_what_is_left():
    found = cover([[0, 1, 2, -1]]).only(["river", "forest"])
    assert found.names == ("river", "forest")
    np.testing.assert_allclose(found.probabilities[:, 0, :3], [[1 / 9, 8 / 9, 0.5], [8 / 9, 1 / 9, 0.5]], rtol=1e-5)
    with pytest.raises(ValueError, match=r"no 'moon'.*forest, river, farmland"):
        found = cover([[0]]).only(["moon", "river"])
    with pytest.raises(ValueError, match="two names"):
        cover([[0]]).only(["river"])


def test_agreement_beside_chance():
    found = compare_landcover(cover([[0, 0, 1, 1, -1, 2]]), cover([[0, 0, 0, 1, 2, -1]]))
    assert found.cells == 4 and found.same == 0.75
    assert found.chance == pytest.approx(0.5 * 0.75 + 0.5 * 0.25)
    nowhere = compare_landcover(cover([[0, -1]]), cover([[-1, 0]]))
    assert nowhere.cells == 0 and np.isnan(nowhere.same)
    with pytest.raises(ValueError, match="need the same"):
        compare_landcover(cover([[0, 1]]), cover([[0], [1]]))


def test_it_is_what_the_matcher_reads():
    matcher, image = named_matcher(), grey(64, 80)
    found = read_landcover(matcher, image, modality="sar")
    expected = matcher.landcover(torch.from_numpy(image)[None, None].float() / 255, "sar")[0]
    np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=1e-5)
    assert found.names == matcher.text_names and found.valid.all() and found.modality == "sar"
    assert read_landcover(matcher, image).modality in ("optical", "sar")


def test_nodata_and_sides_that_are_no_multiple_of_a_cell():
    mask = np.ones((50, 70), bool)
    mask[:, :24] = False
    found = read_landcover(named_matcher(), grey(50, 70), mask, "optical")
    assert found.probabilities.shape == (4, 7, 9)
    assert not found.valid[:, :3].any() and found.valid[:6, 3:8].all()
    assert found.shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, rtol=1e-5)


def test_tiles_meet_without_a_gap(monkeypatch):
    matcher, image = named_matcher(), grey(64, 200)
    whole = read_landcover(matcher, image, modality="optical")
    monkeypatch.setattr(landcover, "_TILE", 64)
    monkeypatch.setattr(landcover, "_OVERLAP", 32)
    tiled = read_landcover(matcher, image, modality="optical")
    assert tiled.probabilities.shape == whole.probabilities.shape and tiled.valid.all()
    np.testing.assert_allclose(tiled.probabilities.sum(axis=0), 1, rtol=1e-5)
    # Each tile has its own mean and contrast, so that it is near, not equal.
    assert (
        np.abs(tiled.probabilities - whole.probabilities).mean()
        < 0.5 * np.abs(tiled.probabilities - np.roll(whole.probabilities, 5, axis=2)).mean()
    )


def test_without_text_there_is_nothing_to_read():
    with pytest.raises(ValueError, match="no text"):
        read_landcover(small_matcher(), grey(64, 64))
