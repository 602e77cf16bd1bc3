"""No command replaces or removes an input, or a file that it did not write, whatever folder it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import lively_net
from PIL import Image

from hloc_plugin.cli import main as tar_hloc
from kornia_tar.cli.main import main
from kornia_tar.network import checkpoint
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet
from kornia_tar.raster import source_files, write_image


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    """A folder whose inputs bear the names of results."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    for name in ("registered.png", "quicklook.png", "landcover.png"):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "images").mkdir()
    Image.fromarray(rng.integers(0, 65535, (64, 64), dtype=np.uint16)).save(tmp_path / "images" / "sar.png")
    save_checkpoint(tmp_path / "report.json", TARNet(), {})
    for name in ("matches.h5", "database.db", "f.h5"):
        (tmp_path / name).write_bytes(b"somebody's")
    (tmp_path / "p.txt").write_text("registered.png landcover.png")
    return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("register registered.png landcover.png -o .", "registered.png: would replace the input"),
        ("register landcover.png registered.png -o . --overwrite", "registered.png: would replace the input"),
        ("register landcover.png images/sar.png -o . --weights report.json --overwrite", "report.json: would replace"),
        ("register landcover.png images/sar.png -o .", "is there already; give --overwrite"),
        ("match registered.png landcover.png -o matches.h5", "matches.h5: is there already"),
        ("landcover registered.png landcover.png", "landcover.png: would replace the input"),
        ("landcover registered.png quicklook.png -o quicklook.png --overwrite", "quicklook.png: would replace"),
        ("landcover registered.png quicklook.png -o new.png --json report.json", "report.json: is there already"),
        ("demo -o .", "is there already"),
        ("demo -o x.png", "x.png: -o is a folder for all results here, not an image; leave .png off"),
        ("register registered.png landcover.png -o new/X.TIF", "X.TIF: -o is a folder for all results here"),
        ("register-many p.txt -o out.vrt", "out.vrt: -o is a folder for all results here"),
        ("tar-hloc prepare images -o .", "sar.png: would replace the input"),
        ("tar-hloc reconstruct --pairs p.txt --images . --features f.h5 --matches f.h5 -o .", "database.db: is there"),
        ("tar-hloc prepare images -o . --overwrite", "sar.png: would replace the input"),
    ],
)
def test_refused_before_any_work(files, tmp_path, monkeypatch, capsys, command, says):
    monkeypatch.chdir(tmp_path)
    words = command.split()
    assert (tar_hloc(words[1:]) if words[0] == "tar-hloc" else main(words)) == 1
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_results_replace_results_where_told(tmp_path, capsys):
    weights = tmp_path / "w.safetensors"
    net = lively_net()
    save_checkpoint(weights, net, {})
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / name)
    command = ["register", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "out")]
    command += ["--weights", str(weights), "--rotations", "1"]
    assert main(command) in (0, 2)
    before = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    assert main(command) == 1 and (tmp_path / "out" / "report.json").stat().st_mtime_ns == before
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) in (0, 2) and (tmp_path / "out" / "report.json").stat().st_mtime_ns > before


def test_what_georeferences_a_picture_is_an_input(tmp_path, monkeypatch, capsys):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, pixels)
    (tmp_path / "a.png.aux.xml").write_text("<PAMDataset/>")
    monkeypatch.chdir(tmp_path)
    assert main(["landcover", "a.png", "b.png", "-o", "c.png", "--json", "a.png.aux.xml", "--overwrite"]) == 1
    assert "a.png.aux.xml: would replace the input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "beside"),
    [
        ("register a.png b.png -o out", "registered.pgw"), ("register a.png b.png -o out", "registered.png.aux.xml"),
        ("register a.png b.png -o out", "registered.tif.aux.xml"), ("register-many p.csv -o .", "registered.wld"),
        ("demo -o out", "optical.pgw"),
    ],
)  # fmt: skip
def test_no_result_takes_its_place_from_a_file_that_was_left_there(tmp_path, monkeypatch, capsys, command, beside):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").write_text("read by one alone that must know which pairs are done")
    if "many" in command:
        save_checkpoint(tmp_path / "w.safetensors", lively_net(), {})
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, pixels)
    (tmp_path / "p.csv").write_text("image0,image1,name\na.png,b.png,out\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / beside).write_text("<PAMDataset><SRS>EPSG:32632</SRS></PAMDataset>")
    before = sorted(tmp_path.rglob("*"))
    for more in ([], ["--overwrite"]):
        assert main([*command.split(), "--weights", "w.safetensors", *more]) == 1
        told = capsys.readouterr().err
        assert (
            f"{beside}: would say of {beside.split('.')[0]}." in told and "remove it" in told and told.count("\n") == 1
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_vrt_s_sources_are_inputs(tmp_path, monkeypatch, capsys):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.shutil import copy
    from rasterio.transform import from_origin

    from kornia_tar.raster import GeoProfile

    source = tmp_path / "registered.tif"
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8)
    write_image(source, pixels, GeoProfile("EPSG:32633", from_origin(5e5, 5e6, 10, 10), None))
    with rasterio.open(source) as file:
        copy(file, str(tmp_path / "other.vrt"), driver="VRT")
    assert source in [path.resolve() for path in source_files(tmp_path / "other.vrt")]
    before = source.read_bytes()
    command = ["register", str(tmp_path / "other.vrt"), str(tmp_path / "other.vrt"), "-o", str(tmp_path), "--overwrite"]
    assert main(command) == 1
    assert "registered.tif: would replace the input" in capsys.readouterr().err and source.read_bytes() == before


def test_shipped_weights_are_inputs_though_a_name_alone_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    shipped = tmp_path / "optical-sar.safetensors"
    save_checkpoint(shipped, lively_net(), {})
    before = shipped.read_bytes()
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8))
    image = str(tmp_path / "a.png")
    assert main(["landcover", image, image, "-o", str(tmp_path / "m.png"), "--json", str(shipped), "--overwrite"]) == 1
    assert "would replace the input" in capsys.readouterr().err and shipped.read_bytes() == before
