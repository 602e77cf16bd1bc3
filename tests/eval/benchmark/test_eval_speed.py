"""Speed: contenders in turns, what a device could do, the table and the roofline."""

import pytest
import torch

from eval.benchmark.speed.ceiling import Ceiling, ceiling, work
from eval.benchmark.speed.contenders import contender
from eval.benchmark.speed.measure import Plan, Result, Row, Spread, images, measure
from eval.cli import main
from eval.peers.store import MatcherUnavailable, Store
from eval.report import speed

CPU = torch.device("cpu")
MADE = {"command": "c", "commit": "a", "date": "d", "hardware": "h", "versions": {}, "threads": 1}
ROW = Row("tar", "TAR", "as it ships", 10, "fused", "float32", 64, 2, Spread(9, 10, 12), 300.0, None, Spread(2, 3, 4))


def test_every_contender_is_timed_beside_loftr_and_told_in_a_table(tmp_path):
    plan = Plan(("tar_one_look", "loftr", "roma"), ("eager",), sizes=(64,), threads=1, repeats=2, weights=tmp_path)
    result = measure(plan)
    rows = {row.key: row for row in result.rows}
    assert set(rows) == {"tar_one_look", "loftr"}
    for row in rows.values():
        assert 0 < row.milliseconds.least <= row.milliseconds.median <= row.milliseconds.most
        assert row.peak_mib > 50 and row.work.gflop > 0 and row.work.gbyte > 0
    assert rows["loftr"].faster == (1, 1, 1) and "random weights" in rows["loftr"].about
    assert rows["tar_one_look"].work.gflop < rows["loftr"].work.gflop
    assert "romatch" in result.not_run["RoMa, eager"]

    table, values, picture = speed.write(tmp_path, "speed-cpu", result, MADE)
    text = table.read_text()
    assert "## 64×64, 1 at once, float32" in text and "1.00 (1.00–1.00)" in text and "not run: needs romatch" in text
    assert picture.read_bytes()[:4] == b"\x89PNG" and values.stat().st_size > 100


def test_a_ratio_is_told_with_its_spread_and_without_operations_there_is_no_roofline(tmp_path):
    alone = Result([ROW], {"float32": Ceiling(100.0, 10.0)})
    table, _ = speed.write(tmp_path, "alone", alone, MADE)
    assert "| 10.0 (9.0–12.0) | 100 | 3.00 (2.00–4.00) | 300 | – | – |" in table.read_text()


def test_what_a_network_does_not_have_is_refused():
    with pytest.raises(MatcherUnavailable, match="fuse"):
        contender("loftr", Store(None, untrained=True), CPU, "fused")
    with pytest.raises(MatcherUnavailable, match="compile"):
        contender("xfeat", Store(None, untrained=True), CPU, "compiled")


def test_work_is_counted_by_hand():
    a, b = torch.rand(8, 16), torch.rand(16, 4)
    asked = work(lambda: torch.mm(a, b))
    assert asked.gflop == pytest.approx(2e-9 * 8 * 16 * 4)
    assert asked.gbyte == pytest.approx(4e-9 * (8 * 16 + 16 * 4 + 8 * 4))
    best = ceiling(CPU, torch.float32, repeats=1)
    assert best.gflops > 0.1 and best.gbytes > 0.1


def test_pairs_at_once_hold_the_same_pair():
    image0, image1 = images(64, 3, CPU)
    assert image0.shape == image1.shape == (3, 1, 64, 64)
    assert torch.equal(image0[0], image0[2]) and 0 <= float(image1.min()) < float(image1.max()) <= 1


def test_no_group_begins_when_the_time_is_over(tmp_path):
    over = measure(Plan(("tar_one_look",), ("fused",), sizes=(64,), threads=1, minutes=0.0, weights=tmp_path))
    assert not over.rows and "0 minutes were over" in over.not_run["64×64, 1 at once, float32"]


def test_a_matcher_that_there_is_not_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["speed", "--matchers", "tra"])
    assert "tra: there are tar, tar_one_look, loftr" in capsys.readouterr().err
