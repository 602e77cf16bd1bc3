"""Anyone's own matcher by its import path, and names that are checked before anything runs."""

from __future__ import annotations

import pytest
from toys import texture

from eval import peers
from eval.benchmark import jobs, protocol, turned
from eval.benchmark.score import score
from eval.cli import main
from eval.datasets import open_dataset

CODE = """
import numpy as np
from eval.peers import Matches

class Mine:
    name, parameters, settings = "mine", 3, "first"
    def __init__(self, store):
        self.folder = store.folder
    def match(self, image0, image1, **hints):
        points = np.array([[1, 2], [30, 4], [5, 40], [20, 20]], np.float32)
        return Matches(points, points + 1, np.ones(4, np.float32))

def build(store):
    return Mine(store)

def wrong(store):
    return object()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "eval_own_matcher.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "eval_own_matcher", raising=False)
    return tmp_path / "eval_own_matcher.py"


@pytest.mark.parametrize("factory", ["build", "Mine"])
def test_it_is_built_and_its_code_is_part_of_the_key(factory, module, tmp_path):
    matcher = peers.create(f"eval_own_matcher:{factory}", tmp_path)
    assert (matcher.name, matcher.parameters) == ("mine", 3)
    assert matcher.match(texture(0, 64), texture(1, 64)).points1[0].tolist() == [2, 3]
    assert matcher.settings.startswith("first, code ")
    module.write_text(CODE + "\n# changed\n")
    assert peers.create(f"eval_own_matcher:{factory}", tmp_path).settings != matcher.settings
    assert turned.create(f"eval_own_matcher:{factory}@4", tmp_path).name == "mine, best of 4 turns"


def test_one_that_is_no_matcher_is_told_what_it_lacks(module, tmp_path):
    with pytest.raises(TypeError, match="the object it returns lacks name, parameters, settings, match"):
        peers.create("eval_own_matcher:wrong", tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eval_own_matcher:buidl", r"has no function or class 'buidl'; it has Matches, Mine, build, wrong"),
        ("eval_no_such_module:build", "the module 'eval_no_such_module' cannot be imported"),
        ("vismach:xoftr", "cannot be imported .* did you mean vismatch:xoftr"),
        ("alikd", "is unknown: choose from arosics, .*<module>:<factory>, or did you mean aliked"),
        ("xfeat-lighterglue", "did you mean xfeat_lighterglue"),
        ("sift:fast", "is unknown: choose from arosics"),
    ],
)
def test_mistyped_names_say_what_was_meant(name, reason, module):
    with pytest.raises(ValueError, match=reason):
        peers.check(name)


def test_a_mistyped_name_fails_before_anything_runs(tar, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("eval.benchmark.jobs.run_jobs", lambda *_: pytest.fail("something ran"))
    options = ["--data", str(tar), "--warps", str(tmp_path), "--cache", str(tmp_path / "m"), "--out", str(tmp_path)]
    assert main(["run", "--matchers", "sift,alikd@4", *options]) == 1
    assert "did you mean aliked" in capsys.readouterr().err


def test_a_job_matches_with_it_and_with_its_turns(module, tar, tmp_path):
    (dataset,) = open_dataset(tar)
    warps = protocol.draw_warps(dataset.names, "tar", 0)
    protocol.write_warps(protocol.warps_path("toy-000", "tar", tmp_path), "toy-000", "tar", 0, warps)
    for key in ("eval_own_matcher:build", "sift@4"):
        job = jobs.Job(
            key, data=str(tar), split=None, dataset="toy-000", names=tuple(dataset.names), levels=("tar",), threads=1,
            cache=tmp_path / "m", warps=tmp_path, weights=tmp_path, checkpoint=None,
        )  # fmt: skip
        assert jobs._outcome(job, lambda number: None) == ("done", None)
    table = score("toy-000", "tar", tmp_path / "m", dataset.names, {}, tmp_path)
    rows = {row["matcher"]: row for row in table.rows}
    assert set(rows) == {"mine", "RootSIFT, best of 4 turns"}
    assert rows["RootSIFT, best of 4 turns"]["SR@5"] == 1
