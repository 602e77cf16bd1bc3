"""Do TAR's confidence and std mean what they say? Measured on a set under a level, corrected, and measured again.

Two outputs are judged (``reliability.py``): the matches of one pass, all of them, and the tie points of the registrar
where it accepts the pair. Each on optical–SAR pairs, and on pairs of one modality: an image and itself,
warped. The latter are the easiest there are, and their truth is exact, while that of optical–SAR pairs inherits their
alignment, a pixel or so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from eval.benchmark.cache import Cache, Prediction, cache_path, read_predictions
from eval.benchmark.pairs import LevelPairs, subsample
from eval.benchmark.protocol import Pair
from eval.benchmark.provenance import provenance
from eval.calibration.reliability import BINS, CROSS, Stated, figures, fit, held_out
from eval.datasets import Dataset, Sample
from eval.peers import Matches, to_tensor
from eval.peers.ours.tar import TAR
from eval.report.markdown import grid
from kornia_tar import Registrar, RegistrarConfig, TARMatcher
from kornia_tar.conventions import CELL
from kornia_tar.files import replacing, write_json, write_text
from kornia_tar.geometry import transform_points
from kornia_tar.network.calibration import Calibration
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint
from kornia_tar.raster import to_grey

OUTPUTS = {"matches": "one pass", "tie_points": "Registrar's tie points"}
PAIRS = {CROSS: "optical–SAR", "optical-optical": "optical–optical", "sar-sar": "SAR–SAR"}
ELSEWHERE = "optical-sar-elsewhere"  # one place's optical image, another's SAR image: every match is wrong
SAME_SHARE = 4  # those of one modality, and of two places, are a fourth of the pairs: there is less to see

Rows = dict[str, dict[str, dict[str, Any]]]  # by output and pair


class Plan(NamedTuple):
    """Which pairs are matched, of one output and pair of modalities."""

    output: str
    pair: str
    names: tuple[str, ...]


class Found(NamedTuple):
    """What came of a plan."""

    stated: Stated
    pairs: int
    empty: int  # pairs without any match


def plans(names: Sequence[str], limit: int, registrations: int) -> list[Plan]:
    """Pairs to match: ``limit`` in one pass, ``registrations`` by the registrar, a fourth of each of one modality.

    In one pass likewise a fourth of two places: confidence must mean the same where there is nothing to find. The
    registrar refuses those.
    """
    few = lambda number: tuple(subsample(names, -(-number // SAME_SHARE)))  # noqa: E731
    return [
        Plan(output, pair, tuple(subsample(names, number)) if pair == CROSS else few(number))
        for output, number in (("matches", limit), ("tie_points", registrations)) for pair in PAIRS
    ] + [Plan("matches", ELSEWHERE, few(limit))]  # fmt: skip


def collect(
    dataset: Dataset, level: str, todo: Sequence[Plan], checkpoint: Path | None, folder: Path,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[Plan, Found]:  # fmt: skip
    """Match the planned pairs, uncorrected whatever the checkpoint holds. What is cached is not matched again.

    Args:
        dataset: the set.
        level: name of a level.
        todo: which pairs.
        checkpoint: TAR's; None for the one that the package ships.
        folder: folder of the caches.
        tick: told how many more pairs are done.

    Raises:
        ValueError: a set of other images than optical and SAR.
        FileNotFoundError: no warps of the level are stored, or there is no such checkpoint.
    """
    source, half, peer = LevelPairs.open(dataset, level), halves(dataset.names), TAR(checkpoint)
    net = peer.net.fuse()
    net.threshold, net.calibration = 0.0, Calibration()
    registrar = Registrar(net, RegistrarConfig(model=source.model))
    key = f"{peer.settings} | warps {source.warps_hash}"
    found: dict[Plan, Found] = {}
    for plan in todo:
        path = cache_path(folder / "calibration", dataset.name, level, f"{plan.output}.{plan.pair}")
        with Cache(path, {"key": key, "matcher": f"{peer.name}, {OUTPUTS[plan.output]}"}) as cache:
            for name in plan.names:
                pair = pair_of(source, name, plan.pair)
                if cache.holds(name, pair.digest):
                    tick(1)
                    continue
                started = time.perf_counter()
                matches = one_pass(net, pair) if plan.output == "matches" else registered(registrar, pair)
                seconds, shape = time.perf_counter() - started, (pair.image0.shape[0], pair.image0.shape[1])
                cache.add(name, Prediction(matches, pair.truth, shape, pair.border, seconds, pair.digest))
                tick(1)
        predictions = read_predictions(path, plan.names)
        counts = [len(prediction.matches.points0) for prediction in predictions]
        said = stated(predictions, [half[name] for name in plan.names])
        if plan.pair == ELSEWHERE:
            said = replace(said, error=np.full_like(said.error, np.inf))
        found[plan] = Found(said, len(plan.names), counts.count(0))
    return found


def pair_of(source: LevelPairs, name: str, kind: str) -> Pair:
    """Read a pair as the level has it, of the modalities ``kind``; of one modality: of one of its images and itself."""
    first, second = kind.split("-")[:2]
    if kind == ELSEWHERE:
        half = halves(source.dataset.names)
        names = [
            one for one in sorted(source.dataset.names) if half[one] == half[name]
        ]  # a fit must not see the others
        other = source.pair(names[(names.index(name) + len(names) // 2) % len(names)])
        return replace(source.pair(name), image1=other.image1, hints={"modality0": first, "modality1": second})

    def show(sample: Sample) -> Sample:
        if sample.modality != "sar":
            raise ValueError(f"{name} shows {sample.modality} beside optical; calibration needs optical–SAR pairs")
        images = {"optical": sample.optical, "sar": sample.other}
        other = images[second]
        return replace(sample, optical=images[first], other=to_grey(other))

    return replace(source.pair(name, show), hints={"modality0": first, "modality1": second})


@torch.inference_mode()
def one_pass(net: TARMatcher, pair: Pair) -> Matches:
    """The matches of one pass, std included."""
    out = net({"image0": to_tensor(pair.image0), "image1": to_tensor(pair.image1), **pair.hints})
    return Matches.of(out["keypoints0"], out["keypoints1"], out["confidence"], out["std"])


def registered(registrar: Registrar, pair: Pair) -> Matches:
    """The registrar's tie points, std included; none where it refuses the pair."""
    told = pair.hints["modality0"], pair.hints["modality1"]
    found = registrar(pair.image0, pair.image1, modality0=told[0], modality1=told[1])
    m, kept = found.matches, slice(None if found.registered else 0)
    points0, points1, confidence, std = (
        part[kept].astype(np.float32) for part in (m.points0, m.points1, m.confidence, m.stated_std)
    )
    return Matches(points0, points1, confidence, std)


def halves(names: Iterable[str]) -> dict[str, int]:
    """Each name's half, 0 or 1. A scene, which is what names have before their last underscore, is never divided."""
    scene = {name: name.rpartition("_")[0] for name in names}
    order = {one: place for place, one in enumerate(sorted(set(scene.values())))}
    return {name: order[one] % 2 for name, one in scene.items()}


def stated(predictions: Sequence[Prediction], half: Sequence[int]) -> Stated:
    """What was said of the matches of several pairs, each of the half that ``half`` says; errors in px of image1."""
    matches = [prediction.matches for prediction in predictions]
    errors = [transform_points(p.truth, p.matches.points0) - p.matches.points1 for p in predictions]
    return Stated(
        np.repeat(np.asarray(half, np.intp), [len(m.points0) for m in matches]),
        np.concatenate([m.confidence for m in matches]).astype(np.float64),
        np.concatenate([m.std for m in matches if m.std is not None]).astype(np.float64),
        np.concatenate(errors),
    )


def judge(found: Mapping[Plan, Found]) -> tuple[Rows, Calibration]:
    """Figures before the correction and after it, fitted on the other half of the scenes; and the fit to all.

    Raises:
        ValueError: too little to fit to, or what is stated says nothing of what is true.
    """
    rows, fits = {}, {}
    for output in OUTPUTS:
        parts = {plan.pair: part for plan, part in found.items() if plan.output == output}
        elsewhere = parts.pop(ELSEWHERE).stated if ELSEWHERE in parts else None
        samples = {pair: part.stated for pair, part in parts.items()}
        try:
            after, fits[output] = held_out(samples, elsewhere), fit(samples, elsewhere)
        except ValueError as error:
            raise ValueError(f"{OUTPUTS[output]}: {error}; take more pairs, of several scenes") from None
        rows[output] = {
            pair: {
                "pairs": part.pairs, "pairs without matches": part.empty, "matches": len(part.stated.std),
                "before": figures(part.stated), "after": figures(after[pair]),
            }
            for pair, part in parts.items()
        }  # fmt: skip
    return rows, Calibration(matches=fits["matches"], tie_points=fits["tie_points"])


def store(path: Path, fitted: str, **fits: Any) -> None:
    """Write fits into a checkpoint, in place and atomically; all else in it stays.

    Args:
        path: the checkpoint.
        fitted: to what, in words.
        **fits: by the name of the field of :class:`Calibration`.
    """
    net, info = load_checkpoint(path)
    known = info.get("calibration") or {}
    words = {key: known[key] for key in ("fitted", "acceptance_fitted") if key in known}
    words["acceptance_fitted" if "registration" in fits else "fitted"] = fitted
    calibration = replace(Calibration.from_metadata(known or None), **fits).to_metadata()
    if "registration" not in {*fits, *known}:
        del calibration["registration"]  # the default is the package's, which may get better
    save_checkpoint(path, net, info | {"calibration": calibration | words})


def write(folder: Path, dataset: str, level: str, rows: Rows, calibration: Calibration) -> Path:
    """Write ``<set>.<level>.calibration.md``, ``.json`` and ``.png``; returns the first one's path."""
    stem, made = f"{dataset}.{level}.calibration", provenance()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stem}.json", {"fit": asdict(calibration), "figures": rows, "made": made})
    _draw(rows, f"{dataset}, level {level}", folder / f"{stem}.png")
    lines = [f"## Calibration, {dataset}, level {level}", "", *_tables(rows, calibration), ""]
    lines += [f"`{made['command']}` · commit {made['commit']} · {made['date']}"]
    return write_text(folder / f"{stem}.md", "\n".join(lines) + "\n")


def _tables(rows: Rows, calibration: Calibration) -> list[str]:
    def both(row: dict[str, Any], key: str, digits: int) -> str:
        return " → ".join(f"{row[when][key]:.{digits}f}" for when in ("before", "after"))

    named = [(f"{OUTPUTS[output]}, {PAIRS[pair]}", row) for output, part in rows.items() for pair, row in part.items()]
    fits = (("matches", calibration.matches), ("tie_points", calibration.tie_points))
    return [
        "Before → after the correction, which was fitted on the other half of the scenes. Pairs of one modality are an "
        "image and itself, warped. Without matches: tie points of pairs that the registrar refuses.", "",
        "Confidence, the probability of being within 3 px. ECE: mean distance of what is stated from what is true, "
        f"{BINS} bins of equally many matches.", "",
        *grid(
            ("", "pairs", "without matches", "matches", "within 3 px", "stated", "ECE"),
            ([name, str(row["pairs"]), str(row["pairs without matches"]), str(row["matches"]),
              f"{row['before']['within 3 px']:.3f}", both(row, "stated confidence", 3), both(row, "ECE", 3)]
             for name, row in named)), "",
        f"`std`, of matches within {CELL} px (a coarse cell): root mean square of the stated one-sigma errors and of "
        "the true errors per axis, px. ENCE: mean of |true - stated| / stated over the bins. Fitted on optical–SAR "
        "pairs alone: no two images of one modality are as alike as one and itself.", "",
        *grid(
            ("", f"within {CELL} px", "true", "stated", "true / stated", "ENCE"),
            ([name, f"{row['before']['within a cell']:.3f}", f"{row['before']['true std']:.2f}",
              *(both(row, key, 2) for key in ("stated std", "true over stated", "ENCE"))]
             for name, row in named)), "",
        "The fit to all scenes:", "",
        *grid(("", "optical–SAR", "one modality"),
              ([OUTPUTS[output], str(fit.cross), str(fit.same)] for output, fit in fits), text=3),
    ]  # fmt: skip


def _draw(rows: Rows, title: str, path: Path) -> None:
    """Draw stated against true, confidence and std of both outputs: dotted before, full after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 8.5), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), (output, part) in zip(grid, rows.items(), strict=True):
        for (pair, row), colour in zip(part.items(), ("tab:blue", "tab:orange", "tab:green"), strict=True):
            for when, line, face in (("before", ":", "none"), ("after", "-", colour)):
                look = {"color": colour, "ls": line, "marker": "o", "ms": 4, "mfc": face}
                left.plot(*row[when]["reliability"].T, label=f"{PAIRS[pair]}, {when}", **look)
                right.plot(*row[when]["std"].T, **look)
        curves = [row[when]["std"] for row in part.values() for when in ("before", "after")]
        for axes, limit in ((left, 1.0), (right, 1.05 * float(np.concatenate(curves).max()))):
            axes.plot([0, limit], [0, limit], color="grey", lw=0.8)
            axes.set(xlim=(0, limit), ylim=(0, 1.02 * limit), title=OUTPUTS[output])
            axes.grid(alpha=0.3)
        left.set(xlabel="stated confidence", ylabel="share within 3 px")
        right.set(xlabel="stated std, px", ylabel="true error per axis, root mean square, px")
    grid[0, 0].legend(fontsize=8)
    figure.suptitle(f"{title}: the correction is fitted on the other half of the scenes")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
