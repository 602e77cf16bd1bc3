"""Dense matching of a list of pairs into hloc's files, where hloc is not installed."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hloc_plugin.formats import (
    Floats,
    Pair,
    check_others,
    dense_paths,
    image_files,
    read_pairs,
    write_features,
    write_matches,
)
from hloc_plugin.model import DEFAULTS, files_of, load_matcher, match
from kornia_tar import TARMatcher, __version__
from kornia_tar.conventions import MIN_SIDE
from kornia_tar.files import check_outputs, output_folder, remove_own, replacing
from kornia_tar.geometry import PointMatches
from kornia_tar.raster import read_image, to_grey, to_grey8, told_modality

PART = r"[0-9a-f]{24}\.npz"  # a pair's file in the folder of an unfinished run
Indexed = tuple[PointMatches, NDArray[np.int64], Floats]


def match_dense(
    conf: Mapping[str, Any],
    pairs: Path,
    image_dir: Path,
    export_dir: Path,
    *,
    max_kps: int | None = 8192,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Path, Path]:
    """Match all pairs and write features and matches as ``hloc.match_dense.main`` would name them.

    Beyond hloc it reads GeoTIFF, 16-bit and float images, and gives the matcher their masks. Each pair's matches are
    kept in a folder ``OUTPUT_PAIRS.partial`` until all are there: the same call goes on where a run was interrupted, as
    long as settings, weights and images are the same.

    Args:
        conf: one of :data:`hloc_plugin.confs`.
        pairs: text file of pairs.
        image_dir: folder that their names count from.
        export_dir: folder for both files; made when missing.
        max_kps: most keypoints of an image, the best ones; None for all.
        overwrite: replace earlier files; an input is never replaced.
        progress: told one line for each pair.

    Returns:
        paths of the features and of the matches.

    Raises:
        FileNotFoundError: an image that is named and not there.
        ValueError: a file that is there already or would replace an input; keypoints that the matches of further pairs
            count; an image that cannot be read.
    """
    names = read_pairs(pairs, image_dir)
    feature_path, match_path = dense_paths(conf["output"], pairs, export_dir)
    check_outputs(
        (feature_path, match_path), [pairs, *image_files(image_dir, names), *files_of(conf["model"])],
        overwrite=overwrite,
    )  # fmt: skip
    check_others(conf["output"], names, match_path, whole=True)
    matcher = load_matcher(conf["model"]).to("cuda" if torch.cuda.is_available() else "cpu")
    digest = _digest(matcher, conf)
    partial = output_folder(match_path.with_suffix(".partial"))
    dense: dict[Pair, PointMatches] = {}
    for number, pair in enumerate(names, 1):
        started = time.perf_counter()
        kept = partial / f"{_key(digest, [image_dir / name for name in pair])}.npz"
        found = _read_part(kept)
        how = "of an interrupted run"
        if found is None:
            found = _match_files(matcher, [image_dir / name for name in pair], conf)
            with replacing(kept) as temporary, temporary.open("wb") as file:
                np.savez(file, points0=found.points0, points1=found.points1, confidence=found.confidence)
            how = f"{time.perf_counter() - started:.1f} s"
        dense[pair] = found
        progress(f"[{number}/{len(names)}] {pair[0]} {pair[1]}: {len(found.confidence)} matches, {how}")
    features, matches = join_keypoints(dense, conf["max_error"], conf["cell_size"], max_kps)
    write_features(feature_path, features)
    write_matches(match_path, matches)
    remove_own(partial, PART + r"|\." + PART + r"\.\w+\.tmp")
    return feature_path, match_path


def _match_files(matcher: TARMatcher, paths: Iterable[Path], conf: Mapping[str, Any]) -> PointMatches:
    """Match two images; the points are pixels of their files."""
    data, scales = {}, []
    for k, path in enumerate(paths):
        image, mask, scale = load_image(path, conf["preprocessing"]["resize_max"])
        data[f"image{k}"] = torch.from_numpy(image).to(matcher.net.tafe.query.weight.device)[None, None]
        if not mask.all():
            data[f"mask{k}"] = torch.from_numpy(mask).to(data[f"image{k}"].device)[None]
        scales.append(scale)
    found = {k: v.float().cpu().numpy() for k, v in match(matcher, data, {**DEFAULTS, **conf["model"]}).items()}
    points = [((found[f"keypoints{k}"] + 0.5) * scales[k] - 0.5).astype(np.float32) for k in (0, 1)]
    return PointMatches(points[0], points[1], found["scores"])


def _digest(matcher: TARMatcher, conf: Mapping[str, Any]) -> str:
    """Say in a few letters what all matches depend on beside the images: settings, numbers of the network, version."""
    digest = hashlib.sha256(repr((sorted(conf["model"].items()), conf["preprocessing"], __version__)).encode())
    for name, tensor in sorted(matcher.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _key(digest: str, paths: Iterable[Path]) -> str:
    """Name the part of one pair, by what its matches depend on."""
    images = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr((digest, images)).encode()).hexdigest()[:24]


def _read_part(path: Path) -> PointMatches | None:
    """Read one pair's matches; None where there are none, or where the disk did not keep them."""
    try:
        with np.load(path) as part:
            return PointMatches(part["points0"], part["points1"], part["confidence"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def load_image(path: Path, resize_max: int | None) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Grey image (H, W) in [0, 1], its mask, and what its (x, y) must be multiplied with to be those of the file."""
    raster = read_image(path, upright=False)  # hloc and COLMAP count from the stored pixels
    pixels, mask = raster.pixels, raster.mask
    if pixels.dtype != np.uint8:
        grey = to_grey8(raster, told_modality(raster, "auto"))
    else:  # finished pictures keep their values, as in hloc
        grey = np.where(mask, to_grey(pixels), 0).astype(np.uint8)
    height, width = raster.size
    factor = min(1.0, (resize_max or max(height, width)) / max(height, width))
    size = max(MIN_SIDE, round(width * factor)), max(MIN_SIDE, round(height * factor))
    if size != (width, height):
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return (grey / np.float32(255)).astype(np.float32), mask, (np.array([width, height]) / size).astype(np.float32)


def join_keypoints(
    dense: Mapping[Pair, PointMatches], max_error: float, cell_size: float, max_kps: int | None
) -> tuple[dict[str, tuple[Floats, Floats]], dict[Pair, Indexed]]:
    """Turn matches of pairs into keypoints of images that the pairs share.

    Each image is divided into cells; the best match in a cell gives the keypoint, whose score is the sum over all of
    the cell's matches within ``max_error``. A match goes to its cells' keypoints where both are that near, and of
    matches with the same keypoint the best one stays. (hloc does the same and may round keypoints besides.)

    Args:
        dense: matches of each pair.
        max_error: px, how far a match may lie from its keypoint.
        cell_size: px.
        max_kps: most keypoints of an image.

    Returns:
        image → (keypoints, score), and pair → (its matches, (K, 2) indices, (K,) scores).
    """
    points: dict[str, list[Floats]] = {}
    scores: dict[str, list[Floats]] = {}
    for pair, found in dense.items():
        for name, keypoints in zip(pair, (found.points0, found.points1), strict=True):
            points.setdefault(name, []).append(keypoints)
            scores.setdefault(name, []).append(found.confidence)
    features: dict[str, tuple[Floats, Floats]] = {}
    ids: dict[str, Iterable[NDArray[np.int64]]] = {}
    for name, parts in points.items():
        keypoints, score, own = _keypoints(
            np.concatenate(parts), np.concatenate(scores[name]), max_error, max(cell_size, max_error), max_kps
        )
        features[name] = keypoints, score
        ids[name] = iter(np.split(own, np.cumsum([len(part) for part in parts])[:-1]))
    matches: dict[Pair, Indexed] = {}
    for pair, found in dense.items():
        indices = np.stack([next(ids[name]) for name in pair], axis=-1)  # type: ignore[call-overload]
        best = np.argsort(-found.confidence, kind="stable")
        best = best[(indices[best] >= 0).all(1)]
        for column in (0, 1):
            best = best[np.sort(np.unique(indices[best, column], return_index=True)[1])]
        matches[pair] = found, indices[best], found.confidence[best]
    return features, matches


def _keypoints(
    points: Floats, scores: Floats, max_error: float, cell_size: float, max_kps: int | None
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Keypoints (K, 2), their scores (K,), and the keypoint of each point (N,), -1 where none is near."""
    order = np.argsort(-scores, kind="stable")
    cells = np.floor((points[order] + 0.5) / cell_size).astype(np.int64)
    _, first, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    winner = order[first]
    own = np.empty(len(points), np.int64)
    own[order] = cell.reshape(-1)
    own[np.linalg.norm(points - points[winner][own], axis=1) > max_error] = -1
    total = np.bincount(own[own >= 0], scores[own >= 0], len(winner)).astype(np.float32)
    kept = np.argsort(-total, kind="stable")[:max_kps]
    renumber = np.full(len(winner) + 1, -1, np.int64)  # its last entry keeps -1
    renumber[kept] = np.arange(len(kept))
    return points[winner][kept], total[kept], renumber[own]
