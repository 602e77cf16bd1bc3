"""hloc's files, by our writer."""

from __future__ import annotations

import importlib

import h5py
import numpy as np
import pytest

from hloc_plugin.formats import (
    check_kept,
    check_others,
    names_to_pair,
    read_keypoints,
    read_matches,
    read_pairs,
    write_features,
    write_matches,
)
from hloc_plugin.registry import plain_pairs
from kornia_tar.geometry import PointMatches

PAIR = ("day/a.png", "b.png")


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    points = {name: rng.uniform(0, 90, (6, 2)).astype(np.float32) for name in PAIR}
    write_features(tmp_path / "f.h5", {n: (p, np.ones(6, np.float32)) for n, p in points.items()})
    indices = np.array([[4, 0], [1, 5]])
    dense = PointMatches(*(points[n][indices[:, k]] for k, n in enumerate(PAIR)), np.array([0.9, 0.5], np.float32))
    none = PointMatches(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    empty = (none, np.zeros((0, 2), int), np.zeros(0, np.float32))
    write_matches(tmp_path / "m.h5", {PAIR: (dense, indices, dense.confidence), ("b.png", "c.png"): empty})
    return tmp_path / "f.h5", tmp_path / "m.h5", points, indices


def test_layout_is_hlocs(files):
    features, matches, _, _ = files
    with h5py.File(features) as file:
        group = file["day/a.png"]
        assert {k: (v.shape, v.dtype) for k, v in group.items()} == {
            "keypoints": ((6, 2), np.float32), "score": ((6,), np.float32)
        }  # fmt: skip
    with h5py.File(matches) as file:
        assert names_to_pair(*PAIR) == "day-a.png/b.png"
        group = file["day-a.png/b.png"]
        assert {k: (v.shape, v.dtype) for k, v in group.items()} == {
            "keypoints0": ((2, 2), np.float32), "keypoints1": ((2, 2), np.float32), "scores": ((2,), np.float32),
            "matches0": ((5,), np.int32), "matching_scores0": ((5,), np.float16),
        }  # fmt: skip
        np.testing.assert_array_equal(group["matches0"], [-1, 5, -1, -1, 0])


def test_round_trip_in_both_orders(files):
    features, matches, points, indices = files
    read = read_keypoints(features, PAIR)
    assert all(np.array_equal(read[name], points[name]) for name in PAIR)
    ordered = indices[np.argsort(indices[:, 0])]
    np.testing.assert_array_equal(read_matches(matches, [PAIR])[PAIR], ordered)
    np.testing.assert_array_equal(read_matches(matches, [PAIR[::-1]])[PAIR[::-1]], ordered[:, ::-1])
    assert read_matches(matches, [("b.png", "c.png")])["b.png", "c.png"].shape == (0, 2)


def test_hloc_reads_them_unchanged(real_hloc, files):
    io = importlib.import_module("hloc.utils.io")
    features, matches, points, _ = files
    assert set(io.list_h5_names(features)) == set(PAIR)
    for pair in (PAIR, PAIR[::-1], ("b.png", "c.png")):
        theirs, scores = io.get_matches(matches, *pair)
        np.testing.assert_array_equal(theirs.reshape(-1, 2), read_matches(matches, [pair])[pair])
        assert len(scores) == len(theirs)
    np.testing.assert_array_equal(io.get_keypoints(features, PAIR[0]), points[PAIR[0]])


def test_pairs_once_and_in_order(tmp_path):
    (tmp_path / "pairs.txt").write_text("a b\n\n# left out\nb a\nc a\na b\n")
    assert read_pairs(tmp_path / "pairs.txt") == [("a", "b"), ("c", "a")]


def test_pairs_saved_with_a_byte_order_mark(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"\xef\xbb\xbfa/1.png b/1.png\r\n")
    assert read_pairs(tmp_path / "pairs.txt") == [("a/1.png", "b/1.png")]


@pytest.mark.parametrize(("text", "message"), [("a b c\n", "line 1"), ("a a\n", "line 1"), ("\n", "names no pair")])
def test_bad_pairs_are_named(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "pairs.txt")


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u3000"])
def test_a_name_with_a_blank_is_refused_with_the_remedy(tmp_path, blank):
    (tmp_path / "pairs.txt").write_text(f"a.png b.png\nscene{blank}1.png b.png\n", "utf-8")
    with pytest.raises(ValueError, match=r"line 2: need two image names, .*tar-hloc prepare"):
        read_pairs(tmp_path / "pairs.txt")


def test_images_that_are_named_must_be_there(tmp_path):
    (tmp_path / "pairs.txt").write_text("a.png b.png\n")
    (tmp_path / "a.png").touch()
    with pytest.raises(FileNotFoundError, match=r"b\.png: no such image, but .*pairs\.txt names it"):
        read_pairs(tmp_path / "pairs.txt", tmp_path)


def test_hloc_reads_the_pairs_that_we_read(real_hloc, tmp_path):
    parse = importlib.import_module("hloc.utils.parsers").parse_retrieval
    (tmp_path / "pairs.txt").write_bytes(
        b"\xef\xbb\xbf# left out\na/1.png b/1.png\r\n\nb/1.png a/1.png\na/1.png c.png\n"
    )
    with plain_pairs(tmp_path / "pairs.txt") as plain:
        assert plain.name == "pairs.txt"
        assert [(a, b) for a, others in parse(plain).items() for b in others] == read_pairs(tmp_path / "pairs.txt")
    assert not plain.exists()
    (tmp_path / "blank.txt").write_text("a b.png c.png\n")
    with pytest.raises(ValueError, match="too many values"):  # why a blank is refused
        parse(tmp_path / "blank.txt")


def test_pairs_whose_keypoints_hloc_would_keep_are_refused(files, tmp_path):
    features, matches, _, _ = files
    check_kept([PAIR], features, matches)  # is there already
    check_kept([PAIR[::-1], ("x.png", "y.png")], features, matches)
    check_kept([PAIR, ("b.png", "x.png")], tmp_path / "none.h5", tmp_path / "none.h5")
    with pytest.raises(ValueError, match=r"holds keypoints of b\.png.*x\.png and b\.png would be lost.*overwrite=True"):
        check_kept([PAIR, ("x.png", "b.png")], features, matches)
    with h5py.File(matches, "a") as file:
        del file[names_to_pair(*PAIR)]["matches0"]
    with pytest.raises(ValueError, match=r"interrupted run left day/a\.png and b\.png half matched.*overwrite=True"):
        check_kept([PAIR], features, matches)


def test_keypoints_that_other_matches_count_are_not_replaced(files, tmp_path):
    _, matches, _, _ = files
    named = matches.rename(tmp_path / "matches-x_one.h5")  # holds PAIR, and b.png with c.png
    for whole in (False, True):
        check_others("matches-x", [PAIR[::-1], ("c.png", "b.png")], named, whole=whole)
        check_others("matches-x", [("e.png", "f.png")], named, whole=whole)
        check_others("matches", [PAIR], tmp_path / "matches_one.h5", whole=whole)  # another conf's
        with pytest.raises(ValueError, match=r"matches-x_one\.h5: its matches of b\.png and c\.png.*one file"):
            check_others("matches-x", [("c.png", "f.png")], tmp_path / "matches-x_two.h5", whole=whole)
    check_others("matches-x", [PAIR], named, whole=True)
    with pytest.raises(ValueError, match=r"its matches of b\.png and c\.png"):
        check_others("matches-x", [PAIR], named, whole=False)


def test_missing_and_foreign_files_are_named(files, tmp_path):
    features, matches, _, _ = files
    with pytest.raises(FileNotFoundError, match="no such file of features"):
        read_keypoints(tmp_path / "none.h5", PAIR)
    with pytest.raises(ValueError, match=r"no keypoints of c\.png"):
        read_keypoints(features, ["c.png"])
    with pytest.raises(ValueError, match=r"no matches of a\.png and c\.png"):
        read_matches(matches, [("a.png", "c.png")])
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="is not a file of matches"):
        read_matches(tmp_path / "text.h5", [PAIR])


def test_an_image_without_matches_is_read_as_hloc_writes_it(tmp_path):
    """hloc's keypoints of it are an array of no dimension but its length, 0."""
    with h5py.File(tmp_path / "f.h5", "w", libver="latest") as file:
        file["day/a.png/keypoints"] = np.zeros(0, np.float32)
        file["b.png/keypoints"] = np.ones((3, 2), np.float16)
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file["day-a.png/b.png/matches0"] = np.zeros(0, np.int64)
    read = read_keypoints(tmp_path / "f.h5", PAIR)
    assert read["day/a.png"].shape == (0, 2) and read["b.png"].shape == (3, 2)
    assert read_matches(tmp_path / "m.h5", [PAIR])[PAIR].shape == (0, 2)


def test_a_damaged_file_is_told_in_one_line_that_names_it(tmp_path):
    """h5py has a kind of error for each way in which a file may be wrong, and promises more memory than there is."""
    path = tmp_path / "f.h5"
    for keypoints in (
        np.float32(3),
        np.zeros((2, 2), "S4"),
        np.full((2, 2), np.nan, np.float32),
        np.zeros((3, 1), int),
    ):
        with h5py.File(path, "w") as file:
            file["a.png/keypoints"] = keypoints
        with pytest.raises(ValueError, match=r"f\.h5: "):
            read_keypoints(path, ["a.png"])
    with h5py.File(path, "w") as file:
        file.create_dataset("a.png/keypoints", (2**40, 2), np.float32, chunks=(1024, 2))
    with pytest.raises(ValueError, match=r"f\.h5: is not a file of features .* bytes, more than"):
        read_keypoints(path, ["a.png"])
    for matches0 in (np.zeros((3, 2), int), np.full(4, np.nan), np.float32(1)):
        with h5py.File(path, "w") as file:
            file["a.png/b.png/matches0"] = matches0
        with pytest.raises(ValueError, match=r"f\.h5: "):
            read_matches(path, [("a.png", "b.png")])
    with h5py.File(path, "w") as file:
        file["a.png"] = 1
    with pytest.raises(ValueError, match=r"f\.h5: is not a file of features"):
        check_kept([("a.png", "b.png")], path, tmp_path / "none.h5")
    (tmp_path / "pairs.txt").write_bytes(b"a.png \xff\xfe.png\n")
    with pytest.raises(ValueError, match=r"pairs\.txt: is no text in UTF-8"):
        read_pairs(tmp_path / "pairs.txt")
