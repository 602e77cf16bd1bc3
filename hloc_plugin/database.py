"""A COLMAP database of keypoints, matches and verified pairs, written through pycolmap alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hloc_plugin import _pycolmap
from hloc_plugin.formats import Floats, Pair
from hloc_plugin.verification import Verification
from kornia_tar.files import replacing
from kornia_tar.geometry import FloatArray

#: From pixel centres at integers to COLMAP's, which counts from the corner of the first pixel.
_TO_COLMAP = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


def write_database(
    path: Path,
    image_dir: Path,
    keypoints: Mapping[str, Floats],
    matches: Mapping[Pair, NDArray[np.int64]],
    verified: Mapping[Pair, Verification],
    camera_mode: str = "AUTO",
) -> None:
    """Write a database that COLMAP, pycolmap and hloc go on from; one that is there is replaced.

    Every pair gets a two-view geometry whose ``config`` is set: a rejected one DEGENERATE, without inliers. pycolmap
    4.2.1 leaves pairs aside whose config is not.

    Args:
        path: the database.
        image_dir: folder that the names count from.
        keypoints: image → (K, 2) pixels, pixel centres at integers.
        matches: pair → (M, 2) indices of keypoints.
        verified: pair → outcome; its inliers count the matches.
        camera_mode: AUTO, SINGLE, PER_FOLDER or PER_IMAGE.

    Raises:
        ImportError: pycolmap is absent.
        ValueError: an image that COLMAP cannot read, or an unknown camera mode.
    """
    pycolmap = _pycolmap.load()
    if camera_mode not in pycolmap.CameraMode.__members__:
        known = ", ".join(pycolmap.CameraMode.__members__)
        raise ValueError(f"camera mode is {camera_mode!r}; it must be one of {known}")
    with replacing(path) as temporary:
        with pycolmap.Database.open(temporary):
            pass
        mode = pycolmap.CameraMode.__members__[camera_mode]
        pycolmap.import_images(temporary, image_dir, mode, image_names=list(keypoints))
        with pycolmap.Database.open(temporary) as database:
            ids = {image.name: image.image_id for image in database.read_all_images()}
            unread = [name for name in keypoints if name not in ids]
            if unread:
                raise ValueError(f"{image_dir / unread[0]}: COLMAP cannot read it; run tar-hloc prepare first")
            for name, points in keypoints.items():
                database.write_keypoints(ids[name], (points + 0.5).astype(np.float32))
            for (name0, name1), indices in matches.items():
                database.write_matches(ids[name0], ids[name1], indices.astype(np.uint32))
            for pair, outcome in verified.items():
                geometry = _two_view(pycolmap, outcome, matches[pair][outcome.inliers])
                database.write_two_view_geometry(ids[pair[0]], ids[pair[1]], geometry)


def _two_view(pycolmap, outcome: Verification, inliers: NDArray[np.int64]):  # type: ignore[no-untyped-def]
    config = pycolmap.TwoViewGeometryConfiguration.__members__[outcome.config]
    if not outcome.accepted:
        return pycolmap.TwoViewGeometry(config=config)
    geometry = pycolmap.TwoViewGeometry(config=config, inlier_matches=inliers.astype(np.uint32))
    assert outcome.matrix is not None
    if outcome.planar:
        geometry.H = _TO_COLMAP @ outcome.matrix @ np.linalg.inv(_TO_COLMAP)
    else:
        back: FloatArray = np.linalg.inv(_TO_COLMAP)
        geometry.F = back.T @ outcome.matrix @ back
    return geometry
