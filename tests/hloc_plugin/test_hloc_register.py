"""hloc finds TAR by its own means."""

from __future__ import annotations

import importlib

import pytest
import torch
from helpers import picture

import hloc_plugin


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


def test_missing_package_says_how_to_install_it():
    with pytest.raises(ImportError, match=r"no_such_hloc is not installed; pip install git\+https"):
        hloc_plugin.register("no_such_hloc")
