"""Speed: contenders in turns, what a device could do, the table and the roofline."""

import json

import pytest
import torch
import torch.nn.functional as F

from eval.benchmark.speed import measure as measuring
from eval.benchmark.speed.ceiling import Ceiling, count_work, measure_ceiling
from eval.benchmark.speed.contenders import CONTENDERS, Built, Kind, build_contender
from eval.benchmark.speed.measure import Group, Plan, Result, Row, Spread, images, measure
from eval.cli import main
from eval.peers.store import MatcherUnavailable, Store
from eval.report import speed

CPU = torch.device("cpu")
MADE = {"command": "c", "commit": "a", "date": "d", "hardware": "h", "versions": {}, "threads": 1}
GROUP = Group("float32", 64, 2)


def test_every_contender_is_timed_beside_loftr_and_told_in_a_table(tmp_path):
    plan = Plan(
        ("tar_one_look", "loftr", "roma"), sizes=(64,), threads=1, repeats=2, weights=tmp_path, modes=("fused",)
    )
    kept = []
    result = measure(plan, lambda result, group: kept.append((group, len(result.rows))))
    assert kept == [(Group("float32", 64, 1), 2)]
    rows = {(row.key, row.mode): row for row in result.rows}
    assert set(rows) == {("tar_one_look", "fused"), ("loftr", "eager")}
    for row in rows.values():
        assert 0 < row.milliseconds.least <= row.milliseconds.median <= row.milliseconds.most
        assert row.peak_mib > 50 and row.work.gflop > 0 and row.work.gbyte > 0
    assert rows["loftr", "eager"].faster == (1, 1, 1) and "random weights" in rows["loftr", "eager"].about
    assert rows["tar_one_look", "fused"].work.gflop < rows["loftr", "eager"].work.gflop
    assert "no weights" in result.not_run[f"RoMa, eager, {kept[0][0]}"] or "romatch" in str(result.not_run)

    table, values, picture = speed.write(tmp_path, result, MADE)
    text = table.read_text()
    assert "## 64×64, 1 at once, float32" in text and "1.00 (1.00–1.00)" in text and "not run: RoMa" in text
    assert picture.read_bytes()[:4] == b"\x89PNG" and json.loads(values.read_text())["plan"]["repeats"] == 2


def test_a_ratio_is_told_with_its_spread_and_without_operations_there_is_no_roofline(tmp_path):
    row = Row("tar", "TAR", "fused", "as it ships", 10, GROUP, Spread(9, 10, 12), Spread(2, 3, 4), 300.0, None)
    table, _ = speed.write(tmp_path, Result(Plan(), [row], {"float32": Ceiling(100.0, 10.0)}), MADE)
    assert "| 10.0 (9.0–12.0) | 100 | 3.00 (2.00–4.00) | 300 | – | – |" in table.read_text()


def test_each_matcher_runs_in_the_modes_it_has_and_what_compiles_comes_last():
    plan = Plan(("tar", "loftr", "xfeat"), ("eager", "compiled", "fused"))
    assert plan.contenders() == [
        ("tar", "eager"), ("tar", "fused"), ("loftr", "eager"), ("xfeat", "eager"),
        ("tar", "compiled"), ("loftr", "compiled"),
    ]  # fmt: skip
    with pytest.raises(MatcherUnavailable, match="only eager"):
        build_contender("xfeat", Store(None, untrained=True), CPU, "compiled")


def test_one_that_breaks_down_is_left_out_and_the_others_go_on(monkeypatch, tmp_path):
    def build(store, device):
        return Built([torch.nn.Linear(1, 1)], lambda *_: torch.zeros(1).view(2), "breaks down")

    def fine(store, device):
        return Built([torch.nn.Linear(1, 1)], lambda a, b: torch.einsum("bchw,bchv->bwv", a, b), "is fine")

    monkeypatch.setattr(measuring, "_peak_of_its_own", lambda *_: 1.0)
    monkeypatch.setitem(CONTENDERS, "loftr", Kind("LoFTR", build, ("eager",)))
    monkeypatch.setitem(CONTENDERS, "xfeat", Kind("XFeat", fine, ("eager",)))
    result = measure(Plan(("loftr", "xfeat"), sizes=(64,), threads=1, repeats=1, weights=tmp_path))
    assert [row.key for row in result.rows] == ["xfeat"] and result.rows[0].faster is None
    assert "RuntimeError: shape" in result.not_run["LoFTR, eager, 64×64, 1 at once, float32"]


def test_work_is_counted_by_hand():
    a, b = torch.rand(8, 16), torch.rand(16, 4)
    asked = count_work(lambda: torch.mm(a, b))
    assert asked.gflop == pytest.approx(2e-9 * 8 * 16 * 4)
    assert asked.gbyte == pytest.approx(4e-9 * (8 * 16 + 16 * 4 + 8 * 4))
    assert count_work(lambda: a.T).gbyte == 0
    assert count_work(lambda: a.T.contiguous()).gbyte == pytest.approx(4e-9 * 2 * 8 * 16)
    q = torch.rand(1, 4, 64, 32)
    attention = count_work(lambda: F.scaled_dot_product_attention(q, q, q))
    assert attention.gflop == pytest.approx(1e-9 * 2 * 2 * 4 * 64 * 64 * 32)
    best = measure_ceiling(CPU, torch.float32, repeats=1)
    assert best.gflops > 0.1 and best.gbytes > 0.1


def test_pairs_at_once_hold_the_same_pair():
    image0, image1 = images(64, 3, CPU)
    assert image0.shape == image1.shape == (3, 1, 64, 64)
    assert torch.equal(image0[0], image0[2]) and 0 <= float(image1.min()) < float(image1.max()) <= 1


def test_nothing_begins_when_the_time_is_over(tmp_path):
    over = measure(Plan(("tar_one_look",), ("fused",), sizes=(64,), threads=1, minutes=0.0, weights=tmp_path))
    assert not over.rows and "0 minutes were over" in next(iter(over.not_run.values()))


def test_a_matcher_that_there_is_not_is_refused_in_one_line(capsys):
    for words, told in (
        (["speed", "--matchers", "tra"], "argument --matchers: tra: there are tar, tar_lost"),
        (
            ["study", "loftr", "--limt", "3"],
            "unrecognized arguments: --limt (did you mean --limit?); see python -m eval",
        ),
        (["warps", "--data", "x", "--seed", "-1"], "argument --seed: -1 is below 0; see python -m eval warps --help"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        line = capsys.readouterr().err
        assert ended.value.code == 1 and told in line and line.count("\n") == 1
