"""Graphics at the same pixels of two pictures: found, taken out, and ground is let be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers import picture

from kornia_tar.raster.graphics import shared_graphics, without_shared_graphics
from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.raster.view import MaskedImage, as_floats

SIDE = 256


def lines(image: np.ndarray, width: int, tone: int, slope: float = 0.0, kind: int = cv2.LINE_8) -> None:
    for at in range(30, 2 * SIDE, 60):
        cv2.line(image, (at, 0), (int(at - SIDE * slope), SIDE), tone, width, kind)
        cv2.line(image, (0, at), (SIDE, int(at + SIDE * slope)), tone, width, kind)


def words(image: np.ndarray) -> None:
    for row, (text, tone) in enumerate((("Kornau", 255), ("TARHEIM", 0), ("Seefeld 12", 255))):
        cv2.putText(image, text, (30 + 40 * row, 60 + 70 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.7, tone, 2, cv2.LINE_AA)


def legend(image: np.ndarray) -> None:
    cv2.rectangle(image, (170, 180), (245, 245), 255, -1)
    cv2.rectangle(image, (170, 180), (245, 245), 0, 1)
    for row, tone in enumerate((60, 130, 200)):
        cv2.rectangle(image, (178, 188 + 18 * row), (194, 200 + 18 * row), tone, -1)
    cv2.putText(image, "town", (200, 200), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1, cv2.LINE_AA)


def collar(image: np.ndarray) -> None:
    ground = image[20:-20, 20:-20].copy()
    image[:] = 255
    image[20:-20, 20:-20] = ground
    cv2.rectangle(image, (19, 19), (SIDE - 20, SIDE - 20), 0, 1)
    for at in range(40, SIDE - 20, 50):
        cv2.putText(image, str(4000 + at), (at, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 0, 1, cv2.LINE_AA)


KINDS = {
    "white lines of 1 px": lambda image: lines(image, 1, 255),
    "black lines of 2 px": lambda image: lines(image, 2, 0),
    "grey lines of 3 px": lambda image: lines(image, 3, 128),
    "slanting antialiased lines": lambda image: lines(image, 1, 255, 0.1, cv2.LINE_AA),
    "words": words,
    "legend": legend,
    "collar": collar,
}


@pytest.fixture(scope="module")
def places() -> list[tuple[np.ndarray, np.ndarray]]:
    """Optical and SAR image of three places, on one grid each."""
    scenes = [draw_scene(seed, SIDE) for seed in range(3)]
    return [(cv2.cvtColor(scene.optical, cv2.COLOR_RGB2GRAY), scene.sar) for scene in scenes]


def drawn(kind: str, *images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The images with the graphics on them, and where those are."""
    copies = [image.copy() for image in (*images, np.full((SIDE, SIDE), 77, np.uint8))]
    for copy in copies:
        KINDS[kind](copy)
    return copies[:-1], copies[-1] != 77


def seen(image: np.ndarray, mask: np.ndarray | None = None) -> MaskedImage:
    return MaskedImage.of(image, mask, None, "image")


def everywhere() -> np.ndarray:
    return np.ones((SIDE, SIDE), bool)


@pytest.mark.parametrize("coded", [False, True], ids=["exact", "jpeg"])
@pytest.mark.parametrize("kind", KINDS)
def test_graphics_on_two_places_are_found_and_little_else(places, kind, coded):
    images, cover = drawn(kind, places[0][0], places[1][1])
    if coded:
        images = [cv2.imdecode(cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0) for i in images]
    found = shared_graphics(*images, everywhere())
    assert found[cover].mean() > 0.8
    assert found[~cv2.dilate(cover.astype(np.uint8), np.ones((7, 7))).astype(bool)].mean() < 0.05


def test_ground_that_coincides_is_no_graphics(places):
    for optical, sar in places:
        assert shared_graphics(optical, sar, everywhere()).mean() < 0.01


def test_an_image_and_itself_are_let_be(places):
    optical, _ = places[0]
    brighter = np.clip(255 * (optical / 255.0) ** 0.7, 0, 255).astype(np.uint8)
    one, two = seen(optical), seen(brighter)
    cleaned = without_shared_graphics(one, two)
    assert cleaned[0] is one and cleaned[1] is two


def test_two_copies_of_a_smooth_picture_are_let_be_where_a_mask_hides_half():
    image = picture(1, 64, 80)[0, 0].numpy()
    mask = np.ones((64, 80), bool)
    mask[:, :40] = False
    one, two = seen(image, mask), seen(image)
    cleaned = without_shared_graphics(one, two)
    assert cleaned[0] is one and cleaned[1] is two


def test_graphics_on_one_image_alone_are_let_be(places):
    (optical,), _ = drawn("white lines of 1 px", places[0][0])
    assert shared_graphics(optical, places[1][1], everywhere()).mean() < 0.01


@pytest.mark.parametrize(("kind", "least", "most"), [("white lines of 1 px", 0.99, 1.0), ("legend", 0.4, 0.75)])
def test_what_ground_is_near_is_filled_with_it_and_the_rest_becomes_invalid(places, kind, least, most):
    images, cover = drawn(kind, places[0][0], places[1][1])
    kept = [image.copy() for image in images]
    views = [seen(image) for image in images]
    cleaned = without_shared_graphics(*views)
    for view, clean, image, copy in zip(views, cleaned, images, kept, strict=True):
        np.testing.assert_array_equal(image, copy)
        assert least <= clean.mask[cover].mean() <= most
        untouched = ~cv2.dilate(cover.astype(np.uint8), np.ones((15, 15))).astype(bool) & clean.mask
        assert (view.image[untouched] == clean.image[untouched]).mean() > 0.97
    filled = cover & cleaned[0].mask & cleaned[1].mask  # like the ground, and not the same in both
    assert np.mean(as_floats(cleaned[0].image)[filled]) < 0.8
    assert abs(np.corrcoef(*(clean.image[filled] for clean in cleaned))[0, 1]) < 0.3


def test_equal_images_give_equal_results(places):
    images, _ = drawn("words", places[0][0], places[1][1])
    one, two = (without_shared_graphics(*(seen(image) for image in images)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)


def test_pictures_of_two_sizes_are_compared_at_the_smaller(places):
    images, cover = drawn("collar", places[0][0], places[1][1])
    large = cv2.resize(images[0], (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC)
    for pair in ((large, images[1]), (images[1], large)):
        for image, clean in zip(pair, without_shared_graphics(*(seen(image) for image in pair)), strict=True):
            there = cv2.resize(cover.astype(np.uint8), image.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
            changed = ~clean.mask | (clean.image != seen(image).image)
            assert changed[there].mean() > 0.85 and changed[~there].mean() < 0.1


def test_pictures_of_two_shapes_are_let_be(places):
    images, _ = drawn("white lines of 1 px", places[0][0], places[1][1])
    one, two = seen(images[0]), seen(images[1][:200])
    assert without_shared_graphics(one, two) == (one, two)


@pytest.mark.parametrize("tone", [0, 255, 90])
def test_a_frame_of_one_tone_is_nodata_in_either_image(places, tone):
    framed, plain = places[0][0].copy(), places[1][1]
    framed[:12], framed[:, -9:] = tone, tone
    one, two = without_shared_graphics(seen(framed), seen(plain))
    frame = np.zeros((SIDE, SIDE), bool)
    frame[:12], frame[:, -9:] = True, True
    np.testing.assert_array_equal(one.mask, ~frame)
    assert two.mask.mean() > 0.99


def test_a_common_clip_polygon_that_no_mask_declares_is_found(places):
    polygon = np.array([[30, 40], [120, 10], [230, 60], [240, 200], [140, 245], [15, 180]], np.int32)
    inside = cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), [polygon], 1).astype(bool)
    pair = [np.where(inside, np.maximum(image, 1), 0).astype(np.uint8) for image in (places[0][0], places[1][1])]
    for clean in without_shared_graphics(*(seen(image) for image in pair)):
        assert np.mean(clean.image[~inside & clean.mask] == 0) < 0.1 and clean.mask[inside].mean() > 0.9


def test_flat_and_empty_images_come_back(places):
    flat = np.full((SIDE, SIDE), 128, np.uint8)
    for view in (seen(flat), seen(flat, np.zeros((SIDE, SIDE), bool))):
        assert without_shared_graphics(view, seen(places[0][0]))[0] is view
