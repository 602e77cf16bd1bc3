"""Every rule of "trust it or not" in one room.

A registration is accepted when the probability that it is right is large enough, which is one calibrated decision on
several witnesses, its estimated error is small enough, and its transform is one that two overhead images can have. Raw
matches of a pair are accepted when a transform or an epipolar geometry has enough of them as inliers, evenly enough
spread. Each check gives its reason in words, with the number and what was needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from kornia_tar.geometry import FloatArray, decompose, spread
from kornia_tar.network.calibration import RegistrationFits

MANY_CELLS = 2000  # from which on chance agreement does not grow less; of fewer it is found more often
SQUARE = 1.05  # stretch up to which a transform counts as a similarity: of two sensors' pixels, or of our own error
RIGHT = 10.0  # px of image1, mean corner error below which a transform counts as right; the estimate says how exact
# True over estimated error: its median, and the standard deviation of its logarithm; 219 `hard` pairs of val-000.
ERROR_RATIO, ERROR_SPREAD = 0.91, 0.54


def reasons(*checks: tuple[bool, str]) -> tuple[str, ...]:
    """Return the words of the checks that failed, of (passed, words)."""
    return tuple(words for passed, words in checks if not passed)


@dataclass(frozen=True)
class Check:
    """One rule as it was asked: the number, what it must be, and the reason where it failed.

    Attributes:
        name: for programs.
        about: what the number is, in words.
        value: the number.
        passed: whether it may be so.
        reason: why not, in words, with the number and what to do.
        least: the number must not be less; None where it may be.
        most: it must not be more; likewise.
    """

    name: str
    about: str
    value: float
    passed: bool
    reason: str
    least: float | None = None
    most: float | None = None

    def report(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: getattr(self, key) for key in ("name", "about", "value", "least", "most", "passed")}


def failed(checks: Iterable[Check]) -> tuple[str, ...]:
    """Return the reasons of the checks that failed."""
    return reasons(*((check.passed, check.reason) for check in checks))


def unlike(value: float, limit: float, spec: str = ".2f") -> str:
    """Write a number that misses a limit, with more digits than ``spec`` asks for where both would read alike.

    Args:
        value: the number.
        limit: that it misses.
        spec: format such as ``.2f`` or ``.0%``.

    Example:
        >>> unlike(0.7, 0.6, ".0%"), unlike(0.596, 0.6, ".0%")
        ('70%', '59.6%')
    """
    digits, kind = int(spec[1:-1]), spec[-1]
    specs = (f".{more}{kind}" for more in range(digits, digits + 9))
    return next((text for one in specs if (text := format(value, one)) != format(limit, one)), format(value, spec))


@dataclass(frozen=True)
class TransformLimits:
    """What the transform between two overhead images may be."""

    max_scale: float = 4.0  # either way
    max_anisotropy: float = 1.6  # largest stretch of one axis against the other
    max_perspective: float = 0.3  # change of depth over half the image

    def violations(self, matrix: FloatArray, size: tuple[int, int]) -> tuple[str, ...]:
        """Say what a transform does that no pair of overhead images does to each other; see :meth:`checks`."""
        return failed(self.checks(matrix, size))

    def checks(self, matrix: FloatArray, size: tuple[int, int]) -> tuple[Check, ...]:
        """Ask whether a transform is one that two overhead images can have.

        Args:
            matrix: (3, 3), image0 → image1.
            size: (H, W) of image0.
        """
        parts = decompose(matrix, at=(size[1] / 2, size[0] / 2))
        bend = parts.perspective * max(size) / 2
        scale = unlike(parts.scale, self.max_scale if parts.scale > 1 else 1 / self.max_scale)
        stretch, change = unlike(parts.anisotropy, self.max_anisotropy), unlike(bend, self.max_perspective)
        return (
            Check(
                "scale", "pixels of image1 for one of image0, along a side", parts.scale,
                1 / self.max_scale <= parts.scale <= self.max_scale,
                f"scale {scale} is not between 1/{self.max_scale:g} and {self.max_scale:g}: resample one",
                1 / self.max_scale, self.max_scale,
            ),
            Check(
                "anisotropy", "stretch of one axis against the other", parts.anisotropy,
                parts.anisotropy <= self.max_anisotropy,
                f"one axis is stretched {stretch} times as much as the other, at most "
                f"{self.max_anisotropy:g} is allowed: project both images alike", most=self.max_anisotropy,
            ),
            Check(
                "mirrored", "whether the transform mirrors the image", float(parts.mirrored), not parts.mirrored,
                "the transform mirrors the image", most=0.0,
            ),
            Check(
                "perspective", "change of depth over half the image", bend, bend <= self.max_perspective,
                f"the perspective changes depth by {change} over half the image, at most {self.max_perspective:g} is "
                "allowed: use an affine model", most=self.max_perspective,
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class Witnesses:
    """What speaks for or against a transform, once it is found."""

    gain: float  # nats per cell over knowing nothing
    cells: int  # of both images, that voted
    error: float  # estimated, px of the coarser image: of that size are the cells
    agreement: float  # mean probability of a cell to lie within 3 px, of the second look; nan without one
    excess_gain: float  # nats per cell more than at a decoy, see ``testimony``
    trimmed_excess: float  # the same without the fifth of the cells that gains most, of either
    block_agreement: float = math.nan  # share of the overlap's blocks that gain more than at the decoy; nan without one
    stretch: float = 1.0  # of one axis against the other; where chance is followed, as often 1.2 as 1
    finer: float = 1.0  # px of image1 for one of the coarser image

    @classmethod
    def none(cls) -> Witnesses:
        """Return what is known where nothing was found."""
        return cls(-math.inf, 0, math.inf, 0.0, 0.0, 0.0, 0.0)

    @property
    def error_px(self) -> float:
        """The estimated error in pixels of image1."""
        return self.error * self.finer

    def features(self) -> dict[str, float]:
        """Return the numbers that :class:`kornia_tar.network.calibration.LogisticFit` weighs, all finite."""
        stretch = self.stretch if math.isfinite(self.stretch) else math.inf
        values = {
            "gain": min(max(self.gain, -0.5), 1.0),
            "excess_gain": min(max(self.excess_gain, -0.5), 0.5),
            "few_cells": math.log(max(MANY_CELLS / max(self.cells, 1), 1.0)),
            "log_stretch": math.log(min(max(stretch, SQUARE), 1.5)),
            "log_error": math.log(min(max(self.error, 0.1), 100.0)),
        }
        if not math.isnan(self.agreement):
            p = min(max(self.agreement, 0.01), 0.99)
            values["agreement"] = math.log(p / (1 - p))
        return values


@dataclass(frozen=True)
class AcceptanceConfig:
    """When a registration is accepted; lengths are pixels of image1, times the scale where it is finer."""

    # Of mismatched pairs none came to more than 0.38; of 28 `hard` ones between 0.5 and 0.9 25 were right.
    min_probability: float = 0.55  # that the transform is right to RIGHT px
    ask_again: float = 0.05  # probability from which what lacks nothing else is asked again, see ``second_opinion``
    # Of 60 mismatched pairs with graphics on both pictures one came to a probability of 0.88, with 0.13 here.
    min_trimmed_excess: float = 0.15  # nats per cell more than at a decoy, without the fifth that gains most
    max_error: float = 1.2 * RIGHT  # estimated; the probability says so before, but to those who ask little of it
    min_block_agreement: float = 0.6  # share of 6×6 blocks over the overlap whose cells gain more than at a decoy
    inlier_threshold: float = 3.0  # px of a tie point's residual
    inlier_confidence: float = 0.5  # least of an inlier
    limits: TransformLimits = field(default_factory=TransformLimits)

    def __post_init__(self) -> None:
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability must be in [0, 1], got {self.min_probability}")

    def refusal(
        self, matrix: FloatArray, size: tuple[int, int], probability: float, witnesses: Witnesses
    ) -> tuple[str, ...]:
        """Say why a registration is refused; nothing where it is accepted. See :meth:`checks`."""
        return failed(self.checks(matrix, size, probability, witnesses))

    def checks(
        self, matrix: FloatArray, size: tuple[int, int], probability: float, witnesses: Witnesses
    ) -> tuple[Check, ...]:
        """Ask whether a registration is accepted.

        Args:
            matrix: (3, 3), image0 → image1.
            size: (H, W) of image0.
            probability: that it is right, see :func:`probability_right`.
            witnesses: what that rests on, to be told.
        """
        likely = unlike(probability, self.min_probability)
        error = unlike(witnesses.error_px, self.max_error, ".1f")
        trimmed = unlike(witnesses.trimmed_excess, self.min_trimmed_excess)
        blocks = unlike(witnesses.block_agreement, self.min_block_agreement, ".0%")
        sure = "" if math.isnan(witnesses.agreement) else f"cells sure of it by {witnesses.agreement:.0%}, "
        return (
            Check(
                "probability", f"probability that it is right to {RIGHT:g} px", probability,
                probability >= self.min_probability,
                f"the probability that it is right to {RIGHT:g} px is {likely}, at least "
                f"{self.min_probability:g} is required ({sure}each gains {witnesses.excess_gain:.2f} nats more than at "
                f"a decoy, estimated error {witnesses.error_px:.1f} px, one axis stretched "
                f"{witnesses.stretch:.2f} times as much as the other)", self.min_probability,
            ),
            Check(
                "estimated_error", "estimated error at the corners but for the half pixel all share, px of image1",
                witnesses.error_px, witnesses.error_px <= self.max_error,
                f"the estimated error at the corners is {error} px, at most {self.max_error:g} are "
                "allowed: the images share too little ground; crop to it", most=self.max_error,
            ),
            Check(
                "trimmed_excess_gain", "nats that a cell gains over a decoy, without the fifth of them that gains most",
                witnesses.trimmed_excess, witnesses.trimmed_excess >= self.min_trimmed_excess,
                f"without the fifth of the cells that agree most each gains {trimmed} nats more than at a decoy, "
                f"at least {self.min_trimmed_excess:g} are required: a few cells decide, such as "
                "text, lines or a logo drawn on both images; crop to the ground", self.min_trimmed_excess,
            ),
            Check(
                "block_agreement", "share of the overlap's blocks that agree", witnesses.block_agreement,
                not witnesses.block_agreement < self.min_block_agreement,
                f"{blocks} of the overlap's blocks agree, at least {100 * self.min_block_agreement:g}% are required: "
                "the agreement comes from a few places; crop to the ground that both images show",
                self.min_block_agreement,
            ),
            *self.limits.checks(matrix, size),
        )  # fmt: skip


def probability_right(witnesses: Witnesses, fits: RegistrationFits) -> float:
    """Return the calibrated probability that a transform's mean corner error is below ``RIGHT`` px of image1.

    That it is the right place at all times that its error is small enough there: corners outside of what both images
    show may be far off though all cells agree. A true error is the estimated one times a log-normal number.
    """
    return probability_of_place(witnesses, fits) * _small_enough(witnesses.error_px)


def probability_of_both(one: Witnesses, other: Witnesses, fits: RegistrationFits) -> float:
    """Return the probability that a place is right to ``RIGHT`` px to which two looks have led.

    It is wrong where both are, and they are taken for independent; of the error both are a measure.
    """
    wrong = (1 - probability_of_place(one, fits)) * (1 - probability_of_place(other, fits))
    return (1 - wrong) * _small_enough(math.sqrt(one.error_px * other.error_px))


def _small_enough(estimate: float) -> float:
    """Probability that an error is below ``RIGHT`` px of image1, by its estimate."""
    if not math.isfinite(estimate):
        return 0.0
    return NormalDist().cdf(math.log(RIGHT / (ERROR_RATIO * max(estimate, 1e-6))) / ERROR_SPREAD)


def probability_of_place(witnesses: Witnesses, fits: RegistrationFits) -> float:
    """Return the calibrated probability that a transform is of the right place, however exact it is there."""
    fit = fits.without_look if math.isnan(witnesses.agreement) else fits.with_look
    return fit.probability(witnesses.features())


@dataclass(frozen=True)
class VerificationConfig:
    """When raw matches of a pair are accepted; lengths in pixels of image1.

    The defaults are set for dense matches, after 12 true and 12 mismatched optical-SAR pairs of SRIF: between unrelated
    images of a few hundred pixels up to forty matches agree by chance, where COLMAP asks for 15. An epipolar line
    leaves a match free along itself, so that matches at random fit a fundamental matrix sooner than a transform:
    ``min_epipolar_ratio`` takes the place of ``min_inlier_ratio`` there.

    They judge the raw matches of ``TARMatcher`` and its like. Guided matches (hloc's conf ``tar``) have been judged by
    the registrar before, and lean towards its transform: they pass, or are none.
    """

    threshold: float = 4.0  # of an inlier; COLMAP's
    min_inliers: int = 50
    min_inlier_ratio: float = 0.12
    min_epipolar_ratio: float = 0.6
    min_spread: float = 0.2  # share of the cells of a 4×4 grid over image0 that hold an inlier
    limits: TransformLimits = field(
        default_factory=lambda: TransformLimits(max_anisotropy=2.0, max_perspective=float("inf"))
    )

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"threshold is {self.threshold}; it must be a positive number of pixels")
        if self.min_inliers < 1:
            raise ValueError(f"min_inliers is {self.min_inliers}; it must be at least 1")

    def refusal(
        self, matrix: FloatArray | None, inliers: FloatArray, matches: int, size: tuple[int, int], planar: bool
    ) -> tuple[str, ...]:
        """Say why a pair's matches are refused; nothing where they are accepted.

        Args:
            matrix: (3, 3), a transform or a fundamental matrix; None where nothing fits.
            inliers: (K, 2) px, the inliers' points in image0.
            matches: of how many.
            size: (H, W) of image0.
            planar: whether ``matrix`` maps points to points.
        """
        if matrix is None:
            return (f"no geometry fits: the inliers of {matches} matches are too few or lie on a line",)
        count, least = len(inliers), self.min_inlier_ratio if planar else self.min_epipolar_ratio
        covered = spread(inliers, size)
        seen = unlike(covered, self.min_spread, ".0%")
        found = reasons(
            (count >= self.min_inliers, f"{count} inliers, need {self.min_inliers}"),
            (count >= least * matches, f"{count} of {matches} matches are inliers, need {100 * least:g}%"),
            (covered >= self.min_spread, f"inliers cover {seen} of image0, need {100 * self.min_spread:g}%"),
        )
        return found + (self.limits.violations(matrix, size) if planar else ())
