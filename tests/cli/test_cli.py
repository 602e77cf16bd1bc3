"""The command line on real files: what it writes, what it says, how it exits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import demo_middle, lively_net, needs_weights, untrained_weights
from PIL import Image

from kornia_tar.cli.main import build_parser, main
from kornia_tar.geometry import corner_error
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet
from kornia_tar.outputs.matches import read_matches
from kornia_tar.raster.synthetic import demo_pair
from kornia_tar.text import RandomPrior, TextBank


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("pair")
    optical, sar, truth = demo_middle(1)
    Image.fromarray(optical).save(folder / "optical.png")
    Image.fromarray(sar).save(folder / "sar.png")
    return folder / "optical.png", folder / "sar.png", truth


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_weights(tmp_path_factory.mktemp("weights"))


@needs_weights
def test_register_writes_everything_and_finds_the_truth(pair, tmp_path, capsys):
    optical, sar, truth = pair
    assert main(["register", str(optical), str(sar), "-o", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "matches.h5", "quicklook.png", "registered.png", "report.html", "report.json", "tie_points.csv",
        "transform.json",
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["command"].startswith("kornia-tar register") and report["settings"]["model"] == "affine"
    assert all(check["passed"] for check in report["checks"]) and len(report["checks"]) == 8
    assert "✓" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert report["registered"] and corner_error(report["matrix"], truth, (256, 256)) < 2
    matches = read_matches(tmp_path / "out" / "matches.h5")
    assert matches["keypoints0"].shape == matches["keypoints1"].shape == (report["matches"], 2)
    assert matches["inliers"].sum() == report["inliers"]
    assert "registered: probability 1.00, estimated error" in capsys.readouterr().out


@needs_weights
def test_decibels_stretched_for_want_of_rasterio_are_told(pair, tmp_path, capsys, monkeypatch):
    optical, sar, _ = pair
    Image.fromarray(np.asarray(Image.open(sar), np.float32) / 8 - 33).save(tmp_path / "sar.tif")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["register", str(optical), str(tmp_path / "sar.tif"), "-o", str(tmp_path / "out")]) == 0
    line = capsys.readouterr().err
    assert "registered.png: PNG holds 8 or 16 bits, not float32" in line and line.count("\n") == 1
    assert "kornia-tar[geo]" in json.loads((tmp_path / "out/report.json").read_text())["registered_image"]["stretched"]


@pytest.mark.slow  # 512 px; .ci/run runs the demo itself
@needs_weights
def test_demo_shows_its_error(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["corner_error_px"] < 2
    assert (tmp_path / "quicklook.png").stat().st_size > 10_000
    assert "known truth" in capsys.readouterr().out


def test_an_untrained_net_is_honestly_not_registered(pair, untrained, tmp_path, capsys):
    optical, sar, _ = pair
    (tmp_path / "registered.png").write_bytes(b"of an earlier run")
    (tmp_path / "registered.tif").write_bytes(b"of an earlier run")
    (tmp_path / "report.json").write_text('{"registered": true, "kornia_tar": "0.1.0"}')
    words = ["-o", str(tmp_path), "--weights", str(untrained), "--rotations", "1", "--overwrite"]
    assert main(["register", str(optical), str(sar), *words]) == 2
    assert "not registered" in capsys.readouterr().err
    assert not (tmp_path / "registered.png").exists() and not (tmp_path / "registered.tif").exists()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["registered"] is False and report["reasons"]


def test_geotiff_lies_on_the_optical_grid(untrained, tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the geo extra is not installed")
    from kornia_tar.geometry import PointMatches
    from kornia_tar.outputs.results import write_results
    from kornia_tar.raster import read_image
    from kornia_tar.registration.acceptance import Witnesses
    from kornia_tar.registration.result import Registration

    optical, sar, truth = demo_pair(2)
    grid = rasterio.transform.from_origin(500_000, 4_600_000, 10, 10)
    with rasterio.open(tmp_path / "o.tif", "w", driver="GTiff", width=512, height=512, count=3, dtype="uint8",
                       crs="EPSG:32632", transform=grid) as file:  # fmt: skip
        file.write(optical.transpose(2, 0, 1))
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", width=512, height=512, count=1, dtype="float32",
                       nodata=-9999) as file:  # fmt: skip
        file.write(sar.astype(np.float32)[None])
    first, second = read_image(tmp_path / "o.tif"), read_image(tmp_path / "s.tif")
    none = PointMatches.empty()
    outcome = Registration(
        True, (), truth, "affine", none, np.zeros(0, bool), 0, 1.0, 0.5, 0.5, 0.5, 0.95, Witnesses.none()
    )
    write_results(tmp_path, outcome, outcome.report(), first, second, sar)
    with rasterio.open(tmp_path / "registered.tif") as file:
        assert file.crs == "EPSG:32632" and file.transform == grid and file.dtypes == ("float32",)
        assert file.nodata == -9999 and (file.read(1) == -9999).any()
    assert not (tmp_path / "registered.png").exists()


def test_match_writes_h5_and_npz(pair, untrained, tmp_path):
    optical, sar, _ = pair
    for name in ("m.h5", "m.npz"):
        common = ["--weights", str(untrained), "--threshold", "0", "--modality1", "auto", "--turns", "1"]
        assert main(["match", str(optical), str(sar), "-o", str(tmp_path / name), *common]) == 0
    a, b = read_matches(tmp_path / "m.h5"), read_matches(tmp_path / "m.npz")
    assert len(a["confidence"]) > 0
    np.testing.assert_array_equal(a["keypoints1"], b["keypoints1"])


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worded") / "worded.safetensors"
    info = {"text": {"encoder": "e", "names": ["forest", "river", "farmland", "port"], "templates": ["a {}"]}}
    save_checkpoint(path, lively_net(), info)
    return path


def test_landcover_draws_a_picture_and_tells_the_shares(pair, worded, tmp_path, capsys):
    out, told = tmp_path / "new" / "cover.png", tmp_path / "new" / "shares.json"
    arguments = ["landcover", *map(str, pair[:2]), "--weights", str(worded), "-o", str(out), "--json", str(told)]
    assert main(arguments) == 0
    with Image.open(out) as sheet:
        assert sheet.format == "PNG" and sheet.width == 1348 and np.asarray(sheet.convert("RGB")).std() > 10
    report = json.loads(told.read_text())
    assert list(report["shares"]) == ["forest", "river", "farmland", "port"]
    np.testing.assert_allclose(np.sum(list(report["shares"].values()), axis=0), 1)
    assert report["modalities"] == ["optical", "sar"]
    assert 0 <= report["agreement"]["same"] <= 1 and 0 < report["agreement"]["chance"] <= 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("optical · optical.png: ") and lines[1].startswith("SAR · sar.png: ")
    assert "no land-cover head" in lines[2] and report["seen"] is None
    assert "by chance" in lines[3] and lines[4] == f"see {out}"
    assert sorted(p.name for p in out.parent.iterdir()) == ["cover.png", "shares.json"]


def test_landcover_takes_other_words_and_sizes(pair, worded, tmp_path, capsys):
    cut = tmp_path / "cut.png"
    Image.open(pair[1]).crop((0, 0, 200, 150)).save(cut)
    TextBank(("dam", "road", "orchard"), torch.eye(16)[:3], "e").save(tmp_path / "bank.npz")
    told = tmp_path / "shares.json"
    common = [str(pair[0]), str(cut), "--weights", str(worded), "-o", str(tmp_path / "c.png"), "--json", str(told)]
    assert main(["landcover", *common, "--bank", str(tmp_path / "bank.npz"), "--names", "road, dam"]) == 0
    report = json.loads(told.read_text())
    assert list(report["shares"]) == ["road", "dam"] and report["agreement"] is None
    assert "differ in size" in capsys.readouterr().out
    assert main(["landcover", *common, "--names", "port,river", "--modality1", "auto", "--overwrite"]) == 0
    assert list(json.loads(told.read_text())["shares"]) == ["port", "river"]


def test_auto_tells_the_network_what_the_stretch_assumed(pair, worded, tmp_path):
    deep = np.asarray(Image.open(pair[1]).convert("L")).astype(np.uint16) * 200
    Image.fromarray(deep).save(tmp_path / "deep.png")
    told = tmp_path / "shares.json"
    for images, modalities in (((pair[0], tmp_path / "deep.png"), ["optical", "sar"]),
                               ((tmp_path / "deep.png", pair[0]), ["sar", "optical"])):  # fmt: skip
        arguments = [*map(str, images), "--weights", str(worded), "-o", str(tmp_path / "c.png"), "--json", str(told)]
        assert main(["landcover", *arguments, "--modality0", "auto", "--modality1", "auto", "--overwrite"]) == 0
        assert json.loads(told.read_text())["modalities"] == modalities


def test_landcover_asks_remoteclip_for_any_words(pair, worded, tmp_path, monkeypatch):
    asked = []

    def load(name: str, **options: object) -> RandomPrior:
        asked.append((name, options))
        prior = RandomPrior(16)
        prior.info = {"encoder": "e"}
        return prior

    monkeypatch.setattr("kornia_tar.text.prior.load_text_prior", load)  # the real one needs RemoteCLIP's 605 MB
    arguments = ["landcover", *map(str, pair[:2]), "--weights", str(worded), "-o", str(tmp_path / "c.png"),
                 "--json", str(tmp_path / "c.json"), "--remoteclip", "r.pt", "--names", "solar farm, dam"]  # fmt: skip
    assert main(arguments) == 0
    assert asked == [("remoteclip", {"checkpoint": Path("r.pt")})]
    assert list(json.loads((tmp_path / "c.json").read_text())["shares"]) == ["solar farm", "dam"]


def test_landcover_reads_geotiffs(worded, tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the geo extra is not installed")
    optical, sar, _ = demo_pair(3)
    decibels = sar[:96, :128].astype(np.float32) / 8 - 25
    decibels[:, :40] = -9999
    for name, pixels in (("o.tif", optical[:96, :128].transpose(2, 0, 1)), ("s.tif", decibels[None])):
        with rasterio.open(tmp_path / name, "w", driver="GTiff", width=128, height=96, count=len(pixels),
                           dtype=pixels.dtype, crs="EPSG:32632", nodata=-9999 if name == "s.tif" else None,
                           transform=rasterio.transform.from_origin(5e5, 4.6e6, 10, 10)) as file:  # fmt: skip
            file.write(pixels)
    images = [str(tmp_path / "o.tif"), str(tmp_path / "s.tif")]
    out = ["-o", str(tmp_path / "c.png"), "--json", str(tmp_path / "c.json")]
    assert main(["landcover", *images, *out, "--weights", str(worded)]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["agreement"]["cells"] == 12 * 11


def _bad_inputs(folder: Path, good: Path) -> dict[str, list[str]]:
    (folder / "text.png").write_text("this is no image")
    Image.new("L", (10, 10)).save(folder / "tiny.png")
    nans = np.full((64, 64), np.nan, np.float32)
    Image.fromarray(nans).save(folder / "nan.tif")
    whole = good.read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    torch.save({"a": torch.zeros(1)}, folder / "pickle.safetensors")
    save_checkpoint(folder / "whole.safetensors", TARNet(), {})
    save_checkpoint(folder / "worded.safetensors", lively_net(), {"text": {"names": ["port", "sea", "road", "dam"]}})
    data = (folder / "whole.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "file").write_text("not a folder")
    out = ["-o", str(folder / "out")]
    weights = ["--weights", str(folder / "whole.safetensors")]
    absent = [str(folder / "absent.png"), str(good)]  # an option is refused before it would be missed
    return {
        "text.png": ["register", str(folder / "text.png"), str(good), *out, *weights],
        "tiny.png": ["register", str(good), str(folder / "tiny.png"), *out, *weights],
        "nan.tif": ["register", str(good), str(folder / "nan.tif"), *out, *weights],
        "cut.png": ["match", str(good), str(folder / "cut.png"), "-o", str(folder / "out" / "m.h5"), *weights],
        "absent.png": ["register", *absent, *out, *weights],
        "truncated.safetensors": ["register", str(good), str(good), *out, "--weights",
                                  str(folder / "truncated.safetensors")],
        "pickle.safetensors": ["register", str(good), str(good), *out, "--weights",
                               str(folder / "pickle.safetensors")],
        "no-such-weights": ["register", str(good), str(good), *out, "--weights", "no-such-weights"],
        "file": ["register", str(good), str(good), "-o", str(folder / "file" / "out"), *weights],
        "unknown.bank": ["register", str(good), str(good), *out, *weights, "--bank", str(folder / "unknown.bank")],
        "device gpu: is none; give auto, cpu, cuda, cuda:1 or mps": [
            "register", str(good), str(good), *out, *weights, "--device", "gpu"],
        "nodevice": ["register", str(good), str(good), *out, *weights, "--device", "nodevice"],
        "threshold must be in [0, 1], got 2.0": ["register", *absent, *out, *weights, "--threshold", "2"],
        "threshold must be in [0, 1], got -1": ["match", *absent, *weights, "-o", str(folder / "m.h5"),
                                                 "--threshold=-1"],
        "threshold must be in [0, 1], got nan": ["demo", *out, *weights, "--threshold", "nan"],
        "radius is inf": ["register", *absent, *out, *weights, "--search-radius", "inf"],
        "radius of 300 m": ["register", *absent, *out, *weights, "--search-radius", "300", "--no-georeference"],
        "matches.txt": ["match", str(good), str(good), "-o", str(folder / "matches.txt"), *weights],
        "cover.jpg": ["landcover", str(good), str(good), "-o", str(folder / "cover.jpg"), *weights],
        "no text": ["landcover", str(good), str(good), "-o", str(folder / "out" / "c.png"), *weights],
        "--remoteclip": ["landcover", str(good), str(good), "-o", str(folder / "out" / "c.png"), *weights,
                         "--bank", "a.npz", "--remoteclip", "b.pt"],
        "absent.pt": ["landcover", str(good), str(good), "-o", str(folder / "out" / "c.png"), *weights,
                      "--remoteclip", str(folder / "absent.pt")],
        "--names: the text has no 'swamp': it has port, sea, road, dam; --remoteclip FILE reads any words": [
            "landcover", str(good), str(good), "-o", str(folder / "out" / "c.png"), "--names", "swamp,port",
            "--weights", str(folder / "worded.safetensors")],
        "no train-*.tar": ["train", "--data", str(folder), "--steps", "1", *out],
    }  # fmt: skip


def test_bad_input_is_one_clear_line_and_leaves_nothing(pair, tmp_path, capsys):
    for named, arguments in _bad_inputs(tmp_path, pair[0]).items():
        assert main(arguments) == 1, named
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and named in error, (named, error)
        out = tmp_path / "out"
        assert not out.exists() or not list(out.iterdir()), named


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("register a b -o x --serach-radius 3",
         "unrecognized arguments: --serach-radius 3 (did you mean --search-radius?); see kornia-tar register --help"),
        ("register a b --ouput=x", "the following arguments are required: -o/--out; unrecognized arguments: --ouput "
                                   "(did you mean --out?); see kornia-tar register --help"),
        ("register a b -o x --model afine", "argument --model: invalid choice: 'afine'"),
        ("export x.onnx --size big", "argument --size: invalid int value: 'big'; see kornia-tar export --help"),
        ("demo --seed -1", "argument --seed: -1 is below 0; see kornia-tar demo --help"),
        ("train --data d -o x --steps 1 --seed x", "argument --seed: invalid seed value: 'x'"),
        ("apply t.json s.tif -o x.tif --nodata0 -9999",
         "unrecognized arguments: --nodata0 -9999 (did you mean --nodata?); see kornia-tar apply --help"),
        ("info -- --wieghts", "unrecognized arguments: -- --wieghts; see kornia-tar info --help"),
        ("--verison", "required: command; unrecognized arguments: --verison (did you mean --version?); see kornia-tar"),
        ("registre a b --ouput x", "argument command: invalid choice: 'registre'"),
    ],
)  # fmt: skip
def test_words_that_are_not_understood_are_told_in_one_line_with_what_may_be_meant(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    line = capsys.readouterr().err
    command = "kornia-tar" if words.startswith(("-", "registre")) else f"kornia-tar {words.split()[0]}"
    assert ended.value.code == 1 and line.startswith(f"{command}: ") and told in line and line.count("\n") == 1
    assert line.count("did you mean") == told.count("did you mean")


def test_help_has_examples():
    assert "examples:" in build_parser().format_help()
