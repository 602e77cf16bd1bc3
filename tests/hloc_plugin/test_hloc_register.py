"""hloc finds TAR by its own means."""

from __future__ import annotations

import importlib
from copy import deepcopy

import pytest
import torch
from helpers import picture

import hloc_plugin
from hloc_plugin.formats import read_keypoints, read_matches, read_pairs


def load(package: str, name: str) -> type:
    base = importlib.import_module(f"{package}.utils.base_model")
    return base.dynamic_load(importlib.import_module(f"{package}.matchers"), name)


def test_register_adds_matcher_and_confs(hloc):
    hloc_plugin.register()
    match_dense = importlib.import_module("hloc.match_dense")
    assert {"tar", "tar_sfm", "tar_aachen", "loftr"} <= set(match_dense.confs)
    assert match_dense.confs["tar"] == hloc_plugin.confs["tar"]
    Model = load("hloc", "tar")
    assert issubclass(Model, importlib.import_module("hloc.utils.base_model").BaseModel)
    assert Model.__module__ == "hloc.matchers.tar"


def test_register_twice_changes_nothing_more(hloc):
    hloc_plugin.register()
    path = list(importlib.import_module("hloc.matchers").__path__)
    hloc_plugin.register()
    assert list(importlib.import_module("hloc.matchers").__path__) == path


def test_confs_of_the_user_stay(stand_in):
    match_dense = importlib.import_module(f"{stand_in}.match_dense")
    match_dense.confs["tar"] = "mine"
    hloc_plugin.register(stand_in)
    assert match_dense.confs["tar"] == "mine"
    match_dense.confs["tar_sfm"]["model"]["weights"] = "changed"
    assert hloc_plugin.confs["tar_sfm"]["model"]["weights"] == "optical-sar"


def test_unregistered_package_does_not_know_tar(stand_in):
    with pytest.raises(ModuleNotFoundError):
        load(stand_in, "tar")


def test_fork_under_another_name(stand_in, weights):
    hloc_plugin.register(stand_in)
    model = load(stand_in, "tar")({"name": "tar", "weights": str(weights), "match_threshold": 0.0})
    assert type(model).__module__ == f"{stand_in}.matchers.tar"
    out = model.eval()({"image0": picture(1, 64, 72), "image1": picture(2, 64, 64)})
    assert set(out) == {"keypoints0", "keypoints1", "scores"}
    assert out["keypoints0"].shape == out["keypoints1"].shape == (len(out["scores"]), 2)


def test_default_conf_fills_what_a_conf_leaves_out(hloc, weights):
    hloc_plugin.register()
    model = load("hloc", "tar")({"name": "tar", "weights": str(weights)})
    assert model.conf["match_threshold"] == 0.1 and model.conf["rotations"] == 1
    with pytest.raises(AssertionError), torch.no_grad():
        model({"image0": picture(1, 64, 64)})


def test_imcuis_own_pipeline(views, conf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes a log there
    match_dense = pytest.importorskip("imcui.hloc.match_dense", reason="imcui is not importable")
    hloc_plugin.register("imcui.hloc")
    assert load("imcui.hloc", "tar").__module__ == "imcui.hloc.matchers.tar"
    assert match_dense.confs["tar_sfm"] == hloc_plugin.confs["tar_sfm"]
    pairs = views / "pairs.txt"
    features, matches = match_dense.main(deepcopy(conf), pairs, views / "images", tmp_path)
    names = read_pairs(pairs)
    keypoints = read_keypoints(features, {name for pair in names for name in pair})
    for pair, indices in read_matches(matches, names).items():
        assert len(indices) and all(indices[:, k].max() < len(keypoints[pair[k]]) for k in (0, 1))


@pytest.mark.parametrize(
    ("package", "command"),
    [("no_such_hloc", r"no_such_hloc is not installed; pip install git\+https"), ("imcui.no", "; pip install imcui$")],
)
def test_missing_package_says_how_to_install_it(package, command):
    with pytest.raises(ImportError, match=command):
        hloc_plugin.register(package)


def test_torchvision_of_another_torch_is_told_in_one_line(broken):
    for _ in range(2):
        with pytest.raises(ImportError) as caught:
            hloc_plugin.register(broken)
        line = str(caught.value)
        assert line.startswith("broken_hloc cannot be imported (operator torchvision::nms does not exist); install the")
        assert torch.__version__ in line and "\n" not in line
