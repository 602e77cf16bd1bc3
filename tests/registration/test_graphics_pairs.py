"""Graphics at the same pixels of both pictures do not decide a registration: the ground does."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from helpers import needs_weights

from kornia_tar import AcceptanceConfig, Registrar, RegistrarConfig, SearchConfig, TARMatcher
from kornia_tar.geometry import corner_error, invert, warp_image
from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.registration.acceptance import Witnesses

SIDE = 256
TRUTH = np.array([[0.97, 0.17, -10.0], [-0.17, 0.97, 34.0], [0, 0, 1]])  # image0 → image1
QUICK = SearchConfig(rotations=1, scales=(1.0,))
PASSES = {
    "gain": 0.3, "cells": 2000, "error": 1.0, "agreement": 0.9, "excess_gain": 0.4, "trimmed_excess": 0.3,
    "block_agreement": 0.9,
}  # fmt: skip


def sheet(image: np.ndarray) -> np.ndarray:
    """The picture with a graticule, a place name, a scale bar and a collar."""
    drawn = image.copy()
    for at in range(32, SIDE, 64):
        cv2.line(drawn, (at, 0), (at, SIDE), 255, 1)
        cv2.line(drawn, (0, at), (SIDE, at), 255, 1)
    cv2.putText(drawn, "KORNAU", (90, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
    for box in range(4):
        cv2.rectangle(drawn, (30 + 20 * box, 225), (49 + 20 * box, 230), 255 * (box % 2), -1)
    ground = drawn[14:-14, 14:-14].copy()
    drawn[:] = 255
    drawn[14:-14, 14:-14] = ground
    cv2.rectangle(drawn, (13, 13), (SIDE - 14, SIDE - 14), 0, 1)
    return drawn


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Optical image, and the SAR image of the same place moved by ``TRUTH``."""
    found, middle = draw_scene(seed, 2 * SIDE), np.array([[1, 0, SIDE / 2], [0, 1, SIDE / 2], [0, 0, 1]])
    sar = warp_image(found.sar.astype(np.float32), middle @ invert(TRUTH), (SIDE, SIDE))
    optical = cv2.cvtColor(found.optical, cv2.COLOR_RGB2GRAY)[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2]
    return np.ascontiguousarray(optical), np.rint(sar).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def matcher() -> TARMatcher:
    return TARMatcher()


@needs_weights
def test_a_true_pair_with_a_sheets_graphics_is_registered_by_its_ground(matcher):
    optical, sar = scene(1)
    found = Registrar(matcher, RegistrarConfig(search=QUICK))(sheet(optical), sheet(sar))
    assert found.registered, found.reasons
    assert corner_error(found.matrix, TRUTH, (SIDE, SIDE)) < 3
    assert found.witnesses.block_agreement > 0.7 and found.witnesses.trimmed_excess > 0.1


@pytest.mark.slow  # two mismatched registrations; the last test here holds the rule
@needs_weights
def test_two_places_with_one_sheets_graphics_are_refused(matcher):
    images = [sheet(image) for image in (scene(1)[0], scene(2)[1])]
    fooled = Registrar(matcher, RegistrarConfig(search=QUICK, mask_graphics=False))(*images)
    assert corner_error(fooled.matrix, np.eye(3), (SIDE, SIDE)) < 3, "the graphics are not told"
    found = Registrar(matcher, RegistrarConfig(search=QUICK))(*images)
    assert not found.registered


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"trimmed_excess": 0.004}, "fifth of the cells.*0.00 nats more than at a decoy, at least"),
        ({"block_agreement": 0.31}, "31% of the overlap's blocks agree, at least 60%"),
        ({"block_agreement": float("nan")}, None),
    ],
)
def test_agreement_of_a_few_places_is_refused_in_words(change, words):
    reasons = AcceptanceConfig().refusal(np.eye(3), (SIDE, SIDE), 0.95, Witnesses(**{**PASSES, **change}))
    assert len(reasons) == (words is not None)
    assert all(re.search(words, reason) for reason in reasons)
