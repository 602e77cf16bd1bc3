"""The one percentile stretch, the one grey, and the one rule of "auto"."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.color import rgb_to_grayscale

from kornia_tar import raster as r
from kornia_tar.conventions import LUMINANCE


def as_raster(pixels: np.ndarray) -> r.Raster:
    return r.Raster(pixels, np.ones(pixels.shape[:2], bool), None, Path("memory"))


def by_numpy(image: np.ndarray) -> np.ndarray:
    """The stretch of the evaluation protocol, by NumPy's own percentile, as cached answers were matched under."""
    low, high = np.percentile(image, (2, 98))
    if high <= low:
        return image
    return np.clip((image.astype(np.float32) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)


@given(
    seed=st.integers(0, 9999), height=st.integers(1, 60), width=st.integers(1, 60), bands=st.sampled_from([0, 1, 3]),
    low=st.integers(0, 255), span=st.integers(1, 256), same=st.floats(0, 1),
)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_counting_gives_numpys_percentiles_to_the_bit(seed, height, width, bands, low, span, same):
    rng = np.random.default_rng(seed)
    image = rng.integers(low, min(low + span, 256), (height, width, *([bands] if bands else []))).astype(np.uint8)
    image[rng.random(image.shape) < same] = low  # long plateaus, as saturated images have them
    out = r.percentile_stretch(image)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, by_numpy(image))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_every_dtype_gets_the_same_stretch(dtype):
    image = np.random.default_rng(0).integers(20, 140, (50, 60, 3)).astype(dtype)
    expected = r.percentile_stretch(image.astype(np.uint8)).astype(int)
    np.testing.assert_allclose(r.percentile_stretch(image).astype(int), expected, atol=1)  # float32 rounds otherwise
    assert (expected.min(), expected.max()) == (0, 255)


def test_stretch_by_hand():
    out = r.percentile_stretch(np.arange(101, dtype=np.uint8).reshape(1, -1))
    assert out[0, :3].tolist() == [0, 0, 0] and out[0, 98:].tolist() == [255] * 3 and out[0, 50] == 128
    with_gaps = np.arange(101, dtype=np.float32).reshape(1, -1)
    with_gaps[0, 50] = np.nan
    assert r.percentile_stretch(with_gaps)[0, [0, 50, 100]].tolist() == [0, 0, 255]


def test_images_of_one_value():
    for shape in ((8, 8), (8, 8, 3)):
        flat = np.full(shape, 9, np.uint8)
        np.testing.assert_array_equal(r.percentile_stretch(flat), flat)
        assert not r.percentile_stretch(flat.astype(np.float32)).any()
    few = np.zeros((40, 40), np.float32)
    few[3, 4] = 7
    assert r.percentile_stretch(few)[3, 4] == 255
    assert not r.percentile_stretch(np.full((8, 8), np.nan)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_is_luminance_in_the_images_dtype(dtype):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 4)).astype(dtype)
    grey = r.to_grey(image)
    assert grey.dtype == dtype
    np.testing.assert_array_equal(grey, cv2.cvtColor(image[..., :3].copy(), cv2.COLOR_RGB2GRAY))
    np.testing.assert_allclose(grey, image[..., :3] @ np.array(LUMINANCE), atol=0.51 if dtype == np.uint8 else 1e-4)
    tensor = torch.from_numpy(image[..., :3]).permute(2, 0, 1).float()
    np.testing.assert_allclose(rgb_to_grayscale(tensor / 255)[0] * 255, grey, atol=0.51)
    np.testing.assert_array_equal(r.to_grey(image[..., 0]), image[..., 0])
    np.testing.assert_array_equal(r.to_grey(image[..., :2]), image[..., 0])


@pytest.mark.parametrize(
    ("dtype", "bands", "expected"),
    [
        (np.uint8, 0, None), (np.uint8, 2, None), (np.uint8, 3, "optical"), (np.uint8, 4, "optical"),
        (np.uint16, 0, "sar"), (np.float32, 0, "sar"), (np.float32, 2, "sar"), (np.uint16, 13, "optical"),
    ],
)  # fmt: skip
def test_auto_is_decided_by_bands_and_depth(dtype, bands, expected):
    pixels = (np.random.default_rng(0).random((40, 50, *([bands] if bands else []))) * 200).astype(dtype)
    image = as_raster(pixels)
    assert r.told_modality(image, "auto") == expected
    assert (r.told_modality(image, "sar"), r.told_modality(image, "optical")) == ("sar", "optical")
    if expected is None:  # whatever the network infers, the stretch was right
        np.testing.assert_array_equal(r.to_grey8(image, "sar"), r.to_grey8(image, "optical"))
    np.testing.assert_array_equal(r.to_grey8(image, expected), r.to_grey8(image, expected or "optical"))


def test_a_grey_picture_saved_as_rgb_may_be_either():
    grey = np.random.default_rng(0).integers(0, 256, (40, 50, 1)).astype(np.uint8)
    image = as_raster(np.repeat(grey, 3, axis=-1))
    assert r.told_modality(image, "auto") is None
    np.testing.assert_array_equal(r.to_grey8(image, "sar"), r.to_grey8(image, "optical"))


def test_a_mistyped_modality_is_named():
    with pytest.raises(ValueError, match="radar"):
        r.told_modality(as_raster(np.zeros((40, 40), np.uint8)), "radar")
