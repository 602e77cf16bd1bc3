"""Dense matching into hloc's files, by our own code and by hloc's."""

from __future__ import annotations

import importlib
import os
import shutil
from copy import deepcopy

import numpy as np
import pytest
from helpers import untrained_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hloc_plugin
from hloc_plugin import registry
from hloc_plugin.dense import join_keypoints, load_image, match_dense
from hloc_plugin.formats import read_keypoints, read_matches, read_pairs
from kornia_tar.geometry import PointMatches
from kornia_tar.raster import read_image, write_image

NAMES = ("a.png", "sub/b.png", "c.png")


def check_files(features, matches, pairs):
    """Every pair has one-to-one matches between keypoints that lie on their images."""
    names = read_pairs(pairs)
    keypoints, found = read_keypoints(features, NAMES), read_matches(matches, names)
    for pair in names:
        indices = found[pair]
        assert len(indices) > 0
        for k in (0, 1):
            assert len(np.unique(indices[:, k])) == len(indices) and indices[:, k].max() < len(keypoints[pair[k]])
    for points in keypoints.values():
        assert ((points >= -0.5) & (points <= (127.5, 95.5))).all()


def test_own_writer_end_to_end(views, conf, tmp_path):
    told = []
    features, matches = match_dense(conf, views / "pairs.txt", views / "images", tmp_path, progress=told.append)
    assert (features.name, matches.name) == ("feats_matches-small.h5", "matches-small_pairs.h5")
    assert len(told) == 3 and told[0].startswith("[1/3] a.png sub/b.png: ")
    check_files(features, matches, views / "pairs.txt")


def test_an_interrupted_run_goes_on(views, conf, tmp_path):
    images, told = tmp_path / "images", []
    shutil.copytree(views / "images", images)

    def run(chosen=conf, stop=0):
        def progress(line):
            told.append(line)
            if len(told) == stop:
                raise KeyboardInterrupt

        told.clear()
        return match_dense(chosen, views / "pairs.txt", images, tmp_path / "out", progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(stop=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["matches-small_pairs.partial"]
    os.utime(images / "a.png", ns=(1, 1))  # another image, for all that we know
    other = deepcopy(conf)
    other["model"]["match_threshold"] = 0.001
    with pytest.raises(KeyboardInterrupt):
        run(stop=1)
    assert told[0].endswith(" s"), "of the image as it was"
    with pytest.raises(KeyboardInterrupt):
        run(other, stop=1)
    assert told[0].endswith(" s"), "of other settings"
    features, matches = run()
    assert [line.endswith("of an interrupted run") for line in told] == [True, False, False]
    assert not list((tmp_path / "out").glob("*.partial"))
    whole = match_dense(conf, views / "pairs.txt", images, tmp_path / "whole")
    for ours, theirs in zip((features, matches), whole, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_part_that_the_disk_lost_is_matched_again(views, conf, tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        match_dense(conf, views / "pairs.txt", views / "images", tmp_path, progress=stop)
    for content in (b"", b"PK", b"text"):
        (part,) = (tmp_path / "matches-small_pairs.partial").iterdir()
        part.write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            match_dense(conf, views / "pairs.txt", views / "images", tmp_path, progress=stop)
        assert part.stat().st_size > 1000


def test_hlocs_own_main_end_to_end(real_hloc, views, conf, tmp_path):
    hloc_plugin.register()
    main = importlib.import_module("hloc.match_dense").main
    features, matches = main(deepcopy(conf), views / "pairs.txt", views / "images", tmp_path)
    check_files(features, matches, views / "pairs.txt")
    ours, _ = match_dense(conf, views / "pairs.txt", views / "images", tmp_path / "own")
    theirs, mine = (read_keypoints(path, NAMES) for path in (features, ours))
    for name in NAMES:  # both keep the points as they are, only their cells begin elsewhere
        assert abs(len(theirs[name]) - len(mine[name])) <= 0.1 * len(mine[name])
        distance = np.linalg.norm(theirs[name][:, None] - mine[name], axis=-1).min(1)
        assert np.mean(distance < 0.1) > 0.85


def test_a_second_run_of_hloc_that_would_lose_matches_is_refused(real_hloc, views, conf, tmp_path):
    lists = {"one": "a.png sub/b.png", "two": "c.png a.png", "both": "a.png sub/b.png\nc.png a.png"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(f"# a comment\n{text}\n")

    def run(name, out, **options):
        return registry.match_dense(conf, tmp_path / f"{name}.txt", views / "images", out, **options)

    def count(path, *pair):
        return len(read_matches(path, [pair])[pair])

    out = tmp_path / "made" / "for it"
    _, matches = run("both", out)
    together = count(matches, "c.png", "a.png")
    _, first = run("one", tmp_path / "out")
    run("one", tmp_path / "out")  # nothing new
    with pytest.raises(ValueError, match=r"holds keypoints of a\.png.*overwrite=True"):
        run("two", tmp_path / "out")
    with pytest.raises(ValueError, match=r"one\.h5: its matches of a\.png and sub-b\.png"):
        run("two", tmp_path / "out", overwrite=True)
    first.rename(tmp_path / "out" / "matches-small_both.h5")
    with pytest.raises(ValueError, match=r"holds keypoints of a\.png"):
        run("both", tmp_path / "out")
    _, matches = run("both", tmp_path / "out", overwrite=True)
    assert count(matches, "c.png", "a.png") == together
    # What is refused: hloc itself says nothing, and loses many.
    hloc_main = importlib.import_module("hloc.match_dense").main
    (tmp_path / "bare").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(lists[name])
        _, bare = hloc_main(deepcopy(conf), tmp_path / f"{name}.txt", views / "images", tmp_path / "bare")
    assert count(bare, "c.png", "a.png") < 0.8 * together


def test_hloc_flips_pairs_that_have_features(real_hloc, views, conf, tmp_path):
    hloc_plugin.register()
    main = importlib.import_module("hloc.match_dense").main
    (tmp_path / "one.txt").write_text("a.png c.png\n")
    (tmp_path / "two.txt").write_text("sub/b.png a.png\n")
    features, _ = main(deepcopy(conf), tmp_path / "one.txt", views / "images", tmp_path)
    more, matches = main(
        deepcopy(conf), tmp_path / "two.txt", views / "images", tmp_path, features="more_", features_ref=features,
        max_kps=None,
    )  # fmt: skip
    assert len(read_keypoints(more, ["sub/b.png"])["sub/b.png"]) > 0
    assert len(read_matches(matches, [("sub/b.png", "a.png")])["sub/b.png", "a.png"]) > 0


def test_repeatable_keypoints_join_into_tracks(views, conf, tmp_path):
    def shared(repeatable: bool) -> int:
        chosen = deepcopy(conf)
        chosen["model"]["repeatable"] = repeatable
        _, path = match_dense(chosen, views / "pairs.txt", views / "images", tmp_path, overwrite=True)
        found = read_matches(path, [("a.png", "sub/b.png"), ("a.png", "c.png")])
        return len(set.intersection(*({int(i) for i in indices[:, 0]} for indices in found.values())))

    assert shared(True) > 1.5 * shared(False)


def test_pixels_are_counted_as_they_are_stored(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image, _, _ = load_image(tmp_path / "turned.png", None)
    np.testing.assert_allclose(image, pixels / np.float32(255))
    assert read_image(tmp_path / "turned.png").size == (96, 64)


def test_scaled_images_give_pixels_of_the_file(tmp_path):
    write_image(tmp_path / "wide.png", np.zeros((100, 200), np.uint8))
    image, mask, scale = load_image(tmp_path / "wide.png", 128)
    assert image.shape == mask.shape == (64, 128)
    np.testing.assert_allclose(scale, [200 / 128, 100 / 64])
    corner = (np.array([127.5, 63.5]) + 0.5) * scale - 0.5
    np.testing.assert_allclose(corner, [199.5, 99.5])


def test_missing_image_is_named_before_anything_is_matched(views, conf, tmp_path):
    (tmp_path / "pairs.txt").write_text("a.png nowhere.png\n")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such image"):
        match_dense(conf, tmp_path / "pairs.txt", views / "images", tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(0.5, 0.5), (2, 8), (0, 1), (1, 0)]), st.sampled_from([None, 7]))
def test_joined_keypoints_are_near_and_one_to_one(seed, sizes, max_kps):
    rng = np.random.default_rng(seed)
    pairs = [("a", "b"), ("c", "a"), ("b", "c")]
    dense = {
        pair: PointMatches(*(rng.uniform(0, 12, (n, 2)).astype(np.float32) for _ in pair), rng.random(n, np.float32))
        for pair, n in zip(pairs, rng.integers(0, 40, 3), strict=True)
    }
    features, matches = join_keypoints(dense, *sizes, max_kps)
    for pair, (found, indices, scores) in matches.items():
        assert found is dense[pair] and indices.shape == (len(scores), 2) and (indices >= 0).all()
        for k, name in enumerate(pair):
            keypoints, total = features[name]
            assert len(keypoints) == len(total) <= (max_kps or len(keypoints))
            assert len(np.unique(indices[:, k])) == len(indices)
            points = (found.points0, found.points1)[k]
            near = np.linalg.norm(points[None] - keypoints[indices[:, k]][:, None], axis=-1).min(1, initial=np.inf)
            assert (near <= sizes[0] + 1e-6).all()


def test_weights_and_a_bank_are_inputs_and_a_folder_in_the_way_keeps_what_is_not_ours(tmp_path, monkeypatch):
    """The bank lies where the matches would go; then the unfinished run's folder holds somebody's notes."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(image).save(tmp_path / name)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a.png b.png\n")
    conf = {**hloc_plugin.confs["tar_aachen"], "model": {"weights": str(untrained_weights(tmp_path)), "looks": None}}
    bank = tmp_path / f"{conf['output']}_pairs.h5"
    bank.write_bytes(b"a bank")
    with_bank = {**conf, "model": {**conf["model"], "text": str(bank)}}
    with pytest.raises(ValueError, match="would replace the input"):
        match_dense(with_bank, pairs, tmp_path, tmp_path, overwrite=True)
    assert bank.read_bytes() == b"a bank"
    partial = tmp_path / "out" / f"{conf['output']}_pairs.partial"
    partial.mkdir(parents=True)
    (partial / "notes.txt").write_text("mine")
    match_dense(conf, pairs, tmp_path, tmp_path / "out")
    assert [path.name for path in partial.iterdir()] == ["notes.txt"]
