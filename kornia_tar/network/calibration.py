"""Calibration: what the network says of its own matches, corrected by what was measured on validation pairs.

A stated probability p becomes sigmoid(logit(p) / T + b): Platt's scaling (1999), of which temperature scaling (Guo et
al. 2017) is the case b = 0. A stated one-sigma error is multiplied by a factor. T > 0 keeps the order of the matches.
Whether a registration is right is a logistic model of several witnesses. ``python -m eval calibration`` and ``python -m
eval acceptance`` fit, a checkpoint's metadata keep the fit; where they hold none, confidences and errors stay as
stated, and registrations are judged by the fit of the shipped weights. A fit belongs to its weights and their text.

The paper publishes no confidence; this is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp, isfinite
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = TypeVar("Values", Tensor, NDArray[np.float64])

EDGE = 1e-6  # a probability is taken to be no nearer to 0 and 1 than this: its logit stays finite


@dataclass(frozen=True)
class PlattScaling:
    """One fit; the default changes nothing.

    Args:
        temperature: T, above 0; above 1 it makes confidences more modest.
        bias: b, in logits; above 0 it raises them.
        std_factor: of the stated one-sigma errors, above 0.
    """

    temperature: float = 1.0
    bias: float = 0.0
    std_factor: float = 1.0

    def __post_init__(self) -> None:
        fine = isfinite(self.temperature + self.bias + self.std_factor)
        if not (fine and self.temperature > 0 and self.std_factor > 0):
            raise ValueError(f"{self}: needs finite numbers, a temperature and a std_factor above 0")

    def confidence(self, stated: Values) -> Values:
        """(N,) probabilities in [0, 1], corrected."""
        if self.temperature == 1 and self.bias == 0:
            return stated
        p, slope = stated.clip(EDGE, 1 - EDGE), 1 / self.temperature
        odds = (p / (1 - p)) ** slope * exp(self.bias)
        return odds / (1 + odds)

    def std(self, stated: Values) -> Values:
        """(N,) one-sigma errors, corrected."""
        return stated * self.std_factor

    def __str__(self) -> str:
        return f"temperature {self.temperature:.3g}, bias {self.bias:+.3g}, std × {self.std_factor:.3g}"


@dataclass(frozen=True)
class PairScalings:
    """Two fits, by the pair's modalities: where both images look alike, a stated confidence is worth more."""

    cross: PlattScaling = PlattScaling()  # optical with SAR
    same: PlattScaling = PlattScaling()  # two images of one modality

    def of(self, modality0: str | None, modality1: str | None) -> PlattScaling:
        """The one for a pair of these modalities."""
        return self.same if modality0 == modality1 else self.cross


@dataclass(frozen=True)
class LogisticFit:
    """A probability from several numbers: ``sigmoid(bias + Σ weight · number)``.

    Args:
        bias: in logits.
        weights: by the name of the number.
    """

    bias: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isfinite(self.bias + sum(self.weights.values())):
            raise ValueError(f"{self}: needs finite numbers")

    def probability(self, values: Mapping[str, float]) -> float:
        """Return the probability for the named numbers, all that there is a weight for."""
        logit = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
        return 1 / (1 + exp(-min(max(logit, -50.0), 50.0)))

    def __str__(self) -> str:
        return " ".join([f"{self.bias:+.3g}", *(f"{weight:+.3g}·{name}" for name, weight in self.weights.items())])


@dataclass(frozen=True)
class RegistrationFits:
    """That a registration is right; by default as fitted to the weights that are shipped.

    Args:
        with_look: with what the second look says of it.
        without_look: for weights that have none.
    """

    with_look: LogisticFit = LogisticFit(
        -1.5, {"agreement": 0.749, "excess_gain": 38.5, "few_cells": -5.32, "log_error": -2.22, "log_stretch": -33.8}
    )
    without_look: LogisticFit = LogisticFit(
        -1.53, {"excess_gain": 41.1, "few_cells": -4.55, "log_error": -2.73, "log_stretch": -43.2}
    )


@dataclass(frozen=True)
class Calibration:
    """All fits of a checkpoint."""

    matches: PairScalings = PairScalings()  # of a forward, of as many looks as the weights were trained for
    tie_points: PairScalings = PairScalings()  # of the registrar
    registration: RegistrationFits = RegistrationFits()

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any] | None) -> Calibration:
        """Inverse of :meth:`to_metadata`; None, as of a checkpoint without a fit, changes nothing.

        Raises:
            KeyError, TypeError, ValueError: ``values`` are something else.
        """
        if values is None:
            return cls()
        parts: dict[str, Any] = {
            name: PairScalings(*(PlattScaling(**values[name][kind]) for kind in ("cross", "same")))
            for name in ("matches", "tie_points")
        }
        if "registration" not in values:
            return cls(**parts)
        fits = (LogisticFit(**values["registration"][kind]) for kind in ("with_look", "without_look"))
        return cls(**parts, registration=RegistrationFits(*fits))

    def to_metadata(self) -> dict[str, Any]:
        """Plain dictionaries for the checkpoint."""
        return asdict(self)
