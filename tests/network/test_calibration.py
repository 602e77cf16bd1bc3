"""Calibration: what a checkpoint's fit does to confidence and std, and that no fit changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import lively_net, pair, small_matcher

from kornia_tar import TARMatcher
from kornia_tar.cli.main import main
from kornia_tar.network.calibration import Calibration, PairScalings, PlattScaling
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint

FIT = Calibration(
    matches=PairScalings(PlattScaling(1.5, 0.3, 0.5), PlattScaling(0.8, 1.0, 0.7)),
    tie_points=PairScalings(PlattScaling(1.2, 2.0, 0.4), PlattScaling(1.0, 3.0, 0.4)),
)


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "fitted.safetensors"
    save_checkpoint(target, lively_net(), {"calibration": FIT.to_metadata() | {"fitted": "to a toy"}})
    return target


def test_a_correction_is_what_arithmetic_says():
    p = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    got = PlattScaling(2.0, 0.7, 3.0).confidence(p)
    expected = 1 / (1 + np.exp(-(np.log(p[1:-1] / (1 - p[1:-1])) / 2 + 0.7)))
    np.testing.assert_allclose(got[1:-1], expected, rtol=1e-9)
    assert 0 < got[0] < got[1] and got[-2] < got[-1] < 1
    np.testing.assert_allclose(PlattScaling(2.0, 0.7, 3.0).std(np.array([2.0])), [6.0])


def test_tensors_are_corrected_as_arrays_are_and_gradients_stay_finite():
    p = torch.tensor([0.0, 1e-9, 0.3, 0.99, 1.0], requires_grad=True)
    got = PlattScaling(0.5, -1.0).confidence(p)
    np.testing.assert_allclose(got.detach(), PlattScaling(0.5, -1.0).confidence(p.detach().double().numpy()), atol=1e-5)
    got.sum().backward()
    assert p.grad is not None and p.grad.isfinite().all() and p.grad[2] > 0


def test_the_default_changes_nothing():
    p = torch.rand(9)
    assert PlattScaling().confidence(p) is p
    assert Calibration.from_metadata(None) == Calibration()


@pytest.mark.parametrize("values", [(0.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (1.0, float("nan"), 1.0), (1.0, 0.0, 0.0)])
def test_what_is_no_correction_is_refused(values):
    with pytest.raises(ValueError, match="above 0"):
        PlattScaling(*values)


def test_a_pair_gets_the_correction_of_its_modalities():
    fits = FIT.matches
    assert fits.of("optical", "sar") is fits.of("sar", "optical") is fits.cross
    assert fits.of("sar", "sar") is fits.of("optical", "optical") is fits.same


def test_a_fit_survives_the_checkpoint(path, tmp_path):
    net, info = load_checkpoint(path)
    assert Calibration.from_metadata(info["calibration"]) == FIT
    save_checkpoint(tmp_path / "again.safetensors", net, info)
    assert TARMatcher(tmp_path / "again.safetensors").calibration == FIT


@pytest.mark.parametrize(
    "broken", [[], {}, {"matches": {}, "tie_points": {}}, FIT.to_metadata() | {"matches": {"cross": {"t": 1}}}]
)
def test_a_broken_fit_is_refused_in_one_line(tmp_path, broken):
    path = tmp_path / "broken.safetensors"
    save_checkpoint(path, lively_net(), {"calibration": broken})
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@torch.no_grad()
def test_the_matcher_applies_it_by_the_modalities_of_each_pair(path):
    raw, fitted = small_matcher(), TARMatcher(path, threshold=0.0)
    raw.net = fitted.net
    assert raw.calibration == Calibration()
    data = pair(batch=2) | {"modality0": ["optical", "sar"], "modality1": ["sar", "sar"]}
    before, after = raw(data), fitted(data)
    torch.testing.assert_close(after["keypoints0"], before["keypoints0"], rtol=0, atol=0)
    for b, correction in enumerate((FIT.matches.cross, FIT.matches.same)):
        mine = before["batch_indexes"] == b
        assert mine.any()
        torch.testing.assert_close(after["confidence"][mine], correction.confidence(before["confidence"][mine]))
        torch.testing.assert_close(after["std"][mine], before["std"][mine] * correction.std_factor)


@torch.no_grad()
def test_inferred_modalities_choose_the_correction_too(path):
    data = pair()
    fitted = TARMatcher(path, threshold=0.0)
    names = [("optical", "sar")[int(fitted.infer_modality(data[f"image{k}"])[0].argmax())] for k in (0, 1)]
    out = fitted(data)
    fitted.calibration = Calibration()
    raw = fitted(data)
    expected = FIT.matches.of(*names)
    torch.testing.assert_close(out["confidence"], expected.confidence(raw["confidence"]))
    torch.testing.assert_close(out["std"], expected.std(raw["std"]))


@torch.no_grad()
def test_the_threshold_is_of_the_corrected_confidence(path):
    every = TARMatcher(path, threshold=0.0)(pair())["confidence"]
    cut = float(every.median())
    kept = TARMatcher(path, threshold=cut)(pair())["confidence"]
    assert (kept >= cut).all() and 0 < len(kept) == int((every >= cut).sum()) < len(every)


def test_info_shows_it(path, tmp_path, capsys):
    save_checkpoint(tmp_path / "plain.safetensors", lively_net(), {})
    assert main(["info", "--weights", str(path)]) == 0
    told = capsys.readouterr().out
    assert "calibration: to a toy" in told and "temperature 1.5, bias +0.3, std × 0.5" in told
    assert main(["info", "--weights", str(tmp_path / "plain.safetensors")]) == 0
    assert "calibration: none" in capsys.readouterr().out
