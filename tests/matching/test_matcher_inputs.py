"""Wrong input is named in one line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers import pair, picture, small_matcher

from kornia_tar import TARMatcher


@pytest.fixture(scope="module")
def matcher() -> TARMatcher:
    return small_matcher()


@pytest.mark.parametrize("missing", ["image0", "image1"])
def test_a_missing_image_is_said_to_be_missing(matcher, missing):
    data = {key: value for key, value in pair(64, 64).items() if key != missing}
    with pytest.raises(TypeError, match=f"{missing} is missing: .* the data hold image"):
        matcher(data)


def bad(key: str, value: object) -> dict:
    data = {"image0": picture(1, 64, 64, 2), "image1": picture(2, 64, 64, 2)}
    return {**data, key: value}


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (bad("image0", None), TypeError, "image0"),
        (bad("image1", np.zeros((1, 1, 64, 64), np.float32)), TypeError, "image1.*ndarray"),
        (bad("image0", torch.zeros(2, 1, 64, 64, dtype=torch.uint8)), TypeError, "image0.*uint8.*255"),
        (bad("image1", torch.zeros(64, 64)), ValueError, r"image1.*\(64, 64\).*\(B, 1\|3, H, W\)"),
        (bad("image0", torch.zeros(2, 2, 64, 64)), ValueError, r"image0.*\(2, 2, 64, 64\)"),
        (bad("image0", torch.zeros(0, 1, 64, 64)), ValueError, r"image0.*\(0, 1, 64, 64\)"),
        (bad("image1", torch.zeros(2, 1, 31, 64)), ValueError, "image1.*64×31.*32×32"),
        (bad("image0", torch.full((2, 1, 64, 64), torch.nan)), ValueError, "image0.*NaN.*mask0"),
        (bad("image1", torch.full((2, 1, 64, 64), torch.inf)), ValueError, "image1.*Inf.*mask1"),
        (bad("image1", torch.zeros(3, 1, 64, 64)), ValueError, "image0.*2.*image1.*3"),
        (bad("mask0", torch.ones(2, 64, 63)), ValueError, r"mask0.*\(2, 64, 63\).*\(2, 64, 64\)"),
        (bad("mask1", torch.ones(2, 3, 64, 64)), ValueError, r"mask1.*\(2, 3, 64, 64\).*\(2, 1, 64, 64\)"),
        (bad("mask1", [1]), TypeError, "mask1.*list"),
        (bad("modality0", "radar"), ValueError, "modality0.*radar.*optical.*sar"),
        (bad("modality1", ["sar"]), ValueError, "modality1.*2"),
        (bad("modality1", ["sar", "x"]), ValueError, "modality1.*x"),
        (bad("modality1", 3), (TypeError, ValueError), "modality1.*3"),
    ],
)
def test_wrong_input_is_named_in_one_line(matcher, data, error, words):
    with pytest.raises(error) as caught:
        matcher(data)
    assert re.search(words, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)
