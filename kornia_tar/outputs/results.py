"""The files of a registration: registered image, matches, quick look, report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kornia_tar.files import write_json
from kornia_tar.geometry import Transform
from kornia_tar.outputs import points
from kornia_tar.outputs.ground import claimed_transform, map_coordinates
from kornia_tar.outputs.matches import write_matches
from kornia_tar.outputs.quicklook import draw_quicklook
from kornia_tar.outputs.registered import Resampling, write_registered
from kornia_tar.outputs.thumbnails import Thumbnails
from kornia_tar.raster import Raster, write_image
from kornia_tar.raster.grid import Grid
from kornia_tar.registration.result import Registration

NAMES = (
    "registered.png", "registered.tif", "matches.h5", "quicklook.png", "transform.json", "report.json", *points.NAMES,
)  # fmt: skip


def write_results(
    out: Path,
    outcome: Registration,
    report: Mapping[str, Any],
    first: Raster,
    second: Raster,
    grey1: NDArray[np.uint8],
    headline: str | None = None,
    how: Resampling = "bilinear",
) -> None:
    """Write all results into ``out``, or none: they are made aside and moved in when the last one is whole.

    ``registered.png`` or, where image0 has a georeference, ``registered.tif`` on its grid, is written only when the
    registration is trusted. What an earlier run left behind of :data:`NAMES` is removed: whoever calls has asked
    :func:`kornia_tar.files.check_outputs`.

    Args:
        out: an existing folder.
        outcome: what the registrar says.
        report: what goes into ``report.json``.
        first: image0.
        second: image1, as read.
        grey1: (H1, W1), image1 as the matcher saw it.
        headline: of the quick look.
        how: image1 is resampled.

    Raises:
        ValueError: something cannot be written; the line says what.
    """
    aside = Path(tempfile.mkdtemp(prefix=".results-", dir=out))
    try:
        transform = outcome.transform or Transform(np.eye(3))
        if outcome.registered:
            write_registered(aside, transform, Grid.of(first), second, grey1, how)
        m = outcome.matches
        arrays: dict[str, Any] = {
            "keypoints0": m.points0, "keypoints1": m.points1, "confidence": m.confidence, "std": m.stated_std,
            "inliers": outcome.inliers,
        }  # fmt: skip
        if outcome.matrix is not None:
            arrays["matrix"] = outcome.matrix
        arrays |= map_coordinates(m, first, second)
        write_matches(aside / "matches.h5", arrays)
        points.write_points(aside, outcome, first, second)
        small, claimed = Thumbnails.of(first, second, grey1), claimed_transform(first, second)
        registered, valid = small.warped(transform)
        sheet = draw_quicklook(
            small.image0, small.image1, registered, small.points(m.points0), small.points(m.points1), outcome.inliers,
            _caption(outcome, headline or f"{first.path.name} and {second.path.name}"), confidence=m.confidence,
            valid=valid, before=None if claimed is None else small.warped(claimed),
        )  # fmt: skip
        write_image(aside / "quicklook.png", sheet)
        if outcome.matrix is not None:
            grids = {"image0": Grid.of(first).to_dict(), "image1": Grid.of(second).to_dict()}
            write_json(
                aside / "transform.json", {**transform.to_dict(), "registered": bool(outcome.registered), **grids}
            )
        write_json(aside / "report.json", report)
        for name in NAMES:
            if (aside / name).exists():
                (aside / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _caption(outcome: Registration, headline: str) -> list[str]:
    state = "registered" if outcome.registered else "NOT registered"
    lines = [
        headline,
        f"{state} · {int(outcome.inliers.sum())} of {len(outcome.matches)} matches are inliers · "
        f"residual {outcome.rmse:.2f} px · estimated error {outcome.error_estimate:.2f} px",
    ]
    return lines + (["; ".join(outcome.reasons)] if outcome.reasons else [])
