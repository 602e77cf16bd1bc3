"""A chip is found in a large image without a georeference, and only what both show is aligned."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from helpers import lively_net, needs_weights, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from kornia_tar import Registrar, TARMatcher
from kornia_tar.conventions import MIN_SIDE, MODALITIES
from kornia_tar.geometry import (
    DisplacementField,
    PointMatches,
    Transform,
    compose,
    corner_error,
    image_corners,
    invert,
    transform_points,
    warp_image,
)
from kornia_tar.raster import to_grey
from kornia_tar.raster.synthetic import demo_pair
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.acceptance import Witnesses
from kornia_tar.registration.held_out import HeldOut
from kornia_tar.registration.result import Registration
from kornia_tar.registration.search.chip import STEP, WINDOW, _windows, find_chip
from kornia_tar.registration.search.common_ground import CommonGround


def blank(height: int, width: int) -> MaskedImage:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return MaskedImage((x + 2 * y) / 4000, np.ones((height, width), bool), "optical")


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


@given(length=st.integers(1, 200), side=st.integers(3, 60))
@settings(deadline=None)
def test_windows_reach_every_cell_and_the_largest_part_of_any_chip(length, side):
    windows = _windows(length, side)
    assert windows[0].start == 0 and windows[-1].stop == length
    assert all(window.stop - window.start == min(side, length) for window in windows)
    chip = int(side / WINDOW)
    for start in range(max(1, length - chip)):
        most = max(min(w.stop, start + chip) - max(w.start, start) for w in windows)
        assert most >= min(chip, length) * STEP - 1


@given(
    corners=st.lists(st.floats(-300, 900), min_size=4, max_size=4),
    size=st.tuples(st.integers(MIN_SIDE, 400), st.integers(MIN_SIDE, 400)),
)
@settings(deadline=None)
def test_a_part_shows_the_box_as_far_as_the_image_goes(corners, size):
    whole = blank(*size)
    low, high = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
    part, to_part = whole.part(low, high)
    assert min(part.size) >= MIN_SIDE
    (x, y), (height, width) = -to_part[:2, 2].astype(int), part.size
    np.testing.assert_array_equal(part.image, whole.image[y : y + height, x : x + width])
    inside = [
        (p, q) for p in (low[0], high[0]) for q in (low[1], high[1]) if 0 <= p < size[1] - 1 and 0 <= q < size[0] - 1
    ]
    for point in inside:
        there = transform_points(to_part, [point])[0]
        assert (there >= 0).all() and (there <= np.array([width, height]) - 1).all()


@torch.no_grad()
def test_a_window_of_features_holds_the_cells_that_it_names():
    net = lively_net()
    features = net.encode(picture(0, 96, 128), torch.tensor([[1.0, 0.0]]), torch.ones(1, 1, 96, 128))
    window = features.window(slice(2, 8), slice(5, 16))
    assert torch.equal(window.coarse, features.coarse[:, :, 2:8, 5:16])
    assert torch.equal(window.fine, features.fine[:, :, 8:32, 20:64])
    assert window.mask is not None and window.mask.shape == (1, 6, 11)
    here, there = net.match(features, features), net.match(window, window)
    assert len(here.points0) and (there.points0.amax(0) < torch.tensor([88, 48])).all()


def test_what_is_found_on_the_common_ground_counts_in_both_images():
    chip, large = blank(120, 100), blank(500, 700)
    truth = compose(np.array([[0.9, 0.1, 0], [-0.1, 0.9, 0], [0, 0, 1]]), shift(400, 210))
    ground = CommonGround.of(chip, large, truth)
    assert ground.first.size == chip.size and max(ground.second.size) < 200
    inward = ground.inward(truth)
    corners = transform_points(inward, image_corners(chip.size))
    assert corners.min() > 0 and (corners < np.array(ground.second.size[::-1])).all()
    field = DisplacementField.over(chip.size, 16, lambda at: np.sin(at / 40))
    points = np.array([[10.0, 20], [80, 90]])
    there = Transform(inward, field)(points)
    matches = PointMatches(points, there, np.ones(2), np.ones(2))
    found = Registration(
        True, (), inward, "spline", matches, np.ones(2, bool), 0, 1.0, 0.5, 0.5, 0.5, 0.99, Witnesses.none(), field,
        HeldOut(1, 1, 1, 1, 1, np.ones((2, 2, 2)), there.reshape(2, 1, 2).repeat(2, 1)),
    )  # fmt: skip
    outcome = ground.outward(found)
    np.testing.assert_allclose(outcome.matches.points1, transform_points(truth, points) + field(points), atol=1e-9)
    np.testing.assert_allclose(outcome.matches.points0, points)
    assert outcome.transform is not None
    np.testing.assert_allclose(outcome.transform(points), outcome.matches.points1, atol=0.03)  # resampled
    np.testing.assert_allclose(outcome.matrix, truth, atol=1e-9)
    back = CommonGround(ground.second, ground.first, ground.to_second, ground.to_first, large.size).outward(found)
    np.testing.assert_allclose(back.held_out.places[:, 0], outcome.matches.points1, atol=1e-9)


@pytest.fixture(scope="module")
def registrar() -> Registrar:
    return Registrar(TARMatcher().fuse())


@needs_weights
@pytest.mark.parametrize("chip_of", ["optical", pytest.param("SAR", marks=pytest.mark.slow)])
def test_a_chip_is_registered_in_the_large_image(registrar, chip_of):
    optical, sar, truth = demo_pair(0)
    top, left, side = 250, 150, 150
    cut = (slice(top, top + side), slice(left, left + side))
    if chip_of == "optical":
        outcome = registrar(optical[cut], sar)
        matrix, truth = outcome.matrix, compose(shift(left, top), truth)
    else:
        outcome = registrar(optical, sar[cut])
        matrix, truth = invert(outcome.matrix), compose(shift(left, top), invert(truth))
    assert outcome.registered, outcome.reasons
    assert corner_error(matrix, truth, (side, side)) < 3
    assert len(outcome.matches) > 100


@needs_weights
@pytest.mark.slow  # a drawn scene convinces at the last scale alone
@pytest.mark.parametrize("finer", ["image0", "image1"])
def test_a_part_that_was_magnified_to_the_size_of_the_whole_is_found(registrar, finer):
    optical, sar, matrix = demo_pair(0)
    whole, (top, left) = slice(128, 384), (70, 90)
    optical, sar = to_grey(optical)[whole, whole], warp_image(sar, Transform(matrix), (512, 512))[whole, whole]
    part, other = (optical, sar) if finer == "image0" else (sar, optical)
    part = cv2.resize(part[top : top + 128, left : left + 128], (256, 256), interpolation=cv2.INTER_CUBIC)
    images = (part, other) if finer == "image0" else (other, part)
    views = [MaskedImage.of(image, None, modality, "image") for image, modality in zip(images, MODALITIES, strict=True)]
    with torch.no_grad():
        pose = find_chip(*views, registrar._encoder, registrar.config)
    assert pose is not None
    truth = np.array([[0.5, 0, left - 0.25], [0, 0.5, top - 0.25], [0, 0, 1]])
    assert corner_error(pose.matrix if finer == "image0" else invert(pose.matrix), truth, (256, 256)) < 6


@needs_weights
@pytest.mark.slow
def test_a_chip_of_another_place_is_refused(registrar):
    optical, sar = demo_pair(1)[0], demo_pair(0)[1]
    outcome = registrar(optical[250:400, 150:300], sar)
    assert not outcome.registered and outcome.reasons
