"""Graphics at the same pixels of both pictures do not decide a registration: the ground does."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import needs_weights

from kornia_tar import AcceptanceConfig, Registrar, RegistrarConfig, SearchConfig, TARMatcher, register_georeferenced
from kornia_tar.geometry import corner_error, invert, warp_image
from kornia_tar.raster import GeoProfile, Raster, read_image, write_image
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


def georeferenced_sheets(folder: Path, optical: int, sar: int, error: tuple[int, int]) -> list[Raster]:
    """Write and read two sheets, of scenes drawn by these seeds, of which the second begins 24 px east, 16 px south.

    Its georeference says so, but for an error, east and south. So their graphics lie elsewhere on the grid of the
    ground than they lie in the files.
    """
    affine = pytest.importorskip("affine")
    corner, found = (100, 100), []
    for name, scene, (east, south), off in (
        ("o.tif", cv2.cvtColor(draw_scene(optical, 2 * SIDE).optical, cv2.COLOR_RGB2GRAY), (0, 0), (0, 0)),
        ("s.tif", draw_scene(sar, 2 * SIDE).sar, (24, 16), error),
    ):
        x, y = corner[0] + east, corner[1] + south
        place = affine.Affine(10, 0, 5e5 + 10 * (x + off[0]), 0, -10, 4.6e6 - 10 * (y + off[1]))
        write_image(folder / name, sheet(scene[y : y + SIDE, x : x + SIDE]), GeoProfile("EPSG:32632", place))
        found.append(read_image(folder / name))
    return found


@needs_weights
@pytest.mark.parametrize("error", [(-23, -15), pytest.param((3, 2), marks=pytest.mark.slow)])
def test_sheets_that_lie_apart_are_registered_by_their_ground(matcher, tmp_path, error):
    """Their graphics coincide in the files' pixels, and on the grid of the ground no more."""
    first, second = georeferenced_sheets(tmp_path, 3, 3, error)
    registrar = Registrar(matcher, RegistrarConfig(search=QUICK))
    found, search = register_georeferenced(registrar, first, second, first.pixels, second.pixels)
    assert found.registered and search.kind == "georeference", found.reasons
    assert corner_error(found.matrix, np.array([[1.0, 0, -24], [0, 1, -16], [0, 0, 1]]), (SIDE, SIDE)) < 3


@needs_weights
@pytest.mark.slow  # two mismatched registrations
def test_sheets_of_two_places_that_lie_apart_are_refused(matcher, tmp_path):
    first, second = georeferenced_sheets(tmp_path, 4, 5, (-23, -15))
    told = []
    for masked in (False, True):
        registrar = Registrar(matcher, RegistrarConfig(search=QUICK, mask_graphics=masked))
        told.append(register_georeferenced(registrar, first, second, first.pixels, second.pixels)[0])
    fooled, found = told
    assert corner_error(fooled.matrix, np.eye(3), (SIDE, SIDE)) < 3, "the graphics are not told"
    assert not found.registered and corner_error(found.matrix, np.eye(3), (SIDE, SIDE)) > 3


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
