"""The files of a registration: registered image, matches, quick look, report."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kornia_tar.files import write_json
from kornia_tar.geometry import Transform, valid_mask, warp_image
from kornia_tar.outputs import points
from kornia_tar.outputs.apply import write_transform
from kornia_tar.outputs.ground import claimed_transform, map_coordinates
from kornia_tar.outputs.matches import write_matches
from kornia_tar.outputs.quicklook import draw_quicklook
from kornia_tar.outputs.registered import Resampling, write_registered
from kornia_tar.raster import Raster, to_rgb8, write_image
from kornia_tar.raster.grid import Grid
from kornia_tar.registration.result import Registration

REPORT = "report.json"
NAMES = (
    "registered.png", "registered.tif", "matches.h5", "quicklook.png", "transform.json", *points.NAMES, REPORT,
)  # fmt: skip
ASIDE = ".results-"  # begins the name of the folder in which they are made


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
    registration is trusted. An earlier run's results do not stay beside the new report, see :func:`remove_results`;
    what else bears one of :data:`NAMES` is replaced: whoever calls has asked :func:`kornia_tar.files.check_outputs`.

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
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=out))
    try:
        transform = outcome.transform or Transform(np.eye(3))
        valid = valid_mask(second.mask, transform, first.size)
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
        sheet = draw_quicklook(
            to_rgb8(first), grey1, warp_image(grey1, transform, first.size), m.points0, m.points1, outcome.inliers,
            _caption(outcome, headline or f"{first.path.name} and {second.path.name}"), confidence=m.confidence,
            valid=valid, before=_by_georeferences(first, second, grey1),
        )  # fmt: skip
        write_image(aside / "quicklook.png", sheet)
        if outcome.matrix is not None:
            write_transform(aside / "transform.json", outcome, (Grid.of(first), Grid.of(second)))
        write_json(aside / REPORT, report)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    remove_results(out, but=aside)
    for name in NAMES:  # the report comes last: whoever is killed before leaves it aside, and the rest is known as ours
        if (aside / name).exists():
            (aside / name).replace(out / name)
    aside.rmdir()


def remove_results(out: Path, but: Path | None = None) -> None:
    """Remove what an earlier run of ours wrote into a folder, also what it left behind when it was killed.

    That are files of :data:`NAMES` beside a report of ours, and folders in which results were made. Nothing else is
    touched, nor are files with such names where no report says that they are ours.

    Args:
        out: folder of the results.
        but: a folder in it to leave alone.
    """
    asides = [path for path in out.glob(f"{ASIDE}*") if path != but and _is_aside(path)]
    if any(_is_report(folder / REPORT) for folder in (out, *asides)):
        for name in NAMES:
            if (out / name).is_file() or (out / name).is_symlink():
                (out / name).unlink()
    for path in asides:
        shutil.rmtree(path, ignore_errors=True)


def _is_aside(path: Path) -> bool:
    """Whether a folder holds nothing but results, whole or begun."""
    if path.is_symlink() or not path.is_dir():
        return False
    return all(entry.is_file() and entry.name.lstrip(".").startswith(NAMES) for entry in path.iterdir())


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"kornia_tar", "registered"} <= content.keys()


def _by_georeferences(
    first: Raster, second: Raster, grey1: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    """image1 in image0's frame as the georeferences have it, and where it holds data; None without both."""
    claimed = claimed_transform(first, second)
    if claimed is None:
        return None
    return warp_image(grey1, claimed, first.size), valid_mask(second.mask, claimed, first.size)


def _caption(outcome: Registration, headline: str) -> list[str]:
    state = "registered" if outcome.registered else "NOT registered"
    lines = [
        headline,
        f"{state} · {int(outcome.inliers.sum())} of {len(outcome.matches)} matches are inliers · "
        f"residual {outcome.rmse:.2f} px · estimated error {outcome.error_estimate:.2f} px",
    ]
    return lines + (["; ".join(outcome.reasons)] if outcome.reasons else [])
