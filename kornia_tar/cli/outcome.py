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
    ground = ground or {}
    searched = _searched(search, ground)
    if not outcome.registered:
        tried = f" — {searched}" if searched else ""
        tried += "; --search-radius widens it" if search is not None and search.radius is not None else ""
        print(
            f"not registered: {'; '.join(outcome.reasons)}{tried} ({count}); see {out / 'report.html'}",
            file=sys.stderr,
        )
        return NOT_REGISTERED
    error, shift = ground.get("error_estimate_metres"), ground.get("shift_metres")
    told = [
        f"probability {outcome.probability:.2f}, estimated error {outcome.error_estimate:.2f} px"
        + ("" if error is None else f" ({error:.1f} m)")
    ]
    if shift is not None:
        told.append(f"image1's georeference is off by {shift['east']:.0f} m east, {shift['north']:.0f} m north")
    if searched:
        told.append(searched)
    print(f"registered: {', '.join([*told, count])}; see {out / 'report.html'}")
    return 0


def _searched(search: Search | None, ground: Mapping[str, Any]) -> str:
    """Which search it was, in words; empty where no file says where it lies, for then there was no choice."""
    georeferenced = any(ground.get(key) is not None for key in ("gsd0_metres", "gsd1_metres"))
    return search.why if search is not None and georeferenced else ""
