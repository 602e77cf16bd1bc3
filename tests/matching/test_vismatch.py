"""The vismatch adapter, on vismatch where it is importable, else on a stand-in of its base class."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import lively_net, needs_weights, picture

from kornia_tar import GuidedMatcher, RegistrarConfig, SearchConfig
from kornia_tar.geometry import transform_points
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.raster.synthetic import demo_pair


class StandIn(torch.nn.Module):
    """What the adapter uses of ``vismatch.base_matcher.BaseMatcher``."""

    def __init__(self, device="cpu", **kwargs):
        super().__init__()
        self.device, self.told = device, kwargs

    def forward(self, img0, img1):
        p0, p1, all0, all1, desc0, desc1, confidence = self._forward(img0, img1)
        assert desc0 is None and desc1 is None
        return {"matched_kpts0": p0.numpy(), "matched_kpts1": p1.numpy(), "all_kpts0": all0.numpy(),
                "all_kpts1": all1.numpy(), "matched_confidences": confidence.numpy()}  # fmt: skip


@pytest.fixture(scope="module")
def adapter():
    """The class; both modules are forgotten afterwards if vismatch was not real."""
    try:
        importlib.import_module("vismatch.base_matcher")
        yield importlib.import_module("kornia_tar.matching.vismatch").TARVismatch
        return
    except ImportError:
        pass
    package, base = ModuleType("vismatch"), ModuleType("vismatch.base_matcher")
    base.BaseMatcher = StandIn
    sys.modules |= {"vismatch": package, "vismatch.base_matcher": base}
    yield importlib.import_module("kornia_tar.matching.vismatch").TARVismatch
    for name in ("vismatch", "vismatch.base_matcher", "kornia_tar.matching.vismatch"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_checkpoint(path, lively_net(), {})
    return path


def test_matches_as_vismatch_hands_them_on(adapter, weights):
    matcher = adapter(weights=weights, threshold=0.0, ransac_iters=500)
    out = matcher(picture(1, 64, 80, channels=3)[0], picture(2, 72, 64, channels=3)[0])
    count = len(out["matched_confidences"])
    assert count > 0
    for k, (height, width) in enumerate(((64, 80), (72, 64))):
        points = out[f"matched_kpts{k}"]
        assert isinstance(points, np.ndarray) and points.shape == (count, 2)
        assert (points < (width, height)).all() and len(out[f"all_kpts{k}"]) >= count


def test_budget_and_modality(adapter, weights):
    one, two = picture(1, 64, 80, channels=3)[0], picture(2, 72, 64, channels=3)[0]
    few = adapter(weights=weights, threshold=0.0, max_num_keypoints=5)(one, two)
    assert len(few["all_kpts0"]) == 5
    with pytest.raises(ValueError, match="modality0"):
        adapter(weights=weights, modality0="radar")(one, two)


def test_guided_matches_are_the_registrars_or_none(adapter, weights):
    registrar = RegistrarConfig(search=SearchConfig(rotations=1))
    matcher = adapter(weights=weights, guided=True, registrar=registrar)
    assert isinstance(matcher.matcher, GuidedMatcher) and matcher.matcher.registrar is registrar
    out = matcher(picture(1, 64, 80, channels=3)[0], picture(2, 64, 80, channels=3)[0])
    assert out["matched_kpts0"].shape == out["matched_kpts1"].shape == (0, 2)  # untrained, and of different places


@pytest.mark.slow
@needs_weights
def test_guided_finds_a_pair_that_is_turned(adapter):
    optical, sar, truth = demo_pair()
    one, two = (np.atleast_3d(image).transpose(2, 0, 1).astype(np.float32) / 255 for image in (optical, sar))
    two = np.repeat(two, 3, axis=0) if len(two) == 1 else two
    matcher = adapter(guided=True, modality0="optical", modality1="sar", max_num_keypoints=500)
    out = matcher(torch.from_numpy(one), torch.from_numpy(two))
    assert 50 < len(out["matched_kpts0"]) <= 500
    errors = np.linalg.norm(transform_points(truth, out["matched_kpts0"]) - out["matched_kpts1"], axis=1)
    assert np.median(errors) < 3
