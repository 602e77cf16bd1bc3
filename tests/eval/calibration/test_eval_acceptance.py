"""Acceptance: a fit to outcomes of several kinds, each judged by a fit that never saw it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import needs_weights
from toys import texture, write_tar

from eval.benchmark import protocol
from eval.calibration import acceptance
from eval.calibration.acceptance import Kind, Plan
from eval.calibration.outcomes import Outcome
from eval.cli import main
from eval.commands.acceptance import _plan
from kornia_tar.network.checkpoint import load_checkpoint, resolve_weights


def outcomes(count: int, right: bool, seed: int, spread: float = 0.08) -> list[Outcome]:
    rng, found = np.random.default_rng(seed), []
    for k in range(count):
        agreement = float(np.clip((0.85 if right else 0.2) + spread * rng.normal(), 0.01, 0.99))
        gain = (0.4 if right else -0.1) + 0.05 * rng.normal()
        error = float(rng.uniform(0.5, 4)) if right else None
        found.append(
            Outcome(f"{k}", error, right, 1.0, 1.0, gain, 1500, 1.0 if right else 9.0, agreement, gain, gain, 0.9)
        )
    return found


def kinds() -> list[Kind]:
    return [Kind(name, outcomes(20, True, k), outcomes(20, False, 9 + k)) for k, name in enumerate(("a tar", "b", "c"))]


def test_right_and_wrong_are_told_apart_on_kinds_that_a_fit_has_not_seen():
    found = acceptance.judge(kinds())
    for kind in kinds():
        row = acceptance.figures(kind, found[kind.name], 0.9)
        assert row["found and accepted"] > 90 and row["mismatched accepted"] == 0
        assert 0.5 < row["true over estimated"] < 4 and 0 < row["within twice"] < 100  # errors of 0.5 to 4, all said 1
    rows = acceptance.reliability(kinds(), found)
    assert sum(count for _, count, _ in rows) == 120 and rows[0][2] < 0.1 and rows[-1][2] > 0.9


def test_a_kind_is_judged_by_the_others():
    strange = Kind("strange", outcomes(20, False, 3), outcomes(20, True, 4))  # its truth is upside down
    strange = Kind("strange", [Outcome(**{**vars(o), "error": 99.0}) for o in strange.true], strange.mismatched)
    alone, beside = acceptance.judge(kinds())["b"], acceptance.judge([*kinds(), strange])
    row = acceptance.figures(strange, beside["strange"], 0.9)
    assert row["mismatched accepted"] > 15  # by what the others say; its own pairs did not teach it otherwise
    assert not np.allclose(alone, beside["b"])


def test_near_misses_teach_nothing_and_are_told_by_their_estimated_error():
    near = [replace(one, error=15.0) for one in outcomes(20, True, 5)]
    with_near = [Kind(kind.name, [*kind.true, *near], kind.mismatched) for kind in kinds()]
    assert acceptance.fit(with_near) == acceptance.fit(kinds())
    row = acceptance.figures(with_near[0], acceptance.judge(with_near)["a tar"], 0.9)
    assert row["true"] == 40 and row["found"] == 50 and row["wrong but accepted"] > 15
    told = Kind("a tar", [replace(one, finer=15.0) for one in near], [])  # 15 px of image1 for one of the coarser image
    assert acceptance.figures(told, np.ones(20), 0.9)["wrong but accepted"] == 0


def test_what_a_few_cells_decide_is_not_accepted_however_probable():
    kind = kinds()[0]
    few = Kind(kind.name, [replace(one, trimmed_excess=0.01) for one in kind.true], kind.mismatched)
    sure = np.ones(len(few.all))
    assert acceptance.figures(few, sure, 0.9)["found and accepted"] == 0
    assert acceptance.figures(kind, sure, 0.9)["found and accepted"] == 100


def test_crops_and_levels_of_a_set_are_left_out_together():
    crops = Kind("a tar 128", outcomes(10, True, 7), outcomes(10, False, 8))
    with_crops, without = acceptance.judge([*kinds(), crops])["a tar"], acceptance.judge(kinds())["a tar"]
    assert np.allclose(with_crops, without)


def test_what_is_found_and_nothing_to_fit():
    pair = Outcome("x", 7.0, True, 1.0, 1.0, 0.4, 1500, 1.0, 0.9, 0.4, 0.4, 0.9)
    far = Outcome("y", 12.0, True, 1.0, 1.0, 0.4, 1500, 1.0, 0.9, 0.4, 0.4, 0.9)
    row = acceptance.figures(Kind("x", [pair, far], []), np.array([0.95, 0.95]), 0.9)
    assert row["found"] == 50 and row["found and accepted"] == 50 and row["wrong but accepted"] == 1
    with pytest.raises(ValueError, match="take more pairs"):
        acceptance.fit([Kind("x", outcomes(5, True, 0), [])])


def test_weights_without_a_second_look_are_judged_too():
    blind = [
        Kind(kind.name, *([replace(o, agreement=math.nan) for o in part]
                          for part in (kind.true, kind.mismatched))) for kind in kinds()
    ]  # fmt: skip
    found = acceptance.judge(blind)
    assert acceptance.figures(blind[1], found["b"], 0.9)["found and accepted"] > 90


def test_the_table_is_written(tmp_path):
    path = acceptance.write(tmp_path / "out", kinds(), 0.9)
    text = path.read_text()
    assert "a tar" in text and "logits" in text
    content = json.loads((tmp_path / "out" / "acceptance.json").read_text())
    assert set(content["rows"]) == {"a tar", "b", "c"} and "agreement" in content["fit"]["with_look"]["weights"]


def test_plans_are_read():
    assert _plan("DATA/val-000.tar:tar:60:50") == Plan("DATA/val-000.tar", "tar", 60, 50)
    assert _plan("srif:/x/y:real:3:4:128") == Plan("srif:/x/y", "real", 3, 4, 128)
    for wrong in ("val.tar", "val.tar:tar", "val.tar:tar:3", "val.tar:soft:3:4", "val.tar:tar:a:4", "a:tar:1:2:3:4"):
        with pytest.raises(ValueError, match="SET:LEVEL"):
            _plan(wrong)


@pytest.mark.slow  # registers; test_eval_refit.py collects and stores, too
@needs_weights
def test_the_fit_goes_into_a_copy_of_the_weights(tmp_path, monkeypatch, capsys):
    pictures = {f"fake__{k}": texture(k) for k in range(4)}
    data = write_tar(tmp_path / "toy-000.tar", {n: (np.stack([i] * 3, -1), i) for n, i in pictures.items()})
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    place = protocol.warps_path("toy-000", "tar", tmp_path)
    protocol.write_warps(place, "toy-000", "tar", 0, dict.fromkeys(pictures, shift))
    weights = tmp_path / "copy.safetensors"
    weights.write_bytes(resolve_weights("optical-sar").read_bytes())
    before = load_checkpoint(weights)[1]["calibration"]
    words = ["--pairs", f"{data}:tar:1:1:64", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main(["acceptance", *words, "--store", str(weights)]) == 1  # one kind alone: nothing is left to judge it by
    assert "take more pairs" in capsys.readouterr().err
    monkeypatch.setattr(acceptance, "judge", lambda kinds: {kind.name: np.zeros(len(kind.all)) for kind in kinds})
    assert main(["acceptance", *words, "--store", str(weights)]) == 0
    after = load_checkpoint(weights)[1]["calibration"]
    assert after["matches"] == before["matches"] and "toy-000.tar:tar:1:1:64" in after["acceptance_fitted"]
    assert after["registration"]["with_look"] != before.get("registration", {}).get("with_look")
