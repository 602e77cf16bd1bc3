"""Plane alignment: it begins from where the cells agree, and ends at the size that tells most."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from helpers import needs_weights, small_matcher

from kornia_tar import AlignmentConfig, TARMatcher
from kornia_tar.geometry import compose, corner_error, image_corners, invert
from kornia_tar.raster.synthetic import demo_pair
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.plane import PlaneAlignment

SIZE = (256, 256)


@pytest.fixture(scope="module")
def pair():
    """A synthetic pair of 256 px, and the matrix from the first to the second."""
    optical, sar, truth = demo_pair()
    first, to_first = MaskedImage.of(optical, None, "optical", "image0").reduced(SIZE[0])
    second, to_second = MaskedImage.of(sar, None, "sar", "image1").reduced(SIZE[0])
    return first, second, compose(compose(invert(to_first), truth), to_second)


def alignment(pair, matcher: TARMatcher, **rules) -> PlaneAlignment:
    config = AlignmentConfig(**rules)
    return PlaneAlignment(*pair[:2], TileEncoder(matcher, config.tile, config.max_cells), config)


@needs_weights
@torch.no_grad()
def test_a_start_whose_matches_were_half_wrong_is_settled(pair):
    """The left half right, the right half 40 px off, as an affine fit makes of a second look that slid away."""
    corners = image_corners(SIZE).astype(np.float32)
    there = corners + np.where(corners[:, :1] > 0, [[0, 40]], [[0, -4]]).astype(np.float32)
    slid = compose(np.vstack([cv2.getAffineTransform(corners[:3], there[:3]), [0, 0, 1]]), pair[2])
    assert corner_error(slid, pair[2], SIZE) > 15
    plane = alignment(pair, TARMatcher().fuse())
    settled = plane.settled(slid, "affine")
    assert corner_error(settled, pair[2], SIZE) < 4
    refined = plane.refine(settled, "affine", image_corners(SIZE))
    assert refined is not None
    assert corner_error(refined.transform.matrix, pair[2], SIZE) < 2


@torch.no_grad()
def test_a_start_without_common_ground_stays_and_is_refined_to_nothing(pair):
    away = np.array([[1, 0, 1000.0], [0, 1, 0], [0, 0, 1]])
    plane = alignment(pair, small_matcher())
    np.testing.assert_array_equal(plane.settled(away, "affine"), away)
    assert plane.refine(away, "affine", image_corners(SIZE)) is None
