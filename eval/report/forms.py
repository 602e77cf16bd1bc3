"""Does a scene register in every form that real files have, and alike? See :mod:`eval.benchmark.forms`."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eval.benchmark.forms import FORMS, Form, Scene
from eval.benchmark.provenance import made_by, provenance
from eval.report.markdown import grid
from kornia_tar import Registrar, register_georeferenced
from kornia_tar.files import write_json, write_text
from kornia_tar.geometry import Transform
from kornia_tar.raster import read_image, to_grey8, told_modality

RIGHT, ALIKE = 10.0, 1.5  # px of the scene's grid: from the georeference, from what the same-grid form says
SIDE = 15  # of the grid of points that distances are taken at


@dataclass(frozen=True)
class Outcome:
    """One registration; distances are means over the common ground, px of the scene's grid."""

    scene: str
    form: str
    accepted: bool
    search: str  # which one led to it
    to_truth: float  # from the georeference, without the error that was put into it
    to_same_grid: float  # from what the same-grid form says
    gain: float  # nats per cell
    estimate: float  # px of image1
    seconds: float  # of CPU time
    reasons: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether the transform is right, accepted or not."""
        return self.to_truth <= RIGHT

    @property
    def good(self) -> bool:
        """Accepted, right, and as the same-grid form has it."""
        return self.accepted and self.found and self.to_same_grid <= ALIKE


def measure(
    registrar: Registrar, scenes: Sequence[Scene], tick: Callable[[Outcome], object] = lambda _: None
) -> list[Outcome]:
    """Register every scene in every form, from files, as ``kornia-tar register`` does it.

    Args:
        registrar: how.
        scenes: what.
        tick: told each outcome.
    """
    return [outcome for scene in scenes for outcome in _of_scene(registrar, scene, tick)]


def _of_scene(registrar: Registrar, scene: Scene, tick: Callable[[Outcome], object]) -> Iterator[Outcome]:
    same: Transform | None = None
    for number, (name, draw) in enumerate(FORMS.items()):
        with tempfile.TemporaryDirectory(prefix="kornia-tar-forms-") as folder:
            form = draw(scene, Path(folder))
            first, second = read_image(form.path0), read_image(form.path1)
        modality0, modality1 = told_modality(first, "optical"), told_modality(second, "sar")
        grey0, grey1 = to_grey8(first, modality0), to_grey8(second, modality1)
        started = time.process_time()
        found, search = register_georeferenced(registrar, first, second, grey0, grey1, modality0, modality1)
        seconds = time.process_time() - started
        if number == 0:  # both images are as the scene has them
            same = found.transform
        outcome = Outcome(
            scene.name, name, found.registered, search.kind, *_distances(form, found.transform, same),
            found.log_likelihood_gain, found.error_estimate, seconds, found.reasons,
        )  # fmt: skip
        tick(outcome)
        yield outcome


def _distances(form: Form, transform: Transform | None, same: Transform | None) -> tuple[float, float]:
    """Mean distances from the truth and from the same-grid form's transform; inf for none."""
    left, top, right, bottom = form.area
    x, y = np.meshgrid(np.linspace(left, right, SIDE), np.linspace(top, bottom, SIDE))
    points = np.stack([x.ravel(), y.ravel()], 1)
    if transform is None:
        return math.inf, math.inf
    there = form.to_scene1(transform(form.from_scene0(points)))
    far = [np.linalg.norm(there - (points if to is None else to(points)), axis=1).mean() for to in (None, same)]
    return float(far[0]), math.inf if same is None else float(far[1])


def summary(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Counts by form: accepted, found, alike, all three at once; seconds."""
    rows = []
    for name in [*FORMS, "all"]:
        those = [o for o in outcomes if name in (o.form, "all")]
        counts = [
            sum(getattr(o, key) for o in those) if isinstance(key, str) else sum(map(key, those))
            for key in ("good", "accepted", "found", _alike, _refused)
        ]
        seconds = float(np.median([o.seconds for o in those])) if those else math.nan
        rows.append([name, *(f"{count} of {len(those)}" for count in counts), f"{seconds:.1f}"])
    return rows


def _alike(outcome: Outcome) -> bool:
    return outcome.to_same_grid <= ALIKE


def _refused(outcome: Outcome) -> bool:
    return outcome.found and not outcome.accepted


def write(folder: Path, outcomes: Sequence[Outcome], model: str = "affine") -> Path:
    """Write ``scenes.forms.json`` and ``.md``, or ``scenes.forms.<model>.…``; returns the latter's path."""
    made, stem = provenance(), "scenes.forms" if model == "affine" else f"scenes.forms.{model}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stem}.json", {"outcomes": [asdict(o) for o in outcomes], "made": made})
    heads = ("form", "good", "accepted", f"within {RIGHT:g} px", f"within {ALIKE} px of same grid",
             "refused though right", "CPU s")  # fmt: skip
    each = [
        [o.scene, o.form, "yes" if o.accepted else "no", o.search, f"{o.to_truth:.2f}", f"{o.to_same_grid:.2f}",
         f"{o.gain:.3f}", f"{o.estimate:.2f}", f"{o.seconds:.1f}"]
        for o in outcomes
    ]  # fmt: skip
    columns = ("scene", "form", "accepted", "search", "px from the georeference", "px from same grid", "nats per cell",
               "estimated error", "CPU s")  # fmt: skip
    lines = [
        f"## Forms of georeferenced files, model {model}", "",
        "Sentinel-1 lies some px off Sentinel-2 in this terrain by itself. Good: accepted, right, and as on the same "
        "grid. Distances are means over the common ground, px of the scenes' grid.", "",
        *grid(heads, summary(outcomes)), "", *grid(columns, each, text=4), "", *made_by(made),
    ]  # fmt: skip
    return write_text(folder / f"{stem}.md", "\n".join(lines) + "\n")
