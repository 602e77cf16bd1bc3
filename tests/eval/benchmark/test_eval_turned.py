"""The rotation search around any matcher."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from toys import ROOT, texture

from eval import peers
from eval.benchmark import metrics, turned
from eval.peers import Matches
from kornia_tar.geometry import transform_points


class Upright:
    """Finds what lies at the same place and the same way up, by patches; anything turned is beyond it."""

    name, parameters, settings = "upright", 0, "patches of 16 px"

    def match(self, image0, image1, **hints):
        found = []
        for y in range(0, image0.shape[0] - 16, 16):
            for x in range(0, image0.shape[1] - 16, 16):
                scores = cv2.matchTemplate(image1, image0[y : y + 16, x : x + 16], cv2.TM_CCOEFF_NORMED)
                _, best, _, (u, v) = cv2.minMaxLoc(scores)
                if best > 0.8:
                    found.append((x + 7.5, y + 7.5, u + 7.5, v + 7.5, best))
        rows = np.array(found, np.float32).reshape(-1, 5)
        return Matches(rows[:, :2], rows[:, 2:4], rows[:, 4])


class Whole(Upright):
    """One transform for the whole image, whatever it is; its confidence alone tells whether it is right."""

    one_transform = True

    def match(self, image0, image1, **hints):
        grid = peers.create("identity", ROOT).match(image0, image1)
        same = image0.shape == image1.shape and float(np.abs(image0.astype(int) - image1).mean()) < 1
        return Matches(grid.points0, grid.points1, np.full(len(grid.points0), 0.9 if same else 0.1, np.float32))


def error(matcher, image0, image1, truth, **hints):
    matches = matcher.match(image0, image1, **hints)
    return metrics.corner_error(metrics.estimate(matches.points0, matches.points1), truth, image0.shape)


def pair(degrees, size=128):
    """A texture that is not square, and the same turned clockwise, with the matrix between them."""
    image0 = texture(7, size)[: size - 32]
    image1, back = turned.turn(image0, -degrees % 360)
    return image0, image1, np.linalg.inv(back)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("model", ["affine", "homography"])
def test_a_turned_pair_is_found_by_the_search_alone(degrees, model):
    image0, image1, truth = pair(degrees)
    assert error(Upright(), image0, image1, truth) > 20
    matcher = turned.Turned(Upright(), 4)
    assert error(matcher, image0, image1, truth, model=model) < 1e-3
    assert matcher.name == "upright, best of 4 turns"
    assert "best of 4 turns by inliers at 3 px" in matcher.settings


def test_diagonals_take_eight_turns():
    image0, image1, truth = pair(45)
    assert error(turned.Turned(Upright(), 4), image0, image1, truth) > 20
    assert error(turned.Turned(Upright(), 8), image0, image1, truth) < 1


def test_upright_pairs_stay_as_they_are():
    image0 = texture(7, 128)
    plain, searched = Upright().match(image0, image0), turned.Turned(Upright(), 8).match(image0, image0)
    assert np.array_equal(plain.points1, searched.points1)


def test_of_whole_transforms_the_surest_is_kept():
    image0, image1, truth = pair(180)
    matcher = turned.Turned(Whole(), 4)
    assert error(matcher, image0, image1, truth) < 1e-3
    assert "by confidence" in matcher.settings


def test_nothing_found_at_any_turn_is_nothing():
    noise = np.random.default_rng(0).integers(0, 255, (2, 96, 96), np.uint8)
    matches = turned.Turned(Upright(), 4).match(*noise)
    assert matches.points0.shape == matches.points1.shape == (0, 2)


@pytest.mark.parametrize("name", ["sift@4", "aliked@4", "sift@8"])
def test_real_peers_find_a_quarter_turn(name):
    try:
        matcher = turned.create(name, ROOT.parent / "shared" / "weights")
    except peers.MatcherUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    image0, image1, truth = pair(90, 192)
    assert error(matcher, image0, image1, truth) < 1
    assert matcher.name.endswith(f", best of {name[-1]} turns")


def test_turning_cuts_nothing_off_and_keeps_colours():
    image = texture(1, 64, 3)[:40]
    image1, back = turned.turn(image, 90)
    assert image1.dtype == np.uint8 and image1.shape == (64, 40, 3)
    x, y = transform_points(back, [[3, 5]])[0].round().astype(int)
    assert np.array_equal(image1[5, 3], image[y, x])
    diagonal, _ = turned.turn(np.full((40, 64), 255, np.uint8), 45)
    assert min(diagonal.shape) >= 73 and diagonal[0, 0] == 0 and diagonal[37, 37] == 255


def test_names_are_split_and_checked():
    assert turned.split("aliked@8") == ("aliked", 8)
    assert turned.split("vismatch:xoftr") == ("vismatch:xoftr", 1)
    turned.check(["tar", "aliked@4", "vismatch:xoftr@8"])
    for wrong, reason in (("aliked@3", "turns are 3; ask for aliked@4 or aliked@8"), ("sift@", "turns are missing")):
        with pytest.raises(ValueError, match=reason):
            turned.check(["tar", wrong])
