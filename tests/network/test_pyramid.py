"""Pyramid: which sizes, what is carried from one to the next, and that large images are matched as small ones are."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_same_matches, needs_weights, paired, picture

from kornia_tar import TARMatcher
from kornia_tar.network import pyramid
from kornia_tar.network.frames import Frame, ImageFeatures, Matches
from kornia_tar.network.pyramid import carry, sizes, thinned
from kornia_tar.raster.synthetic import draw_scene


def frame(image: torch.Tensor) -> Frame:
    none = torch.zeros(0)
    return Frame(image, None, None, ImageFeatures(none, none, none, None))


def test_images_up_to_512_are_matched_at_once_and_larger_ones_by_halves():
    assert sizes((1, 1, 512, 512), (1, 1, 512, 512)) == [1.0]
    assert sizes((1, 1, 1024, 256), (1, 1, 300, 300)) == [1.0]
    assert sizes((1, 1, 1024, 1024), (1, 1, 1024, 1024)) == pytest.approx([0.5, 1.0])
    assert sizes((1, 1, 4096, 4096), (1, 1, 4096, 4096)) == pytest.approx([0.125, 0.25, 0.5, 1.0])
    first = sizes((1, 1, 1600, 1200), (1, 1, 1600, 1200))[0]
    assert (1600 * 1200 / 64) ** 2 * first**4 == pytest.approx(pyramid.COMPARED)


def test_a_chip_of_a_large_image_keeps_more_of_its_pixels():
    alone, chip = sizes((1, 1, 2048, 2048), (1, 1, 2048, 2048))[0], sizes((1, 1, 2048, 2048), (1, 1, 300, 300))[0]
    assert alone < chip < 1 and chip == sizes((1, 1, 300, 300), (1, 1, 2048, 2048))[0]


def test_points_stay_where_they_are_on_the_ground():
    small, large = (frame(torch.zeros(1, 1, *size)) for size in ((50, 40), (100, 80)))
    points = torch.tensor([[-0.5, -0.5], [39.5, 49.5], [10.0, 20.0]])
    one = torch.ones(3)
    carried = carry(Matches(points, points, one, one, one.long()), (small, large), (large, small))
    torch.testing.assert_close(carried.points0, torch.tensor([[-0.5, -0.5], [79.5, 99.5], [20.5, 40.5]]))
    torch.testing.assert_close(carried.points1, (points + 0.5) / 2 - 0.5)


def test_many_matches_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(pyramid, "STARTS", 100)
    index = torch.arange(64 * 8).float()
    points = torch.stack([index % 64, index // 64], -1)
    found = Matches(points, points, index, index, torch.zeros(512, dtype=torch.long))
    few = thinned(found)
    assert 50 < len(few.std) <= 100 and len(few.points0[:, 0].unique()) > 40
    assert torch.equal(thinned(few).std, few.std)


@pytest.fixture(scope="module")
def shipped() -> TARMatcher:
    return TARMatcher().fuse()


def scene(seed: int = 4) -> dict[str, object]:
    drawn = draw_scene(seed, 192)
    optical = torch.from_numpy(drawn.optical[:160, :176, 1].copy())[None, None].float() / 255
    sar = torch.from_numpy(drawn.sar[5:165, 9:185].copy())[None, None].float() / 255
    return {"image0": optical, "image1": sar, "modality0": "optical", "modality1": "sar"}


@torch.no_grad()
@needs_weights
def test_large_images_are_matched_through_smaller_ones(shipped, monkeypatch):
    data = scene()
    data["mask1"] = torch.ones(1, 160, 176)
    data["mask1"][..., :24] = 0
    whole = shipped(data)
    monkeypatch.setattr(pyramid, "COMPARED", 12**4)
    monkeypatch.setattr(pyramid, "ATTENDED", 2 * 12**4)
    factors = sizes((160, 176), (160, 176))
    assert len(factors) == 2
    found = shipped(data)
    errors = (found["keypoints1"] + torch.tensor([9.0, 5.0]) - found["keypoints0"]).norm(dim=1)
    assert (errors < 3).float().mean() > 0.8 and len(errors) > 0.8 * len(whole["confidence"])
    assert (found["keypoints1"][:, 0].round() >= 24).all()
    swapped = shipped({key[:-1] + str(1 - int(key[-1])): value for key, value in data.items()})
    swapped["keypoints0"], swapped["keypoints1"] = swapped["keypoints1"], swapped["keypoints0"]
    assert_same_matches(paired(found), paired(swapped), 1e-2)


@torch.no_grad()
@needs_weights
def test_one_look_compares_all_cells_whatever_the_size(shipped, monkeypatch):
    image = picture(0, 96, 96)
    whole = shipped.net(image, image.flip(3))
    monkeypatch.setattr(pyramid, "COMPARED", 4**4)
    torch.testing.assert_close(shipped.net(image, image.flip(3)), whole, rtol=0, atol=0)
