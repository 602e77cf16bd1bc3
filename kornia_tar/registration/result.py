"""What a registration gives: transform, tie points, estimated error, and the reasons where it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kornia_tar.geometry import (
    DisplacementField,
    FloatArray,
    PointMatches,
    Transform,
    decompose,
)
from kornia_tar.raster.grid import Grid
from kornia_tar.registration.acceptance import Check, Witnesses, failed
from kornia_tar.registration.config import RegistrationModel
from kornia_tar.registration.held_out import HeldOut

ERROR_SCALE = 3.0  # see estimated_error


MAX_RATIO = 50  # likewise


# px of image1. Two warps of one pair of val-000 lead to places 0.2 px apart that are 0.7 px off the truth: two sensors
# see the same ground so far apart, or the truth is. With it nine of ten errors lie within twice the estimate.
SHARED_ERROR = 0.5


class Search(NamedTuple):
    """Which search led to a registration."""

    kind: Literal["georeference", "full"]
    why: str  # in words
    radius: float | None  # m, of a search by the georeference


@dataclass(frozen=True)
class Registration:
    """Outcome of :class:`Registrar`.

    ``matrix`` is the best estimate even where a check failed; use it only when ``registered``.
    """

    registered: bool
    reasons: tuple[str, ...]  # what failed, in words; empty when registered
    matrix: FloatArray | None  # (3, 3), image0 → image1
    model: RegistrationModel  # that was found: never "auto" where there is a transform
    matches: PointMatches  # tie points with std, in full-resolution pixels: one for each cell that both images show
    inliers: NDArray[np.bool_]  # (N,)
    rotation_start: int  # degrees, of the pose that the search chose
    scale_start: float
    rmse: float  # px, residuals of the inliers; small by nature, for tie points lean towards the transform
    corner_std: float  # px at the corners, from how much blocks of the image agree
    disagreement: float  # px at the corners, between what either image's cells say alone
    probability: float  # that the mean corner error is below 10 px of image1, calibrated
    witnesses: Witnesses  # what that rests on
    field: DisplacementField | None = None  # px of image1, what the ground adds to the matrix: relief, map projections
    held_out: HeldOut | None = None  # errors at tie points that were not fitted
    checks: tuple[Check, ...] = ()  # what acceptance asked; none where it came to no transform to ask about
    grids: tuple[Grid, Grid] | None = None  # of image0 and image1, where files were registered: what ``apply`` needs
    search: Search | None = None  # that led to it, where files were registered

    @property
    def transform(self) -> Transform | None:
        """Matrix and field as one map of image0's pixels into image1's."""
        return None if self.matrix is None else Transform(self.matrix, self.field)

    @property
    def log_likelihood_gain(self) -> float:
        """Nats per cell over knowing nothing, of the best transform at full size, before the magnified step."""
        return self.witnesses.gain

    @property
    def error_estimate(self) -> float:
        """Estimated error at the corners, px: :func:`estimated_error`, and what all cells share, as if independent."""
        return math.hypot(estimated_error(self.corner_std, self.disagreement), SHARED_ERROR)

    def also(self, *checks: Check) -> Registration:
        """Ask for more: refused, too, where one of these checks failed."""
        more = failed(checks)
        return replace(
            self, registered=self.registered and not more, reasons=self.reasons + more, checks=self.checks + checks
        )

    def because(self, *words: str) -> Registration:
        """Where it is refused, add what may be the cause."""
        return self if self.registered else replace(self, reasons=self.reasons + words)

    def confident(self, threshold: float) -> Registration:
        """Leave out tie points with a smaller confidence, in [0, 1]."""
        check_threshold(threshold)
        kept = self.matches.confidence >= threshold
        return replace(self, matches=self.matches.chosen(kept), inliers=self.inliers[kept])

    def report(self) -> dict[str, Any]:
        """The outcome as plain values for JSON; lengths in pixels of image1."""
        parts = None if self.matrix is None else decompose(self.matrix)
        return {
            "registered": self.registered,
            "reasons": list(self.reasons),
            "checks": [check.report() for check in self.checks],
            "model": self.model,
            "matrix": self.matrix,
            "field": None if self.field is None else Transform(np.eye(3), self.field).to_dict()["field"],
            "rotation_degrees": parts and parts.rotation_degrees,
            "scale": parts and parts.scale,
            "probability": self.probability,
            "agreement": self.witnesses.agreement,
            "excess_gain": self.witnesses.excess_gain,
            "gain_nats_per_cell": self.log_likelihood_gain,
            "trimmed_excess_gain": self.witnesses.trimmed_excess,
            "block_agreement": self.witnesses.block_agreement,
            "stretch": self.witnesses.stretch,
            "matches": len(self.matches),
            "inliers": int(self.inliers.sum()),
            "rmse_px": self.rmse,
            "error_estimate_px": self.error_estimate,
            "corner_std_px": self.corner_std,
            "disagreement_px": self.disagreement,
            "rotation_start_degrees": self.rotation_start,
            "scale_start": self.scale_start,
            "held_out": self.held_out and self.held_out.report(),
        }


def check_threshold(threshold: float) -> None:
    """Refuse a least confidence that is none."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")


def estimated_error(corner_std: float, disagreement: float) -> float:
    """Estimated error at the corners, px, from two noisy measures of it: how far blocks, and the images, disagree.

    Their geometric mean, for either may be several times off, both ways; where one is next to nothing it is taken for a
    ``MAX_RATIO``-th of the other. With the factor ``ERROR_SCALE`` half of the true errors lie below it, as 90
    validation pairs showed that are in no table. Neither measure sees an error that all cells share.
    """
    low, high = sorted((corner_std, disagreement))
    product = max(low, high / MAX_RATIO) * high
    return ERROR_SCALE * math.sqrt(product) if math.isfinite(product) else math.inf
