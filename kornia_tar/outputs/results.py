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

from kornia_tar.files import ASIDE, write_json, write_text
from kornia_tar.geometry import Transform, valid_mask, warp_image
from kornia_tar.outputs import points
from kornia_tar.outputs.apply import write_transform
from kornia_tar.outputs.ground import claimed_transform, map_coordinates, metres_per_pixel
from kornia_tar.outputs.matches import write_matches
from kornia_tar.outputs.page import build_page
from kornia_tar.outputs.quicklook import draw_quicklook
from kornia_tar.outputs.registered import Target, write_registered
from kornia_tar.outputs.thumbnails import Thumbnails
from kornia_tar.outputs.windows import Window, find_windows
from kornia_tar.raster import Raster, to_rgb8, write_image
from kornia_tar.raster.grid import Grid
from kornia_tar.registration.result import Registration

REPORT, PAGE = "report.json", "report.html"
NAMES = (
    "registered.png", "registered.tif", "matches.h5", "quicklook.png", "transform.json", *points.NAMES, PAGE, REPORT,
)  # fmt: skip


def write_results(
    out: Path,
    outcome: Registration,
    report: Mapping[str, Any],
    first: Raster,
    second: Raster,
    grey1: NDArray[np.uint8],
    headline: str | None = None,
    target: Target = Target(),
) -> dict[str, str | None] | None:
    """Write all results into ``out``, or none: they are made aside and moved in when the last one is whole.

    The registered image is written only when the registration is trusted, and the report says which file it is, see
    :func:`kornia_tar.outputs.registered.write_registered`. An earlier run's results do not stay beside the new report,
    see :func:`remove_results`; what else bears one of :data:`NAMES` is replaced: whoever calls has asked
    :func:`kornia_tar.files.check_outputs`.

    Args:
        out: an existing folder.
        outcome: what the registrar says.
        report: what goes into ``report.json``.
        first: image0.
        second: image1, as read.
        grey1: (H1, W1), image1 as the matcher saw it.
        headline: of the quick look.
        target: the grid that image1 is written on, and how.

    Returns:
        what the report says of the registered image; None without one.

    Raises:
        ValueError: something cannot be written; the line says what.
    """
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=out))
    try:
        transform, written = outcome.transform or Transform(np.eye(3)), None
        if outcome.registered:
            written = write_registered(aside, transform, Grid.of(first), second, grey1, target)
        report = {**report, "registered_image": written}
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
        registered, before = small.warped(transform), small.warped(claimed or Transform(np.eye(3)))
        exact = (small.image0, *registered) if small.step == 1 else _exact(first, second, grey1, transform)
        windows, unit = find_windows(outcome, first.mask & exact[2]), metres_per_pixel(outcome, first, second)
        sheet = draw_quicklook(
            small.image0, small.image1, registered[0], small.points(m.points0), small.points(m.points1),
            outcome.inliers, _caption(outcome, headline or f"{first.path.name} and {second.path.name}"),
            confidence=m.confidence, valid=registered[1], before=before if claimed else None,
            windows=[(window, _window_caption(window, unit)) for window in windows], exact=exact,
        )  # fmt: skip
        write_image(aside / "quicklook.png", sheet)
        page = build_page(
            report, outcome, first, second, small.image0, registered, before, claimed is not None, windows, exact,
            headline,
        )  # fmt: skip
        write_text(aside / PAGE, page)
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
    return written


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


def _exact(
    first: Raster, second: Raster, grey1: NDArray[np.uint8], transform: Transform
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:  # fmt: skip
    """image0 to look at, image1 in its frame, and where that holds data, at full size: what windows are cut from."""
    warped = warp_image(grey1, transform, first.size), valid_mask(second.mask, transform, first.size)
    return to_rgb8(first), *warped


def _window_caption(window: Window, unit: float | None) -> str:
    metres = "" if unit is None else f" ({window.error * unit:.1f} m)"
    drawn = "1:1" if window.magnify == 1 else f"magnified {window.magnify} times"
    x, y = window.middle
    return (
        f"Fits {window.name}: {window.error:.2f} px{metres}, {window.measure} · {drawn} around ({x:.0f}, {y:.0f}) · "
        "image0, image1, checkerboard"
    )


def _caption(outcome: Registration, headline: str) -> list[str]:
    state = "registered" if outcome.registered else "NOT registered"
    lines = [
        headline,
        f"{state} · {int(outcome.inliers.sum())} of {len(outcome.matches)} matches are inliers · "
        f"residual {outcome.rmse:.2f} px · estimated error {outcome.error_estimate:.2f} px",
    ]
    return lines + (["; ".join(outcome.reasons)] if outcome.reasons else [])
