"""``tar-hloc`` as a user runs it."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
from helpers import demo_middle, needs_weights

from hloc_plugin import cli
from hloc_plugin.formats import write_features, write_matches
from kornia_tar import AcceptanceConfig, Registrar, TARMatcher
from kornia_tar.files import output_folder
from kornia_tar.geometry import PointMatches, corner_error, transform_points, warp_image
from kornia_tar.raster import read_image, to_grey, write_image
from kornia_tar.raster.synthetic import draw_scene

TRUTH = np.array([[0.95, -0.2, 20.0], [0.2, 0.95, -10.0], [0, 0, 1]])


@pytest.fixture
def matched(tmp_path):
    """Two images with true matches, the first of them also with wrong ones to a third."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    scene = draw_scene(seed=1, size=160)
    write_image(images / "optical.png", scene.optical)
    for name in ("sar.png", "other.png"):
        write_image(images / name, warp_image(scene.sar, np.linalg.inv(TRUTH), (160, 160)))
    points = rng.uniform(0, 159, (200, 2))
    write_features(
        tmp_path / "f.h5",
        {
            "optical.png": (points, np.ones(200)),
            "sar.png": (transform_points(TRUTH, points) + rng.normal(0, 0.5, points.shape), np.ones(200)),
            "other.png": (rng.uniform(0, 159, points.shape), np.ones(200)),
        },
    )
    every, ones = np.repeat(np.arange(200)[:, None], 2, axis=1), np.ones(200, np.float32)
    dense = PointMatches(points, points, ones)
    pairs = [("optical.png", "sar.png"), ("optical.png", "other.png")]
    write_matches(tmp_path / "m.h5", {pair: (dense, every, ones) for pair in pairs})
    for name, chosen in (("both", pairs), ("wrong", pairs[1:])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{a} {b}\n" for a, b in chosen))
    return tmp_path


def verify(folder, pairs: str, *more: str) -> int:
    return cli.main([
        "verify", "--pairs", str(folder / f"{pairs}.txt"), "--images", str(folder / "images"),
        "--features", str(folder / "f.h5"), "--matches", str(folder / "m.h5"), "-o", str(folder / "out"), *more,
    ])  # fmt: skip


def test_verify_tells_true_from_wrong(matched, capsys):
    pytest.importorskip("pycolmap")
    assert verify(matched, "both", "--min-probability", "0") == 0
    out, err = capsys.readouterr()
    assert "1 of 2 pairs accepted" in out and "[2/2] optical.png other.png" in err
    report = json.loads((matched / "out/verification.json").read_text())
    true, wrong = report["pairs"]
    assert true["accepted"] and not wrong["accepted"] and wrong["reasons"]
    assert true["inliers"] > 180 and corner_error(true["homography"], TRUTH, (160, 160)) < 0.5
    assert cv2.imread(str(matched / "out/inliers/optical.png__sar.png.png")).shape[0] > 480
    assert (matched / "out/database.db").is_file()
    assert report["judged_by"] is None and report["accepted_when"]["min_inliers"] == 50


def test_verify_that_accepts_nothing_ends_with_2(matched):
    pytest.importorskip("pycolmap")
    assert verify(matched, "wrong", "--no-pictures") == cli.NOTHING_FOUND
    assert not (matched / "out/inliers").exists()


@needs_weights
def test_verify_asks_the_images_too(tmp_path, capsys):
    """Matches that agree with each other on a wrong place are refused; counts alone would accept them."""
    pytest.importorskip("pycolmap")
    optical, sar, truth = demo_middle()
    images = output_folder(tmp_path / "images")
    for name, image in (("optical.png", optical), ("sar.png", sar), ("again.png", sar)):
        write_image(images / name, image)
    rng, every = np.random.default_rng(0), np.repeat(np.arange(200)[:, None], 2, axis=1)
    points, wrong = rng.uniform(40, 215, (200, 2)), truth @ np.array([[1.0, 0, 60], [0, 1, 45], [0, 0, 1]])
    found = {
        "optical.png": points,
        "sar.png": transform_points(truth, points),
        "again.png": transform_points(wrong, points),
    }
    write_features(tmp_path / "f.h5", {name: (p, np.ones(200)) for name, p in found.items()})
    pairs = [("optical.png", "sar.png"), ("optical.png", "again.png")]
    dense, ones = PointMatches(points, points, np.ones(200, np.float32)), np.ones(200, np.float32)
    write_matches(tmp_path / "m.h5", {pair: (dense, every, ones) for pair in pairs})
    (tmp_path / "both.txt").write_text("".join(f"{a} {b}\n" for a, b in pairs))
    assert verify(tmp_path, "both", "--no-pictures") == 0
    right, moved = json.loads((tmp_path / "out/verification.json").read_text())["pairs"]
    assert right["accepted"] and right["probability"] > 0.9
    assert not moved["accepted"] and moved["inliers"] == 200, "counts alone would accept it"
    assert "px away" in " ".join(moved["reasons"]) or "probability" in " ".join(moved["reasons"])


@pytest.mark.parametrize(
    ("modality", "kinds"),
    [("cross", [("optical", "sar"), ("sar", "optical")]), ("sar", [("sar", "sar")]), ("auto", [(None, None)])],
)
def test_verify_is_shown_what_matched(matched, weights, modality, kinds):
    """The same weights, the modality that was told, and neither image's fill, whose pixels lie on each other."""
    pytest.importorskip("pycolmap")
    greys = {}
    for name in ("optical.png", "sar.png"):
        grey = np.maximum(to_grey(read_image(matched / "images" / name).pixels), 1)
        grey[:48, :60] = 0
        write_image(matched / "images" / name, grey)
        greys[name] = grey
    (matched / "true.txt").write_text("optical.png sar.png\n")
    verify(matched, "true", "--weights", str(weights), "--modality", modality, "--nodata", "0", "--no-pictures")
    whole = json.loads((matched / "out/verification.json").read_text())
    (report,), judge = whole["pairs"], whole["judged_by"]
    assert judge["weights"] == weights.name
    assert judge["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert judge["modality"] == (None if modality == "auto" else modality) and judge["nodata"] == 0
    assert judge["min_probability"] == AcceptanceConfig.min_probability
    assert judge["text"] == "none" and judge["kornia_tar"]
    registrar, images = Registrar(TARMatcher(weights)), list(greys.values())
    masks = [grey > 0 for grey in images]
    right = [registrar.judge(*images, report["homography"], *masks, *told).probability for told in kinds]
    assert any(report["probability"] == pytest.approx(one, rel=1e-3) for one in right)
    unmasked = registrar.judge(*images, report["homography"], modality0=None, modality1=None).probability
    assert report["probability"] != pytest.approx(unmasked, rel=1e-3)


def test_match_dense_by_our_own_writer(views, weights, tmp_path, capsys):
    assert cli.main([
        "match-dense", "--writer", "own", "--pairs", str(views / "pairs.txt"), "--images", str(views / "images"),
        "-o", str(tmp_path), "--weights", str(weights), "--threshold", "0", "--rotations", "1",
    ]) == 0  # fmt: skip
    out, err = capsys.readouterr()
    assert "feats_matches-tar-guided.h5" in out and "[3/3] sub/b.png c.png" in err
    assert (tmp_path / "matches-tar-guided_pairs.h5").is_file()


@needs_weights
@pytest.mark.slow  # two registrations
def test_match_dense_asks_for_the_probability_that_it_is_told(tmp_path, capsys):
    optical, sar, _ = demo_middle()
    images = output_folder(tmp_path / "images")
    for name, image in (("optical.png", optical), ("sar.png", sar)):
        write_image(images / name, image)
    (tmp_path / "pairs.txt").write_text("optical.png sar.png\n")
    line = ["match-dense", "--writer", "own", "--pairs", str(tmp_path / "pairs.txt"), "--images", str(images)]
    for least, some in (("1", False), ("0.5", True)):
        assert cli.main([*line, "-o", str(tmp_path / least), "--rotations", "1", "--min-probability", least]) == 0
        assert (": 0 matches" not in capsys.readouterr().err) is some


@pytest.mark.parametrize("package", ["broken_hloc", "no_such_hloc"])
def test_auto_takes_our_own_writer_where_hloc_cannot_be_used(views, weights, tmp_path, capsys, broken, package):
    line = [
        "match-dense", "--pairs", str(views / "pairs.txt"), "--images", str(views / "images"), "--package", package,
        "-o", str(tmp_path / "new" / "out"), "--conf", "tar_aachen", "--weights", str(weights), "--threshold", "0",
    ]  # fmt: skip
    assert cli.main([*line, "--writer", "hloc"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"tar-hloc match-dense: {package}") and err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert cli.main(line) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{package} ") and first.endswith("; our own writer is used instead")
    assert (tmp_path / "new/out/matches-tar-aachen_pairs.h5").is_file()


def test_options_enter_a_copy_of_the_conf():
    assert cli.configured("tar", min_probability=0.5)["model"]["min_probability"] == 0.5
    conf = cli.configured("tar_sfm", 640, text="none", modality="sar", nodata=0.0, weights=None)
    assert conf["model"] == {**cli.confs["tar_sfm"]["model"], "text": "none", "modality": "sar", "nodata": 0}
    assert conf["preprocessing"]["resize_max"] == 640
    assert cli.confs["tar_sfm"]["preprocessing"]["resize_max"] == 1024 and "text" not in cli.confs["tar_sfm"]["model"]


@pytest.mark.parametrize(("told", "modality"), [(None, "cross"), ("auto", None), ("optical", "optical")])
def test_modality_is_the_confs_unless_told(told, modality):
    assert cli.configured("tar", modality=told)["model"]["modality"] == modality


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("match-dense --pairs none.txt --images . -o out", "none.txt: no such file of pairs"),
        ("match-dense --pairs {0}/both.txt --images nowhere -o out", "nowhere: no such folder"),
        (
            "match-dense --pairs {0}/both.txt --images {0}/images -o out --weights no.safetensors --writer own",
            "no.safet",
        ),
        (
            "match-dense --pairs {0}/both.txt --images {0}/images -o out --writer hloc --package nohloc",
            "pip install git",
        ),
        (
            "match-dense --pairs {0}/both.txt --images {0}/images -o out --conf tar_sfm --min-probability 0.5",
            "conf tar_sfm makes none",
        ),
        (
            "match-dense --pairs {0}/both.txt --images {0}/images -o out --min-probability 90 --writer own",
            "min_probability must be in [0, 1], got 90",
        ),
        ("reconstruct --pairs {0}/both.txt --images . --features none.h5 --matches m -o out", "none.h5: no such file"),
        ("prepare {0}/none.tif -o {0}/out", "none.tif: no such file"),
        (
            "verify --pairs {0}/both.txt --images . --features none.h5 --matches m -o out --threshold 0",
            "threshold is 0",
        ),
    ],
)
def test_errors_are_one_line(matched, capsys, monkeypatch, line, message):
    monkeypatch.chdir(matched)
    assert cli.main(line.format(matched).split()) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"tar-hloc {line.split()[0]}: ") and message in err
    assert err.count("\n") == 1 and not (matched / "out").exists()


def test_a_mistyped_option_is_told_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", "a.tif", "-o", "out", "--no-data", "0"])
    told = "unrecognized arguments: --no-data 0 (did you mean --nodata?); see tar-hloc prepare --help"
    assert ended.value.code == 1 and capsys.readouterr().err == f"tar-hloc prepare: {told}\n"


@pytest.mark.parametrize("command", ["", "prepare", "match-dense", "verify", "reconstruct"])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"tar-hloc {command}" in capsys.readouterr().out.split("example")[-1]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("PINOLE 500 240 180", "no model"),
        ("PINHOLE 500 240 180", "3 numbers"),
        ("SIMPLE_PINHOLE f 240 180", "float"),
        ("SIMPLE_PINHOLE nan 240 180", "finite"),
        ("SIMPLE_PINHOLE -5 1 1", "above 0"),
        ("PINHOLE", "above 0"),
    ],
)
def test_a_camera_that_is_none_is_told(told, why):
    pytest.importorskip("pycolmap")
    with pytest.raises(ValueError, match=why):
        cli.known_camera(told.split())


def test_a_known_camera_is_taken_and_held():
    pytest.importorskip("pycolmap")
    options = cli.known_camera(["SIMPLE_PINHOLE", "500", "240", "180"])
    assert options["image_options"] == {"camera_model": "SIMPLE_PINHOLE", "camera_params": "500.0,240.0,180.0"}
    assert not any(options["mapper_options"].values())
