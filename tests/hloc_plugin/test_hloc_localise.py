"""docs/hloc.md's recipe of localisation: a model of views, and the pose of one more image in it."""

from __future__ import annotations

import importlib
from copy import deepcopy

import cv2
import numpy as np
import pytest
from helpers import needs_weights

import hloc_plugin
from hloc_plugin.cli import known_camera
from kornia_tar.raster import write_image
from kornia_tar.raster.synthetic import draw_scene

SIZE, FOCAL = (240, 320), 330.0
VIEWS = {  # rotation vector, centre
    "view0.png": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "view1.png": ((0.02, 0.06, 0.03), (1.2, 0.1, 0.1)),
    "view2.png": ((-0.05, -0.02, 0.0), (0.2, 1.1, -0.2)),
    "query.png": ((-0.02, 0.02, 0.04), (0.6, 0.5, 0.2)),
}


def render(rotation, centre) -> np.ndarray:
    """A pinhole view of the ground, 10 units away, and of four flat roofs nearer by."""
    height, width = SIZE
    intrinsics = np.array([[FOCAL, 0, width / 2 - 0.5], [0, FOCAL, height / 2 - 0.5], [0, 0, 1]])
    roofs = [(-3.0, -2.0, 8.0, 2.0), (1.0, -2.4, 7.0, 1.6), (-2.0, 0.6, 7.5, 1.8), (1.5, 0.8, 8.5, 2.2)]
    view = np.zeros((height, width, 3), np.uint8)
    for seed, (x, y, z, side) in enumerate([(-9.0, -8.0, 10.0, 18.0), *roofs], 4):
        texture = draw_scene(seed, 700 if seed == 4 else 160).optical
        step = side / len(texture)
        plane = np.array([[step, 0, x], [0, step, y], [0, 0, z]]) - np.outer(centre, [0, 0, 1])
        there = intrinsics @ cv2.Rodrigues(np.array(rotation))[0] @ plane
        seen = cv2.warpPerspective(texture, there, (width, height), flags=cv2.INTER_LINEAR)
        covers = cv2.warpPerspective(np.ones(texture.shape[:2], np.uint8), there, (width, height), flags=0)
        view = np.where(covers[..., None] > 0, seen, view)
    return view


@pytest.mark.slow
@needs_weights
def test_an_image_is_localised_in_a_model_of_others(real_hloc, tmp_path):
    pytest.importorskip("pycolmap")
    hloc_plugin.register()
    names = ("match_dense", "reconstruction", "localize_sfm")
    match_dense, reconstruction, localize_sfm = (importlib.import_module(f"hloc.{name}") for name in names)
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    out.mkdir()
    for name, pose in VIEWS.items():
        write_image(images / name, render(*pose))
    first, second, third, query = VIEWS
    (tmp_path / "views.txt").write_text(f"{first} {second}\n{first} {third}\n{second} {third}\n")
    (tmp_path / "near.txt").write_text("".join(f"{query} {name}\n" for name in (first, second, third)))
    camera = f"SIMPLE_PINHOLE {SIZE[1]} {SIZE[0]} {FOCAL} {SIZE[1] / 2} {SIZE[0] / 2}"
    (tmp_path / "queries.txt").write_text(f"{query} {camera}\n")

    conf = deepcopy(hloc_plugin.confs["tar_sfm"])
    conf["model"]["modality"] = "optical"
    features, matches = match_dense.main(conf, tmp_path / "views.txt", images, out)
    model = reconstruction.main(
        out / "sfm", images, tmp_path / "views.txt", features, matches, image_list=[first, second, third],
        **known_camera(f"SIMPLE_PINHOLE {FOCAL} {SIZE[1] / 2} {SIZE[0] / 2}".split()),
    )  # fmt: skip
    assert model.num_reg_images() == 3
    features, matches = match_dense.main(
        conf, tmp_path / "near.txt", images, out, features_ref=features, max_kps=None
    )  # fmt: skip
    localize_sfm.main(
        out / "sfm", tmp_path / "queries.txt", tmp_path / "near.txt", features, matches, out / "poses.txt"
    )

    name, w, x, y, z, *shift = (out / "poses.txt").read_text().split()
    assert name == query
    found = importlib.import_module("pycolmap").Rotation3d(np.array([x, y, z, w], float)).matrix()
    reference = next(image.cam_from_world() for image in model.images.values() if image.name == first)
    turn = found @ reference.rotation.matrix().T  # from view0 to the query, whatever the model's frame
    true_turn = cv2.Rodrigues(np.array(VIEWS[query][0]))[0]
    assert np.degrees(np.linalg.norm(cv2.Rodrigues(turn @ true_turn.T)[0])) < 0.2
    centre = -turn.T @ (np.array(shift, float) - turn @ reference.translation)  # in view0's frame, its scale unknown
    true_centre = np.array(VIEWS[query][1])
    cosine = centre @ true_centre / np.linalg.norm(centre) / np.linalg.norm(true_centre)
    assert np.degrees(np.arccos(cosine)) < 3
