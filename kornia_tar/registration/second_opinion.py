"""A second opinion on a registration that is in doubt: both images turned by a quarter, and everything asked anew.

The network's features are not the same when an image is turned, and neither is what it gets wrong by chance. Where both
images show the same ground, the turned pair leads to the same place, about as sure of it; where they do not, to
another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kornia_tar.geometry import compose, corner_error, invert
from kornia_tar.network.calibration import RegistrationFits
from kornia_tar.raster.view import MaskedImage, scale_at
from kornia_tar.registration.acceptance import AcceptanceConfig, failed, probability_of_both
from kornia_tar.registration.result import Registration

SAME_PLACE = 5.0  # px of the coarser image between the two, mean over the corners; right ones lie 0.5 to 3.2 apart


def in_doubt(outcome: Registration, rules: AcceptanceConfig) -> bool:
    """Whether an outcome is refused for its probability alone, which is not hopeless."""
    return _lacks(outcome) == {"probability"} and outcome.probability >= rules.ask_again


def ask_again(
    outcome: Registration,
    first: MaskedImage,
    second: MaskedImage,
    register: Callable[[MaskedImage, MaskedImage], Registration],
    rules: AcceptanceConfig,
    fits: RegistrationFits,
) -> Registration:
    """Register both images turned; where that leads to the same place, decide by what both say.

    Args:
        outcome: with a transform, in doubt; see :func:`in_doubt`.
        first: image0.
        second: image1.
        register: as the outcome was come by.
        rules: by which it was refused.
        fits: of the probabilities.

    Returns:
        the outcome, with the probability of both and the decision by it; or as it was.
    """
    (turned0, from0), (turned1, from1) = first.turned(90), second.turned(90)
    other = register(turned0, turned1)
    if _lacks(other) - {"probability"} or other.matrix is None or outcome.matrix is None:
        return outcome
    upright = compose(compose(invert(from0), other.matrix), from1)
    apart = corner_error(upright, outcome.matrix, first.size) / max(1.0, scale_at(outcome.matrix, first.size))
    if apart > SAME_PLACE:
        return outcome
    probability = max(outcome.probability, probability_of_both(outcome.witnesses, other.witnesses, fits))
    checks = rules.checks(outcome.matrix, first.size, probability, outcome.witnesses)
    refused = failed(checks)
    return replace(outcome, registered=not refused, reasons=refused, probability=probability, checks=checks)


def _lacks(outcome: Registration) -> set[str]:
    """What it was refused for."""
    return {check.name for check in outcome.checks if not check.passed}
