"""What a registration says at its end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kornia_tar.registration.georeferenced.prior import Search
from kornia_tar.registration.result import Registration

NOT_REGISTERED = 2


def tell(
    outcome: Registration,
    out: Path,
    seconds: float,
    ground: Mapping[str, Any] | None = None,
    search: Search | None = None,
) -> int:
    """Say in one line how a registration ended; returns the exit code.

    Args:
        outcome: what the registrar says.
        out: folder of the results.
        seconds: that it took.
        ground: as :func:`kornia_tar.outputs.ground.ground_report` gives it.
        search: which search led to it, if there was a choice.
    """
    count = f"{int(outcome.inliers.sum())} inliers of {len(outcome.matches)} matches, {seconds:.1f} s"
    if not outcome.registered:
        tried = "" if search is None or search.radius is None else f" — {search.why}; --search-radius widens it"
        print(
            f"not registered: {'; '.join(outcome.reasons)}{tried} ({count}); see {out / 'report.html'}",
            file=sys.stderr,
        )
        return NOT_REGISTERED
    ground = ground or {}
    error, shift = ground.get("error_estimate_metres"), ground.get("shift_metres")
    told = [
        f"probability {outcome.probability:.2f}, estimated error {outcome.error_estimate:.2f} px"
        + ("" if error is None else f" ({error:.1f} m)")
    ]
    if shift is not None:
        told.append(f"image1's georeference is off by {shift['east']:.0f} m east, {shift['north']:.0f} m north")
    if search is not None and search.radius is not None:
        told.append(search.why)
    print(f"registered: {', '.join([*told, count])}; see {out / 'report.html'}")
    return 0
