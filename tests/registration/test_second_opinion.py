"""Outcomes in doubt, asked again with both images turned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import demo_middle, needs_weights

from kornia_tar import AcceptanceConfig, Registrar, RegistrarConfig, SearchConfig, TARMatcher
from kornia_tar.geometry import FloatArray, PointMatches, compose, corner_error, invert
from kornia_tar.network.calibration import LogisticFit, RegistrationFits
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.acceptance import Witnesses
from kornia_tar.registration.result import Registration
from kornia_tar.registration.second_opinion import SAME_PLACE, ask_again, in_doubt

RULES = AcceptanceConfig()
GOOD = Witnesses(0.2, 2000, 2.0, 0.8, 0.25, 0.25, 0.9)
TRUTH = np.array([[1.02, -0.03, 7.0], [0.04, 0.98, -5.0], [0.0, 0.0, 1.0]])
FIRST, SECOND = (
    MaskedImage.of(np.random.default_rng(k).integers(0, 255, size, np.uint8), None, name, name)
    for k, size, name in ((0, (64, 96), "optical"), (1, (80, 72), "sar"))
)


def outcome(matrix: FloatArray, probability: float, witnesses: Witnesses = GOOD) -> Registration:
    checks = RULES.checks(matrix, FIRST.size, probability, witnesses)
    reasons = tuple(check.reason for check in checks if not check.passed)
    return Registration(
        not reasons, reasons, matrix, "affine", PointMatches.empty(), np.zeros(0, bool),
        0, 1.0, 1.0, 1.0, 1.0, probability, witnesses, checks=checks,
    )  # fmt: skip


def test_only_what_lacks_probability_alone_and_is_not_hopeless_is_in_doubt():
    assert in_doubt(outcome(TRUTH, 0.3), RULES)
    assert not in_doubt(outcome(TRUTH, 0.01), RULES)
    assert not in_doubt(outcome(TRUTH, 0.9), RULES)
    assert not in_doubt(outcome(TRUTH, 0.3, replace(GOOD, trimmed_excess=0.1)), RULES), "graphics turn with the images"
    assert not in_doubt(outcome(np.diag([-1.0, 1, 1]), 0.3), RULES)
    assert not in_doubt(outcome(TRUTH, 0.3), replace(RULES, ask_again=1))


@pytest.mark.parametrize(
    ("place", "off", "accepted"), [(0.4, 0.0, True), (0.4, SAME_PLACE + 1, False), (0.05, 0.0, False)]
)
def test_a_turned_pair_speaks_for_the_place_to_which_it_leads(place, off, accepted):
    """Each is right with the given probability, so that both together are wrong with the product of the rest."""
    asked: list[tuple[MaskedImage, MaskedImage]] = []

    def register(first: MaskedImage, second: MaskedImage) -> Registration:
        asked.append((first, second))
        from0, from1 = FIRST.turned(90)[1], SECOND.turned(90)[1]
        there = compose(TRUTH, np.array([[1.0, 0, off], [0, 1, 0], [0, 0, 1]]))
        return outcome(compose(compose(from0, there), invert(from1)), place)

    fit = LogisticFit(math.log(place / (1 - place)), {})
    doubted = outcome(TRUTH, place)
    found = ask_again(doubted, FIRST, SECOND, register, RULES, RegistrationFits(fit, fit))
    assert [image.size for image in asked[0]] == [(96, 64), (72, 80)]
    assert found.registered == accepted and bool(found.reasons) != accepted
    np.testing.assert_array_equal(found.matrix, TRUTH)
    if off:
        assert found is doubted
    else:
        assert found.probability == pytest.approx(1 - (1 - place) ** 2, abs=0.01), "of 2 px, which is exact enough"


def test_a_turned_pair_that_lacks_more_than_probability_does_not_speak():
    def register(first: MaskedImage, second: MaskedImage) -> Registration:
        return outcome(np.diag([-1.0, 1, 1]), 0.9)

    fits = RegistrationFits(LogisticFit(0.0, {}), LogisticFit(0.0, {}))
    doubted = outcome(TRUTH, 0.5)
    assert ask_again(doubted, FIRST, SECOND, register, RULES, fits) is doubted


@needs_weights
def test_a_real_pair_in_doubt_gains_by_being_turned():
    optical, sar, truth = demo_middle(side=128)
    upright = SearchConfig(rotations=1, scales=(1.0,))
    registrar = Registrar(
        TARMatcher().fuse(), RegistrarConfig(search=upright, acceptance=AcceptanceConfig(ask_again=1))
    )
    once = registrar(optical, sar)
    strict = AcceptanceConfig(min_probability=min(1.0, once.probability + 1e-9), ask_again=0)
    again = registrar.with_config(replace(registrar.config, acceptance=strict))(optical, sar)
    assert 0.01 < once.probability < again.probability
    assert again.registered and not again.reasons
    np.testing.assert_array_equal(again.matrix, once.matrix)
    assert corner_error(again.matrix, truth, (128, 128)) < 5
