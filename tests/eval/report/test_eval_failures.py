"""The worst pairs: which they are, and what their pictures show and do not show."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from toys import texture, write_tar

from eval.benchmark.cache import Cache, Prediction, cache_path
from eval.cli import main
from eval.datasets import open_dataset
from eval.peers import Matches
from eval.report import failures
from kornia_tar.geometry import transform_points

TRUTH = np.array([[0.9, -0.3, 40.0], [0.3, 0.9, -20.0], [0, 0, 1]])
GRID = np.stack(np.meshgrid(np.arange(8, 256, 16.0), np.arange(8, 256, 16.0)), -1).reshape(-1, 2)
OFF = {"fake__0": 0.0, "fake__1": 60.0, "fake__2": None}  # px by which each match is wrong; None: no matches


def said(off: float | None) -> Prediction:
    points0 = (GRID if off is not None else GRID[:0]).astype(np.float32)
    points1 = (transform_points(TRUTH, points0) + np.array([off or 0, 0])).astype(np.float32)
    confidence = np.linspace(0, 1, len(points0), dtype=np.float32)
    return Prediction(Matches(points0, points1, confidence), TRUTH, (256, 256), "fill", 0.1, "")


@pytest.fixture
def cached(tar, tmp_path):
    """The toy set and a folder with one matcher's matches of it."""
    folder = tmp_path / "cache"
    with Cache(cache_path(folder, "toy-000", "tar", "mine"), {"key": "a", "matcher": "Mine"}) as cache:
        for name, off in OFF.items():
            cache.add(name, said(off))
    return tar, folder


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def blue(path) -> int:
    """Number of pixels in the colour of the true outline."""
    return int((np.abs(read(path) - (0x0B, 0x6B, 0xB5)).max(axis=-1) < 12).sum())


def test_no_transform_comes_first_then_the_largest_error(cached):
    (dataset,) = open_dataset(cached[0])
    found = failures.worst(dataset, "tar", "mine", 3, cached[1])
    assert [failure.pair.name for failure in found.failures] == ["fake__2", "fake__1", "fake__0"]
    assert found.title == "The 3 worst of 3 pairs · Mine on toy-000, level tar"
    none, wrong, right = (failure.caption for failure in found.failures)
    assert none == "no transform · scale 0.95 · rotation 18° · 0 matches, 0.0 % right"
    assert wrong == "60 px off · scale 0.95 · rotation 18° · 256 matches, 0.0 % right"
    assert right.startswith("0.0 px off") and right.endswith("256 matches, 100.0 % right")


def test_a_drawing_holds_nothing_of_the_images(cached, tmp_path):
    other = {name: (np.stack([texture(7 + k)] * 3, -1), texture(9 + k)) for k, name in enumerate(OFF)}
    (tmp_path / "other").mkdir()
    pictures = []
    for data in (cached[0], write_tar(tmp_path / "other" / "toy-000.tar", other)):
        (dataset,) = open_dataset(data)
        found = failures.worst(dataset, "tar", "mine", 2, cached[1])
        pictures.append(read(failures.draw_outlines(found, tmp_path / "drawing.png")))
    assert np.array_equal(*pictures)
    assert pictures[0].shape[1] == 1200


def test_the_found_outline_covers_the_true_one_where_they_agree(cached, tmp_path):
    (dataset,) = open_dataset(cached[0])
    found = failures.worst(dataset, "tar", "mine", 3, cached[1])
    shown = {}
    for failure in found.failures:
        one = failures.Worst("toy-000", "tar", "Mine", 1, [failure])
        shown[failure.pair.name] = blue(failures.draw_outlines(one, tmp_path / "one.png"))
    assert shown["fake__2"] > shown["fake__0"] + 1000  # nothing found: the true outline alone
    assert shown["fake__1"] > shown["fake__0"] + 1000


def test_the_command_writes_one_of_the_two(cached, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["failures", "--data", str(cached[0]), "--level", "tar", "--matcher", "mine", "--cache", str(cached[1])]
    words += ["--count", "2", "--out", str(out)]
    assert main([*words, "--drawing"]) == 0
    assert [path.name for path in out.iterdir()] == ["failures-drawing.png"]
    assert "fake__2: no transform" in capsys.readouterr().out
    assert main(words) == 0
    picture = read(out / "failures.png")
    assert picture.shape[1] == 1200
    colours = np.abs(picture - picture.mean(axis=-1, keepdims=True)).max(axis=-1) > 40  # the toy images are grey
    assert colours[:440].sum() < colours[440:].sum()  # the second pair has a found outline beside the true one


def test_a_users_error_is_named(cached, tmp_path, capsys):
    words = ["failures", "--data", str(cached[0]), "--cache", str(cached[1]), "--out", str(tmp_path)]
    assert main([*words, "--matcher", "other"]) == 1
    assert "no matches cached of 'other'" in capsys.readouterr().err
    with Cache(cache_path(cached[1], "toy-000", "tar", "strange"), {"key": "a", "matcher": "Mine"}) as cache:
        cache.add("elsewhere", said(0.0))
    assert main([*words, "--matcher", "strange"]) == 1
    assert "'elsewhere'" in capsys.readouterr().err
