"""Calibration: curves and errors of known data, the fit, the halves, and the command as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import lively_net, small_matcher
from toys import texture, write_tar

from eval.benchmark import protocol
from eval.benchmark.pairs import LevelPairs
from eval.calibration import confidence as calibration
from eval.calibration.confidence import halves, one_pass, pair_of, registered
from eval.calibration.reliability import (
    Stated,
    calibration_error,
    figures,
    fit,
    held_out,
    reliability,
    scale_logits,
    std_curve,
    std_factor,
)
from eval.cli import main
from eval.datasets import Sample
from eval.peers import Matches
from kornia_tar.network.calibration import Calibration, PlattScaling
from kornia_tar.network.checkpoint import load_checkpoint, save_checkpoint

WRONG = PlattScaling(temperature=1.6, bias=-0.8, std_factor=2.5)  # what toys state is the truth through this


def source_of(sample, warp):
    """A set of one sample under one warp."""
    dataset = SimpleNamespace(name="toy", names=[sample.name], read=lambda name: sample)
    return LevelPairs(dataset, "tar", {sample.name: warp})


def honest(count: int, seed: int = 0) -> Stated:
    """Matches whose confidence is the probability of being right, and whose std is true of those in the right cell."""
    rng = np.random.default_rng(seed)
    confidence, std = rng.uniform(0.05, 0.95, count), rng.uniform(0.3, 0.8, count)
    error = np.where((rng.random(count) < confidence)[:, None], rng.normal(size=(count, 2)) * std[:, None], 50.0)
    return Stated(np.arange(count) % 2, confidence, std, error)


def test_calibrated_data_have_no_error():
    found = honest(50_000)
    assert calibration_error(found) < 0.01
    row = figures(found)
    assert row["true over stated"] == pytest.approx(1, abs=0.01) and row["ENCE"] < 0.03
    assert row["within 3 px"] == pytest.approx(row["stated confidence"], abs=0.01)


def test_errors_are_what_arithmetic_says():
    right, wrong = [[1.0, 1.0]], [[9.0, 9.0]]
    found = Stated(
        np.zeros(4, int), np.array([0.9, 0.2, 0.9, 0.2]), np.full(4, 2.0), np.array(right + wrong + right + right)
    )
    # bins of one match each, the two of 0.2 first: |0.2 - 0| + |0.2 - 1| + 2 |0.9 - 1|
    assert calibration_error(found) == pytest.approx((0.2 + 0.8 + 0.1 + 0.1) / 4)
    np.testing.assert_allclose(reliability(found), [(0.2, 0), (0.2, 1), (0.9, 1), (0.9, 1)])
    np.testing.assert_allclose(std_curve(found), [(2, 1)] * 3)  # the match in another cell does not count
    assert std_factor(found) == pytest.approx(0.5)


def test_the_fit_recovers_what_was_done_to_the_confidence():
    found = honest(50_000)
    stated = WRONG.confidence(found.confidence)
    assert calibration_error(replace(found, confidence=stated)) > 0.1
    temperature, bias = scale_logits(stated, found.right)
    # The inverse of sigmoid(z / T + b) is sigmoid(T z - T b).
    assert temperature == pytest.approx(1 / WRONG.temperature, rel=0.05)
    assert bias == pytest.approx(-WRONG.bias * WRONG.temperature, abs=0.05)
    assert calibration_error(found.corrected(PlattScaling(1.0, 0.0))) < 0.01
    assert calibration_error(replace(found, confidence=PlattScaling(temperature, bias).confidence(stated))) < 0.01


def test_the_fit_stays_finite_where_all_are_right():
    temperature, bias = scale_logits(np.linspace(0.3, 0.9, 1000), np.ones(1000, bool))
    assert 0 < temperature < 10 and 1 < bias < 10


def test_confidence_that_says_the_contrary_is_refused():
    found = honest(1000)
    with pytest.raises(ValueError, match="slope"):
        scale_logits(1 - found.confidence, found.right)
    with pytest.raises(ValueError, match="no match"):
        scale_logits(np.zeros(0), np.zeros(0, bool))


def test_each_half_is_corrected_by_the_other_and_std_by_cross_pairs():
    cross, same = honest(20_000, 1), honest(20_000, 2)
    second = cross.half == 1
    std = np.where(second, 4 * cross.std, 2 * cross.std)
    found = {"optical-sar": replace(cross, std=std), "sar-sar": same}
    after = held_out(found)["optical-sar"]
    first, other = after.rows(after.half == 0), after.rows(after.half == 1)
    assert figures(first)["true over stated"] == pytest.approx(2, rel=0.05)  # twofold, corrected as if fourfold
    assert figures(other)["true over stated"] == pytest.approx(0.5, rel=0.05)
    whole = fit(found)
    assert whole.same.std_factor == whole.cross.std_factor < 0.5
    assert whole.same.temperature == pytest.approx(1, abs=0.05)


def test_a_scene_is_in_one_half():
    names = [f"set__{scene}_r{k}" for scene in ("a", "b", "c") for k in range(3)]
    half = halves(names)
    assert [half[name] for name in names] == [0] * 3 + [1] * 3 + [0] * 3


def test_pairs_of_one_modality_are_an_image_and_itself():
    optical, sar = np.stack([texture(1)] * 3, -1), texture(2)
    sample, shift = Sample("a_0", optical, sar), np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    pairs = {kind: pair_of(source_of(sample, shift), sample.name, kind) for kind in calibration.PAIRS}
    assert pairs["optical-sar"].hints == {"modality0": "optical", "modality1": "sar"}
    for kind in ("optical-optical", "sar-sar"):
        pair = pairs[kind]
        assert set(pair.hints.values()) == {kind.split("-")[0]}
        first = pair.image0 if pair.image0.ndim == 2 else pair.image0[..., 0]
        np.testing.assert_allclose(first[2:200, :200].astype(int), pair.image1[:198, 3:203], atol=2)
    with pytest.raises(ValueError, match="infrared"):
        pair_of(source_of(replace(sample, modality="infrared"), shift), sample.name, "optical-sar")


def test_one_pass_and_the_registrar_state_std_and_refusals_state_nothing():
    sample = Sample("a_0", texture(1), texture(2))
    pair = pair_of(source_of(sample, np.eye(3)), "a_0", "optical-sar")
    found = one_pass(small_matcher(), pair)
    assert found.std is not None and len(found.std) == len(found.points0) > 0
    ties = Matches(*(np.ones((3, 2)), np.ones((3, 2)), np.ones(3), np.full(3, 2.0)))
    for trusted, count in ((True, 3), (False, 0)):
        outcome = SimpleNamespace(registered=trusted, matches=ties)
        got = registered(lambda *images, outcome=outcome, **told: outcome, pair)
        assert got.std is not None and len(got.points1) == len(got.std) == count


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on four toy scenes, matched by a pretender whose confidence and std are wrong in a known way."""
    pictures = {f"{scene}_0": texture(k) for k, scene in enumerate("abcd")}
    data = write_tar(tmp_path / "toy-000.tar", {n: (np.stack([i] * 3, -1), i) for n, i in pictures.items()})
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    monkeypatch.setattr(calibration, "SAME_SHARE", 1)
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    protocol.write_warps(
        protocol.warps_path("toy-000", "tar", tmp_path), "toy-000", "tar", 0, dict.fromkeys(pictures, shift)
    )
    calls = []

    def pretend(_, pair):
        calls.append(pair.name)
        found = honest(2000, len(calls))
        points = np.full((2000, 2), 100.0)
        grey = pair.image0 if pair.image0.ndim == 2 else pair.image0.mean(-1)
        one_place = np.corrcoef(grey[2:, :-3].ravel(), pair.image1[:-2, 3:].ravel())[0, 1] > 0.9
        confidence = found.confidence if one_place else np.full(2000, 1e-4)  # it knows that nothing is right there
        stated = WRONG.confidence(confidence), WRONG.std(found.std)
        return Matches(points, points + np.array([3, -2]) - found.error, *stated)

    monkeypatch.setattr(calibration, "one_pass", pretend)
    monkeypatch.setattr(calibration, "registered", pretend)
    checkpoint = tmp_path / "toy.safetensors"
    save_checkpoint(checkpoint, lively_net(), {"seed": 3})
    arguments = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    run = lambda *more: main(["calibration", *arguments, *more])  # noqa: E731
    return SimpleNamespace(run=run, calls=calls, checkpoint=checkpoint, out=tmp_path / "out")


def test_the_command_writes_tables_and_a_plot_and_stores_the_fit(command, capsys):
    assert command.run("--checkpoint", str(command.checkpoint)) == 0
    assert load_checkpoint(command.checkpoint)[1] == {"seed": 3} and len(command.calls) == 2 * 3 * 4 + 4
    assert command.run("--store", str(command.checkpoint)) == 0
    assert len(command.calls) == 28  # cached
    assert "optical–SAR" in capsys.readouterr().out
    content = json.loads((command.out / "toy-000.tar.calibration.json").read_text())
    for output in ("matches", "tie_points"):
        for row in content["figures"][output].values():
            assert row["before"]["ECE"] > 0.1 and row["after"]["ECE"] < 0.03
            assert row["before"]["true over stated"] == pytest.approx(1 / WRONG.std_factor, rel=0.05)
            assert row["after"]["true over stated"] == pytest.approx(1, rel=0.05)
    assert (command.out / "toy-000.tar.calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "temperature" in (command.out / "toy-000.tar.calibration.md").read_text()
    info = load_checkpoint(command.checkpoint)[1]
    stored = Calibration.from_metadata(info["calibration"])
    assert info["seed"] == 3 and "toy-000" in info["calibration"]["fitted"]
    assert stored.matches.cross.temperature == pytest.approx(1 / WRONG.temperature, rel=0.1)
    assert stored.tie_points.same.std_factor == pytest.approx(1 / WRONG.std_factor, rel=0.05)


def test_too_few_scenes_are_an_error_in_one_line(command, capsys):
    assert command.run("--checkpoint", str(command.checkpoint), "--limit", "1") == 1
    assert "one pass: no match is within a coarse cell" in capsys.readouterr().err
    assert not command.out.exists()
