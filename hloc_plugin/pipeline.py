"""Verify all pairs of hloc's files and write what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from hloc_plugin import _pycolmap
from hloc_plugin.database import write_database
from hloc_plugin.dense import load_image
from hloc_plugin.formats import Pair, image_files, names_to_pair, read_keypoints, read_matches, read_pairs
from hloc_plugin.model import pair_modalities, valid_pixels
from hloc_plugin.picture import draw_inliers
from hloc_plugin.verification import DEFAULTS, Model, Verification, verify
from kornia_tar import Registrar, __version__
from kornia_tar.files import check_outputs, output_folder, write_json
from kornia_tar.raster import read_image, to_rgb8, write_image
from kornia_tar.registration.acceptance import VerificationConfig


def verify_files(
    pairs: Path,
    image_dir: Path,
    features: Path,
    matches: Path,
    out: Path,
    *,
    model: Model = "affine",
    config: VerificationConfig = DEFAULTS,
    camera_mode: str = "AUTO",
    pictures: bool = True,
    registrar: Registrar | None = None,
    modality: str | None = None,
    nodata: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[Pair, Verification]:
    """Verify each pair; write ``verification.json``, ``database.db`` and ``inliers/PAIR.png`` into ``out``.

    Args:
        pairs: text file of pairs.
        image_dir: folder that their names count from.
        features: hloc's or our file of features.
        matches: hloc's or our file of matches, of dense or of sparse matchers.
        out: folder; made when missing.
        model: see :func:`hloc_plugin.verification.verify`.
        config: what a pair must show.
        camera_mode: how COLMAP shares cameras between images.
        pictures: whether to draw.
        registrar: judges affine transforms and homographies by the images, once the counts accept them; or None. The
            report tells what it is.
        modality: told to the registrar, see :data:`hloc_plugin.model.DEFAULTS`.
        nodata: likewise.
        overwrite: replace earlier results; an input is never replaced.
        progress: told one line for each pair.

    Returns:
        pair → outcome.

    Raises:
        ImportError, FileNotFoundError, ValueError: what is missing or does not fit, in one line.
    """
    _pycolmap.load()  # a missing pycolmap should be told before anything is read
    names = read_pairs(pairs)
    pictured = [out / "inliers" / _picture(pair) for pair in names] if pictures else []
    check_outputs(
        (out / "verification.json", out / "database.db", *pictured),
        (pairs, features, matches, *image_files(image_dir, names)), overwrite=overwrite,
    )  # fmt: skip
    keypoints = read_keypoints(features, dict.fromkeys(name for pair in names for name in pair))
    found = read_matches(matches, names)
    out = output_folder(out)
    load = lru_cache(maxsize=8)(lambda name: to_rgb8(read_image(image_dir / name, upright=False)))
    judge = registrar if model in ("affine", "homography") else None
    judged_by = None if judge is None else {**_told(judge), "modality": modality, "nodata": nodata}
    verified: dict[Pair, Verification] = {}
    for number, pair in enumerate(names, 1):
        image0, image1 = (load(name) for name in pair)
        indices = found[pair]
        for k in (0, 1):
            if len(indices) and indices[:, k].max() >= len(keypoints[pair[k]]):
                raise ValueError(f"{matches}: names keypoints of {pair[k]} that {features} does not hold")
        points0, points1 = (keypoints[name][indices[:, k]] for k, name in enumerate(pair))
        outcome = verify(points0, points1, image0.shape[:2], image1.shape[:2], model, config)
        if judge is not None and outcome.accepted:
            outcome = _judged(outcome, judge, [image_dir / name for name in pair], modality, nodata)
        verified[pair] = outcome
        line = _line(pair, outcome)
        if pictures:
            picture = draw_inliers(image0, image1, points0, points1, outcome.inliers, line)
            write_image(output_folder(out / "inliers") / _picture(pair), picture)
        progress(f"[{number}/{len(names)}] {line}")
    write_database(out / "database.db", image_dir, keypoints, found, verified, camera_mode)
    write_json(out / "verification.json", _report(verified, model, config, judged_by))
    return verified


def _told(registrar: Registrar) -> dict[str, Any]:
    """Say what judges: the weights, the words, and what it asks for."""
    path, text = registrar.matcher.weights, registrar.matcher.info.get("text", {})
    return {
        "weights": None if path is None else path.name,
        "weights_sha256": None if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
        "text": text.get("encoder", "none"),
        "text_names": text.get("names", []),
        "min_probability": registrar.config.acceptance.min_probability,
        "kornia_tar": __version__,
    }


def _judged(
    outcome: Verification, registrar: Registrar, paths: list[Path], modality: str | None, nodata: int | None
) -> Verification:
    """Ask the registrar, which is shown what the matcher was: stored pixels, where fill still has its own value."""
    assert outcome.matrix is not None
    images: list[torch.Tensor] = []
    masks: list[torch.Tensor | None] = []
    for path in paths:
        grey, mask, _ = load_image(path, None)
        images.append(torch.from_numpy(grey)[None, None])
        masks.append(valid_pixels(torch.from_numpy(mask)[None], images[-1], nodata))
    kinds = pair_modalities(registrar.matcher, images, masks, modality)
    grey0, grey1 = (image[0, 0].numpy() for image in images)
    valid0, valid1 = (None if mask is None else mask[0].numpy() for mask in masks)
    seen = registrar.judge(grey0, grey1, outcome.matrix, valid0, valid1, *kinds)
    return outcome.judged(seen.probability, seen.reasons)


def _picture(pair: Pair) -> str:
    return names_to_pair(*pair).replace("/", "__") + ".png"


def _line(pair: Pair, outcome: Verification) -> str:
    sure = "" if outcome.probability is None else f" with probability {outcome.probability:.2f}"
    state = f"accepted{sure}" if outcome.accepted else "rejected: " + "; ".join(outcome.reasons)
    return f"{pair[0]} {pair[1]}: {int(outcome.inliers.sum())} of {len(outcome.inliers)} matches, {state}"


def _report(
    verified: dict[Pair, Verification], model: Model, config: VerificationConfig, judged_by: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "convention": "pixel centres at integers; a homography maps image0 to image1; [x1 y1 1] F [x0 y0 1]' = 0",
        "model": model,
        "accepted_when": asdict(config),
        "judged_by": judged_by,
        "accepted": sum(outcome.accepted for outcome in verified.values()),
        "pairs": [{"image0": a, "image1": b, **outcome.report()} for (a, b), outcome in verified.items()],
    }
