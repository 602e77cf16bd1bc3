"""Conventions that are more than names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kornia_tar.conventions import turn_back


@pytest.mark.parametrize("quarters", range(-1, 5))
def test_pixels_of_a_turned_image_come_back_to_the_same_pixels(quarters):
    image = np.arange(5 * 7).reshape(5, 7)
    turned = np.rot90(image, quarters)
    assert np.array_equal(turned, torch.from_numpy(image).rot90(quarters))
    y, x = np.indices(turned.shape)
    x, y = turn_back(x, y, quarters, *image.shape)
    np.testing.assert_array_equal(image[y, x], turned)
