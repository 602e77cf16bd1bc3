"""Shards in, pairs out."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ERROR_SCALE, SIDE, encode, png_bomb, write_shard

from kornia_tar.raster import percentile_stretch
from kornia_tar.training.data import find_shards, label_held_out, read_optical, read_pairs


def test_pairs_are_read_in_order_and_stretched(shards, scene):
    pairs = read_pairs(find_shards(shards), SIDE, progress=False)
    assert len(pairs) == 6 and pairs.names[0] == "sen12__agriculture_s1_1" and pairs.names[-1] == "other__x"
    assert pairs.optical.shape == (6, 3, SIDE, SIDE) and pairs.sar.shape == (6, 1, SIDE, SIDE)
    assert pairs.optical.dtype == pairs.sar.dtype == torch.uint8
    optical, sar = scene
    np.testing.assert_array_equal(pairs.optical[1].permute(1, 2, 0), percentile_stretch(optical[40 : 40 + SIDE, :SIDE]))
    radar = percentile_stretch(sar[:SIDE, :SIDE]).astype(float)
    np.testing.assert_allclose(pairs.sar[0, 0].float(), radar, atol=4)  # YUV
    after = pairs.weights[pairs.names.index("ombria__7_after")]
    assert after < pairs.weights[pairs.names.index("ombria__7_before")] == 1


def test_limit(shards):
    assert read_pairs(find_shards(shards), SIDE, limit=3, progress=False).names[-1] == "ombria__7_after"
    assert len(read_pairs(find_shards(shards), SIDE, limit=5, progress=False)) == 5
    assert len(read_pairs(find_shards(shards), SIDE, limit=99, progress=False)) == 6


def test_optical_images_alone_join_the_pairs(shards, scene):
    image = scene[0][:300, :320]
    write_shard(shards / "optical_only-000.tar", {"rs__1.optical.webp": encode(image), "rs__1.json": b"{}"})
    pairs = read_pairs(find_shards(shards), SIDE, progress=False)
    both = pairs + read_optical(find_shards(shards, "optical_only-*.tar"), SIDE, progress=False)
    assert both.names == (*pairs.names, "rs__1", "rs__1") and both.optical.shape == (8, 3, SIDE, SIDE)
    assert both.has_sar.tolist() == [True] * 6 + [False] * 2 and 0 < both.weights[-1] < 1
    assert both.optical[-1].float().std() > 10 and both.scene[-1] == -1
    with pytest.raises(ValueError, match=r"rs__1.*300"):
        read_optical(find_shards(shards, "optical_only-*.tar"), 320, progress=False)


def test_scenes_are_named_by_the_bank(shards):
    pairs = read_pairs(find_shards(shards), SIDE, progress=False)
    assert (pairs.scene == -1).all()
    named = pairs.with_scenes(["river", "desert", "farmland"])
    assert named.scene.tolist() == [2, -1, -1, -1, 0, -1]
    assert named.names == pairs.names


def test_a_third_of_rsscn7_stays_unnamed(shards):
    one = read_pairs(find_shards(shards), SIDE, progress=False, limit=1)
    pairs = one
    for _ in range(3):
        pairs = pairs + one
    names = ("rsscn7__eForest_e002", "rsscn7__eForest_e003", "rsscn7__eForest_e303", "rsscn7__gParking_g100")
    assert replace(pairs, names=names).with_scenes(["parking", "forest"]).scene.tolist() == [1, -1, -1, -1]


def test_optical_images_are_read_whole_and_at_their_own_resolution(tmp_path, scene):
    image = scene[0][:200, :220]
    write_shard(tmp_path / "optical_only-000.tar", {"a__1.optical.webp": encode(image)})
    pairs = read_optical(find_shards(tmp_path, "optical_only-*.tar"), 100, progress=False)
    top, left = 50, 60
    native = percentile_stretch(image)[top : top + 100, left : left + 100]
    assert np.abs(pairs.optical[1].permute(1, 2, 0).float().numpy() - native).mean() < 6  # WebP
    whole = percentile_stretch(image)[:, 10:210].reshape(100, 2, 100, 2, 3).mean((1, 3))
    assert np.abs(pairs.optical[0].permute(1, 2, 0).float().numpy() - whole).mean() < 6
    assert len(read_optical(find_shards(tmp_path, "optical_only-*.tar"), 190, progress=False)) == 1


def test_drawn_views_show_the_image_at_no_finer_resolution_and_can_be_drawn_again(tmp_path):
    ramp = np.tile(np.arange(240, dtype=np.uint8), (200, 1))  # one grey level a pixel
    image = encode(np.dstack([ramp] * 3))
    members = {f"{name}.optical.webp": image for name in ("whurs19__port_3", "whurs19__port_8", "x__1")}
    shard = write_shard(tmp_path / "optical_only-000.tar", members)
    one, two, other = (read_optical([shard], SIDE, progress=False, views=6, seed=seed) for seed in (0, 0, 1))
    assert one.names == ("whurs19__port_3",) * 6 + ("x__1",) * 6  # the other's class is held out
    assert one.optical.shape == (12, 3, SIDE, SIDE)
    assert torch.equal(one.optical, two.optical) and not torch.equal(one.optical, other.optical)
    views = one.optical[:, 0].float()
    slopes = [(view[:, -9] - view[:, 8]).mean() / (SIDE - 17) for view in views]
    slopes += [(view[-9] - view[8]).mean() / (SIDE - 17) for view in views]
    along = sorted(abs(float(slope)) for slope in slopes)
    assert max(along[:12]) < 0.05 and min(along[12:]) > 0.95 and along[-1] > 1.1  # shrunk, never enlarged
    ways = {(k < 12, float(slope) > 0) for k, slope in enumerate(slopes) if abs(slope) > 0.5}
    assert len(ways) == 4  # turned and mirrored
    assert len(read_optical([shard], SIDE, progress=False, views=6, limit=1)) == 6


def test_class_names_come_from_the_json(tmp_path):
    members: dict[str, bytes] = {}
    airport, port = b'{"class": "airport"}', b'{"class": "port"}'
    names = "whurs19__airport_31", "whurs19__airport_32", "whurs19__port_2", "other__1", "other__2"
    for name, told in zip(names, (airport, airport, port, b'{"class": 3}', b"[]"), strict=True):
        members |= {f"{name}.optical.webp": image(), f"{name}.json": told}
    shard = write_shard(tmp_path / "optical_only-101.tar", members)
    pairs = read_optical([shard], SIDE, progress=False)
    assert pairs.classes == ("airport", "airport", "port", "", "")
    named = pairs.with_scenes(["port", "airport"])
    assert named.scene.tolist() == [1, -1, 0, -1, -1]  # 32 is held out
    both = replace(pairs, classes=()) + pairs
    assert both.classes == ("",) * 5 + pairs.classes and both.to(torch.device("cpu")).classes == both.classes
    broken = write_shard(tmp_path / "broken.tar", {"a.optical.webp": image(), "a.json": b"{"})
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        read_optical([broken], SIDE, progress=False)


def test_a_quarter_of_whurs19_stays_unnamed():
    assert [number for number in range(1, 18) if label_held_out(f"whurs19__railwaystation_{number}")] == [
        1,
        8,
        9,
        16,
        17,
    ]
    assert not label_held_out("whurs19__port_x8") and not label_held_out("sen12__forest_s1_8")


@pytest.mark.skipif(
    not (ERROR_SCALE / "data" / "optical_only-101.tar").is_file(), reason="no WHU-RS19 in ../shared/data"
)
def test_every_class_of_whurs19_keeps_some_held_out():
    with tarfile.open(ERROR_SCALE / "data" / "optical_only-101.tar") as tar:
        names = [member.name.partition(".")[0] for member in tar.getmembers() if member.name.endswith(".json")]
    held = {}
    for name in names:
        held.setdefault(name.rpartition("_")[0], []).append(label_held_out(name))
    assert len(held) == 19 and 0.23 < np.mean([np.mean(flags) for flags in held.values()]) < 0.27
    assert all(7 <= sum(flags) <= 13 for flags in held.values())


def test_no_shards(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-\*\.tar.*--data"):
        find_shards(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        find_shards(tmp_path / "absent")


def image(seed: int = 0, side: int = SIDE) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.optical.webp": image(), "a.sar.webp": b"no image"}, r"a\.sar\.webp is not a readable image"),
        ({"a.optical.webp": image()[:200], "a.sar.webp": image()}, r"a\.optical\.webp is not a readable image"),
        ({"a.optical.webp": image(), "a.sar.webp": b""}, r"a\.sar\.webp is not a readable image"),
        ({"a.optical.webp": image(), "a.sar.webp": png_bomb()}, r"a\.sar\.webp is not a readable image"),
        ({"a.optical.webp": image(side=64), "a.sar.webp": image()}, r"a\.optical\.webp is 64×64, need 96×96"),
        ({"a.optical.webp": image(), "b.sar.webp": image(), "b.optical.webp": image()}, "a has no partner"),
        ({"a.json": b"{}"}, "no pair"),
        ({}, "no pair"),
    ],
)
def test_broken_shards_are_named(tmp_path, members, words):
    shard = write_shard(tmp_path / "train-000.tar", members)
    with pytest.raises(ValueError, match=words) as caught:
        read_pairs([shard], SIDE, progress=False)
    assert "\n" not in str(caught.value)
    if "pair" not in words:
        assert "train-000.tar" in str(caught.value)


@pytest.mark.parametrize("content", [b"this is no tar " * 100, b"", None], ids=["text", "empty", "truncated"])
def test_file_that_is_no_tar_is_named(tmp_path, content):
    shard = tmp_path / "train-000.tar"
    if content is None:
        write_shard(shard, {"a.optical.webp": image(), "a.sar.webp": image()})
        content = shard.read_bytes()[:4000]
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-000\.tar"):
        read_pairs([shard], SIDE, progress=False)


def test_members_that_are_links_or_folders_are_named_or_ignored(tmp_path):
    shard = tmp_path / "train-000.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("a.optical.webp", "a.sar.webp"):
            info = tarfile.TarInfo(name)
            info.size = len(image())
            tar.addfile(info, io.BytesIO(image()))
        folder = tarfile.TarInfo("b.optical.webp")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    try:
        assert len(read_pairs([shard], SIDE, progress=False)) == 1
    except ValueError as error:
        assert "b.optical.webp" in str(error) or "b has no partner" in str(error)


@pytest.mark.parametrize("prefix", ["./", "folder/", "./deep/folder.v1/"])
def test_members_in_folders_are_found(tmp_path, prefix):
    shard = write_shard(tmp_path / "train-000.tar", {f"{prefix}a.{kind}.webp": image() for kind in ("optical", "sar")})
    assert len(read_pairs([shard], SIDE, progress=False)) == 1
