"""Acceptance: the probability that a transform is right, from what speaks for it, and the reasons in words."""

import math
from dataclasses import replace

import numpy as np
import pytest

from kornia_tar import AcceptanceConfig
from kornia_tar.network.calibration import Calibration, LogisticFit, RegistrationFits
from kornia_tar.registration.acceptance import TransformLimits, VerificationConfig, Witnesses, failed, probability_right

GOOD = Witnesses(gain=0.5, cells=2000, error=0.8, agreement=0.92, excess_gain=0.5, trimmed_excess=0.5)
POOR = Witnesses(gain=-0.1, cells=2000, error=9.0, agreement=0.2, excess_gain=0.05, trimmed_excess=0.03)


@pytest.mark.parametrize(
    "fits", [RegistrationFits(), Calibration.from_metadata(Calibration().to_metadata()).registration]
)
def test_good_witnesses_are_believed_and_poor_ones_are_not(fits):
    assert probability_right(GOOD, fits) > 0.9 > 0.1 > probability_right(POOR, fits)


def test_weights_without_a_second_look_are_judged_by_the_rest():
    blind, lost = (replace(w, agreement=math.nan) for w in (GOOD, POOR))
    assert probability_right(blind, RegistrationFits()) > 0.9 > 0.1 > probability_right(lost, RegistrationFits())
    fits = RegistrationFits(LogisticFit(0.0, {}), LogisticFit(0.0, {"gain": 100.0}))
    unseen = replace(GOOD, agreement=math.nan)
    assert probability_right(unseen, fits) > 0.99
    assert probability_right(GOOD, fits) == pytest.approx(0.5, abs=1e-4)


def test_a_sure_place_is_as_probable_as_its_error_is_small():
    fits = RegistrationFits(LogisticFit(100.0, {}), LogisticFit(100.0, {}))
    said = [probability_right(replace(GOOD, error=error), fits) for error in (1.0, 5.0, 8.0, 11.0, 20.0, math.inf)]
    assert said == sorted(said, reverse=True) and said[0] > 0.999 and said[1] > 0.9 and said[-1] == 0
    assert said[3] == pytest.approx(0.5, abs=0.01)
    assert probability_right(replace(GOOD, error=4.0, finer=2.0), fits) == said[2]  # px of image1


def test_a_transform_whose_corners_may_be_far_off_is_refused_however_probable():
    rules, far = AcceptanceConfig(), replace(GOOD, error=6.5, finer=2.0)  # px of the coarser image; 13 of image1
    (reason,) = rules.refusal(np.eye(3), (256, 256), 0.99, far)
    assert "13.0 px, at most 12" in reason
    assert rules.refusal(np.eye(3), (256, 256), 0.99, replace(far, finer=1.0)) == ()
    assert AcceptanceConfig(max_error=15).refusal(np.eye(3), (256, 256), 0.99, far) == ()


def test_numbers_stay_finite_where_nothing_was_found():
    assert all(math.isfinite(value) for value in Witnesses.none().features().values())
    assert probability_right(Witnesses.none(), RegistrationFits()) < 0.01


def test_the_refusal_says_number_and_need():
    rules = AcceptanceConfig(min_probability=0.9)
    assert rules.refusal(np.eye(3), (256, 256), 0.95, GOOD) == ()
    reason, few = rules.refusal(np.eye(3), (256, 256), 0.12, POOR)
    assert "0.03" in few and "at least 0.15" in few
    assert "0.12" in reason and "at least 0.9" in reason and "20%" in reason and "9.0 px" in reason
    mirrored = np.diag([-1.0, 1, 1])
    assert any("mirrors" in reason for reason in rules.refusal(mirrored, (256, 256), 0.95, GOOD))


def test_every_check_is_told_with_its_number_and_limit():
    rules = AcceptanceConfig(min_probability=0.8)
    told = {check.name: check for check in rules.checks(np.diag([5.0, 5, 1]), (256, 256), 0.7, GOOD)}
    assert [name for name, check in told.items() if not check.passed] == ["probability", "scale"]
    assert (told["probability"].value, told["probability"].least) == (0.7, 0.8)
    assert (told["scale"].value, told["scale"].least, told["scale"].most) == (pytest.approx(5), 0.25, 4)
    assert failed(told.values()) == rules.refusal(np.diag([5.0, 5, 1]), (256, 256), 0.7, GOOD)
    assert "reason" not in told["scale"].report() and told["scale"].report()["passed"] is False


def test_a_number_that_just_misses_its_limit_does_not_read_as_the_limit():
    near = replace(POOR, trimmed_excess=0.1497, error=12.04, block_agreement=0.5968)
    told = "; ".join(AcceptanceConfig().refusal(np.diag([4.001, 4.001, 1]), (256, 256), 0.54996, near))
    assert "is 0.54996, at least 0.55" in told and "gains 0.1497 nats more than at a decoy, at least 0.15" in told
    assert "corners is 12.04 px, at most 12" in told and "59.7% of the overlap's blocks agree, at least 60%" in told
    assert "scale 4.001 is not between 1/4 and 4" in told
    small, stretched = np.diag([0.2497, 0.2497, 1]), np.diag([1.602, 1, 1])
    assert "scale 0.2497 is not" in "".join(TransformLimits().violations(small, (256, 256)))
    assert "stretched 1.602 times as much as the other, at most 1.6" in str(
        TransformLimits().violations(stretched, (256, 256))
    )
    corner = np.mgrid[:10, :10].reshape(2, -1).T * 2.0
    (reason,) = VerificationConfig(min_spread=0.064).refusal(np.eye(3), corner, 100, (100, 100), True)
    assert reason == "inliers cover 6.2% of image0, need 6.4%"


@pytest.mark.parametrize("least", [-0.1, 1.1])
def test_a_probability_lies_between_0_and_1(least):
    with pytest.raises(ValueError, match="min_probability"):
        AcceptanceConfig(min_probability=least)


def test_a_fit_of_no_finite_numbers_is_refused():
    with pytest.raises(ValueError, match="finite"):
        LogisticFit(math.nan, {})
