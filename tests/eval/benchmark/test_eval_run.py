import json

import h5py
import numpy as np
import pytest
from PIL import Image
from toys import texture, write_tar

from eval import cli
from eval.benchmark import cache, predict
from eval.datasets import open_dataset
from eval.peers import Matches
from eval.peers.classical.identity import Identity


@pytest.fixture
def command(tar, tmp_path, monkeypatch):
    """Run ``python -m eval`` on the toy set, with all it writes under tmp_path."""
    monkeypatch.chdir(tmp_path)
    places = ["--out", "tables", "--warps", "warps"]

    def go(*words):
        extra = {"warps": ["--data", tar.name, "--warps", "warps"], "run": ["--data", tar.name, *places]}
        return cli.main([words[0], *extra.get(words[0], places), *words[1:]])

    assert go("warps", "--level", "tar,hard") == 0
    return go


def rows(path):
    return {row["matcher"]: row for row in json.loads(path.read_text())["rows"]}


def test_run_writes_tables_with_an_identity_row(command, tmp_path, capsys):
    assert command("run", "--matchers", "sift,loftr", "--weights", "none", "--level", "tar,hard") == 0
    table = rows(tmp_path / "tables" / "toy-000.tar.json")
    assert list(table) == ["RootSIFT", "identity"]
    assert table["RootSIFT"]["SR@1"] == 1
    assert table["identity"]["SR@3"] == 0
    assert table["identity"]["failure"] == 0
    text = (tmp_path / "tables" / "toy-000.tar.md").read_text()
    assert "| RootSIFT | 100.0 |" in text
    assert "loftr: not run: no weights" in text
    assert "3 pairs; rotation +-35 deg" in text
    assert text in capsys.readouterr().out
    assert rows(tmp_path / "tables" / "toy-000.hard.json").keys() == table.keys()


def test_score_repeats_the_numbers_without_matching(command, tmp_path, monkeypatch):
    assert command("run", "--matchers", "sift") == 0
    first = rows(tmp_path / "tables" / "toy-000.tar.json")
    monkeypatch.setattr(Identity, "match", None)
    assert command("score", "--set", "toy-000") == 0
    assert rows(tmp_path / "tables" / "toy-000.tar.json") == first


def test_a_partial_run_has_its_own_table_and_the_whole_one_goes_on_from_it(command, tmp_path):
    assert command("run", "--matchers", "sift", "--limit", "2") == 0
    assert json.loads((tmp_path / "tables" / "toy-000.tar.limit2.json").read_text())["pairs"] == 2
    assert command("run", "--matchers", "identity") == 0
    whole = json.loads((tmp_path / "tables" / "toy-000.tar.json").read_text())
    assert whole["not_run"] == {"RootSIFT": "1 of 3 pairs are not matched yet"}
    assert command("run", "--matchers", "sift") == 0
    assert rows(tmp_path / "tables" / "toy-000.tar.json")["RootSIFT"]["SR@1"] == 1


def test_other_warps_make_cached_matches_stale(command, tmp_path):
    assert command("run", "--matchers", "sift") == 0
    assert command("warps", "--seed", "1") == 0
    assert command("run", "--matchers", "identity") == 0
    table = json.loads((tmp_path / "tables" / "toy-000.tar.json").read_text())
    assert [row["matcher"] for row in table["rows"]] == ["identity"]
    assert table["not_run"] == {"RootSIFT": "its cached matches were made with other warps"}


def test_other_images_of_the_same_name_are_matched_again(command, tmp_path):
    assert command("run", "--matchers", "sift") == 0
    first = rows(tmp_path / "tables" / "toy-000.tar.json")["RootSIFT"]
    pairs = {f"fake__{k}": (np.stack([texture(k)] * 3, -1), texture(k + 10)) for k in range(3)}
    write_tar(tmp_path / "toy-000.tar", pairs)  # the same set, by name: the SAR images show other places
    assert command("run", "--matchers", "sift") == 0
    again = rows(tmp_path / "tables" / "toy-000.tar.json")["RootSIFT"]
    assert first["SR@1"] == 1 and again["SR@1"] == 0


def test_a_replaced_truth_is_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for part in ("optical", "sar"):
        Image.fromarray(texture(0)).save(folder / f"a.{part}.png")
    words = ["run", "--matchers", "sift", "--data", "pairs:mine", "--level", "real", "--out", "tables"]
    for shift, solved in ((0, 1), (40, 0), (0, 1)):
        (folder / "a.truth.txt").write_text(f"1 0 {shift} 0 1 0")
        assert cli.main(words) == 0
        assert rows(tmp_path / "tables" / "mine.real.json")["RootSIFT"]["SR@1"] == solved


class Stubborn(Identity):
    """Counts its calls and dies at one of them."""

    settings = "stubborn"

    def __init__(self, dies_at=0):
        self.calls, self.dies_at = 0, dies_at

    def match(self, image0, image1, **hints):
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        return super().match(image0, image1, **hints)


def test_an_interrupted_run_goes_on_where_it_stopped(tar, command, tmp_path):
    (dataset,) = open_dataset(tar)
    places = ("stubborn", tmp_path / "matches", dataset.names, tmp_path / "warps")
    with pytest.raises(KeyboardInterrupt):
        predict.predict(dataset, "tar", Stubborn(dies_at=4), *places)  # one call to warm up, two pairs, and death
    path = cache.cache_path(tmp_path / "matches", "toy-000", "tar", "stubborn")
    assert cache.read_names(path) == dataset.names[:2]
    again = Stubborn()
    predict.predict(dataset, "tar", again, *places)
    assert again.calls == 2  # one to warm up, one pair
    assert cache.read_names(path) == dataset.names
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_predictions_come_back_and_another_key_starts_anew(tmp_path):
    path = tmp_path / "a.h5"
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    matches = Matches(points, points + 1, np.ones(3, np.float32))
    prediction = cache.Prediction(matches, np.eye(3), (5, 7), "fill", 0.25, "asked")
    with cache.Cache(path, {"key": "one"}) as one:
        one.add("pair", prediction)
    (back,) = cache.read_predictions(path, ["pair"])
    assert np.array_equal(back.matches.points1, points + 1)
    assert (back.shape0, back.border, back.seconds) == ((5, 7), "fill", 0.25)
    assert cache.Cache(path, {"key": "one"}).holds("pair", "asked")
    assert not cache.Cache(path, {"key": "one"}).holds("pair", "another question")
    assert not cache.Cache(path, {"key": "two"}).holds("pair", "asked")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--matchers", "magic"], "matcher 'magic' is unknown"),
        (["run", "--matchers", "sift", "--level", "steep"], "level 'steep'"),
        (["run", "--matchers", "sift", "--level", "real"], "brings no truth"),
        (["run", "--matchers", "sift", "--data", "missing.tar"], "no data set here"),
        (["run", "--matchers", "tar", "--checkpoint", "missing.safetensors"], "no such file"),
        (["score", "--set", "toy-000"], "no matches cached"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(command, capsys, words, message):
    assert command(*words) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eval: ")]
    assert len(error) == 1
    assert message in error[0]


def test_a_foreign_file_in_the_cache_is_named(command, tmp_path, capsys):
    folder = tmp_path / "runs" / "eval"
    folder.mkdir(parents=True)
    with h5py.File(folder / "toy-000.tar.sift.h5", "w"):
        pass
    assert command("run", "--matchers", "sift") == 1
    assert "not a cache of matches" in capsys.readouterr().err


@pytest.mark.slow  # toys take the same path in test_run_writes_tables_with_an_identity_row
def test_real_pairs(shared, tmp_path, capsys):
    words = ["--data", str(shared / "data" / "val-000.tar"), "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]
    matchers = "identity,sift,xfeat"
    assert cli.main(["run", "--matchers", matchers, "--level", "tar,hard", "--limit", "3", *words]) == 0
    table = json.loads((tmp_path / "val-000.tar.limit3.json").read_text())
    assert table["pairs"] == 3
    assert table["ceiling"]["SR@1"] == 1
    capsys.readouterr()
    real = ["--level", "real", "--limit", "2", "--data", str(shared / "data" / "bench" / "srif-opt-opt"), *words[2:]]
    assert cli.main(["run", "--matchers", "sift", *real]) == 0
    table = rows(tmp_path / "srif-opt-opt.real.limit2.json")
    assert table["RootSIFT"]["NCM"] > table["identity"]["NCM"]


def test_rows_of_an_earlier_table_are_kept_when_asked_for(command, tmp_path):
    assert command("run", "--matchers", "sift") == 0
    for file in (tmp_path / "runs" / "eval").glob("*.sift.h5"):
        file.unlink()
    table = tmp_path / "tables" / "toy-000.tar.json"
    assert command("run", "--matchers", "phase", "--keep") == 0
    assert set(rows(table)) == {"RootSIFT", "phase correlation", "identity"}
    assert command("score", "--set", "toy-000") == 0
    assert set(rows(table)) == {"phase correlation", "identity"}
