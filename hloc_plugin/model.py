"""What hloc's matcher and our own loop share: a matcher built from a conf, and how it is called."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kornia_tar import AcceptanceConfig, GuidedMatcher, RegistrarConfig, SearchConfig, TARMatcher
from kornia_tar.conventions import CELL, MODALITIES, turn_back

#: Keys of ``conf["model"]``:
#:
#: - ``weights``: name of shipped weights, or the path of a checkpoint.
#: - ``match_threshold``: least confidence, in [0, 1]; with other ``looks`` than the weights' own it is uncalibrated.
#: - ``max_num_matches``: of a pair, or None.
#: - ``modality``: "cross" where each pair has an optical image and a SAR one: which is which is told from the two
#:   together, surer than from each alone; "optical" or "sar" where all images are of that kind; None: told from each
#:   image.
#: - ``text``: None: the weights' own text prior; "none"; a bank's path (.npz, .safetensors, .h5); a provider's name;
#:   or a dict of the arguments of :meth:`kornia_tar.TARMatcher.set_text_prior`.
#: - ``ignore``, ``prefer``: words of the text, or groups such as "water", whose cells have no vote, or count for more;
#:   lists, see :mod:`kornia_tar.matching.steer`.
#: - ``guided``: register each pair, by rotation and scale, and return the registration's tie points, or none where it
#:   is refused; for overhead pairs, which one plane transform joins. Takes seconds on a CPU.
#: - ``rotations``: 4 tries one image in four quarter turns, for pairs turned by any angle; 8 the diagonals too, where
#:   those leave doubt, guided only; 1 is faster.
#: - ``min_probability``: least probability that the registration is right to 10 px, in [0, 1]; below it the pair has no
#:   matches; guided only.
#: - ``repeatable``: see :func:`to_cells`; of one look.
#: - ``looks``: of TARMatcher; None: what the weights were trained for. Views with parallax want 1: a second look lets
#:   neighbouring cells agree on a smooth field.
#: - ``nodata``: grey value in 0-255 that marks missing pixels (0 after ``tar-hloc prepare``), or None.
DEFAULTS: dict[str, Any] = {
    "weights": "optical-sar",
    "match_threshold": 0.1,
    "max_num_matches": None,
    "modality": None,
    "text": None,
    "ignore": (),
    "prefer": (),
    "guided": False,
    "rotations": 1,
    "min_probability": AcceptanceConfig.min_probability,
    "repeatable": False,
    "looks": None,
    "nodata": None,
}


def files_of(conf: Mapping[str, Any]) -> list[Path]:
    """List the files that a conf names, weights and a bank; what the package ships is none of the user's."""
    conf = {**DEFAULTS, **conf}
    text = conf["text"].get("path") if isinstance(conf["text"], Mapping) else conf["text"]
    return [Path(name) for name in (conf["weights"], text) if name is not None and Path(name).is_file()]


def load_matcher(conf: Mapping[str, Any]) -> TARMatcher:
    """Build the matcher that ``conf["model"]`` asks for, ready to run.

    Raises:
        FileNotFoundError: no such weights.
        ValueError: a value that does not fit.
    """
    unknown = sorted(set(conf) - set(DEFAULTS) - {"name"})
    if unknown:  # front ends of hloc write keys of their own into every conf
        warnings.warn(f"the conf of tar does not know {', '.join(unknown)}: left aside", stacklevel=2)
    conf = {**DEFAULTS, **conf}
    if conf["rotations"] not in ((1, 4, 8) if conf["guided"] else (1, 4)):
        raise ValueError(f"rotations is {conf['rotations']!r}; it must be 1 or 4, or 8 where guided")
    if conf["modality"] not in (None, "cross", *MODALITIES):
        raise ValueError(f"modality is {conf['modality']!r}; it must be cross, optical, sar or None")
    if conf["guided"] and conf["repeatable"]:
        raise ValueError("guided matches are tie points of one pair: they cannot be repeatable")
    if conf["repeatable"] and conf["looks"] not in (None, 1):
        raise ValueError(f"looks is {conf['looks']}: repeatable matches are made of one look")
    looks = 1 if conf["repeatable"] else conf["looks"]
    options = {"threshold": conf["match_threshold"], "max_keypoints": conf["max_num_matches"]}
    search = SearchConfig(rotations=conf["rotations"])
    acceptance = AcceptanceConfig(min_probability=conf["min_probability"])
    matcher = (
        GuidedMatcher(conf["weights"], registrar=RegistrarConfig(search=search, acceptance=acceptance), **options)
        if conf["guided"]
        else TARMatcher(
            conf["weights"], looks=looks, turns=1, scales=1, **options
        )  # match() turns, where it is asked to
    )
    text = conf["text"]
    if isinstance(text, Mapping):
        matcher.set_text_prior(**text)
    elif text is not None and Path(text).suffix in (".npz", ".safetensors", ".h5"):
        matcher.set_text_prior("bank", path=text)
    elif text is not None:
        matcher.set_text_prior(text)
    matcher.steer(conf["ignore"], conf["prefer"])
    return matcher.fuse()


@torch.no_grad()
def match(matcher: TARMatcher, data: Mapping[str, Tensor], conf: Mapping[str, Any]) -> dict[str, Tensor]:
    """Match one pair as hloc wants it.

    Exchanging the images exchanges the keypoints: hloc does so without telling. With four rotations, unguided, the
    smaller image is turned (of two alike, the darker one), whichever place it has.

    Args:
        matcher: from :func:`load_matcher`.
        data: ``image0`` (1, 1|3, H0, W0) and ``image1`` (1, 1|3, H1, W1) in [0, 1]; optional ``mask0``, ``mask1``
            (1, H, W).
        conf: see :data:`DEFAULTS`.

    Returns:
        ``keypoints0``, ``keypoints1`` (N, 2) px, pixel centres at integers; ``scores`` (N,) in [0, 1].
    """
    conf = {**DEFAULTS, **conf}
    images = [data["image0"], data["image1"]]
    masks = [valid_pixels(data.get(f"mask{k}"), image, conf["nodata"]) for k, image in enumerate(images)]
    turned = _lesser(images)
    modalities = pair_modalities(matcher, images, masks, conf["modality"])
    best: tuple[list[Tensor], Tensor] | None = None
    for quarters in range(1 if conf["guided"] else conf["rotations"]):  # a guided matcher turns by itself
        batch: dict[str, Any] = {}
        for k in (0, 1):
            turns = quarters if k == turned else 0
            batch[f"image{k}"] = images[k].rot90(turns, (2, 3))
            if (mask := masks[k]) is not None:
                batch[f"mask{k}"] = mask.rot90(turns, (1, 2))
            if modalities[k] is not None:
                batch[f"modality{k}"] = modalities[k]
        out = matcher(batch)
        keypoints, scores = [out["keypoints0"], out["keypoints1"]], out["confidence"]
        if conf["repeatable"]:
            keypoints, scores = to_cells(keypoints, scores)
        height, width = images[turned].shape[2:]
        x, y = turn_back(keypoints[turned][:, 0], keypoints[turned][:, 1], quarters, height, width)
        keypoints[turned] = torch.stack([x, y], dim=-1)
        if best is None or scores.sum() > best[1].sum():
            best = keypoints, scores
    assert best is not None
    return {"keypoints0": best[0][0], "keypoints1": best[0][1], "scores": best[1]}


def to_cells(keypoints: list[Tensor], scores: Tensor) -> tuple[list[Tensor], Tensor]:
    """Make of each match two, one from a cell's centre in image0 and one from a cell's centre in image1.

    The matcher joins two cells, finds that the centre c0 lies at c1 + e1 in image1 and the centre c1 at c0 + e0 in
    image0, and gives the mean of both: c0 + e0 / 2 and c1 + e1 / 2. In every pair of an image that is another point,
    so matches would never join into tracks. Cell centres return in all pairs, to the bit: c0 with c1 + e1, and
    c0 + e0 with c1. (hloc reaches the same by rounding keypoints to whole pixels, which costs accuracy.)

    Args:
        keypoints: (N, 2) of both images.
        scores: (N,).

    Returns:
        (2M, 2) of both images and (2M,), M ≤ N: without the matches so far from the centre that the cell is uncertain.
    """
    centres = [((p - (CELL - 1) / 2) / CELL).round() * CELL + (CELL - 1) / 2 for p in keypoints]
    offsets = [p - c for p, c in zip(keypoints, centres, strict=True)]
    sure = torch.stack([o.abs().amax(1) < CELL / 2 - 0.25 for o in offsets]).all(0)
    (c0, c1), (e0, e1) = ([t[sure] for t in group] for group in (centres, offsets))
    return [torch.cat([c0, c0 + 2 * e0]), torch.cat([c1 + 2 * e1, c1])], scores[sure].repeat(2)


def pair_modalities(
    matcher: TARMatcher, images: Sequence[Tensor], masks: Sequence[Tensor | None], modality: str | None
) -> Sequence[str | None]:
    """Say what the two images (1, C, H, W) of a pair are, as ``modality`` of :data:`DEFAULTS` tells it."""
    if modality != "cross":
        return modality, modality
    optical = [float(matcher.infer_modality(*side)[0, 0]) for side in zip(images, masks, strict=True)]
    first = optical[0] > optical[1] or (optical[0] == optical[1] and _lesser(images) == 1)
    return MODALITIES if first else MODALITIES[::-1]


def _lesser(images: Sequence[Tensor]) -> int:
    """Which of two images is the smaller one, of two alike the darker, whichever place it has."""
    return max((0, 1), key=lambda k: (-images[k].shape[2] * images[k].shape[3], -float(images[k].mean())))


def valid_pixels(mask: Tensor | None, image: Tensor, nodata: float | None) -> Tensor | None:
    """Mask (1, H, W) what is told and pixels that hold the nodata value in every band; None where neither is told."""
    if nodata is None:
        return mask
    valid = ((image * 255 - nodata).abs() >= 0.5).any(1)
    return valid if mask is None else valid & (mask.reshape(valid.shape) > 0)
