"""Files written whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from kornia_tar import files
from kornia_tar.files import check_outputs, output_folder, write_json
from kornia_tar.outputs.matches import read_matches, write_matches
from kornia_tar.raster import write_image

rng = np.random.default_rng(0)


def test_json_is_strict(tmp_path):
    content = {
        "a": np.float32(0.5),
        "b": [np.nan, float("inf")],
        "c": np.eye(2),
        "d": np.int64(3),
        "p": Path("x"),
        "t": True,
    }
    write_json(tmp_path / "r.json", content)
    expected = {"a": 0.5, "b": [None, None], "c": [[1, 0], [0, 1]], "d": 3, "p": "x", "t": True}
    assert json.loads((tmp_path / "r.json").read_text()) == expected


def test_failed_writes_leave_the_old_file_and_no_litter(tmp_path):
    write_json(tmp_path / "r.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "r.json", object())
    with pytest.raises(ValueError, match="PNG holds"):
        write_image(tmp_path / "a.png", np.zeros((40, 40), np.float32))
    with pytest.raises(ValueError, match=r"use \.png or \.tif"):
        write_image(tmp_path / "a.xyz", np.zeros((40, 40), np.uint8))
    with pytest.raises(ValueError, match=r"\.h5 or \.npz"):
        write_matches(tmp_path / "m.txt", {})
    for place in ("absent/a", "r.json/a"):
        for act in (
            lambda p=place: write_image(tmp_path / f"{p}.png", np.zeros((40, 40), np.uint8)),
            lambda p=place: write_matches(tmp_path / f"{p}.h5", {"x": np.zeros(2)}),
            lambda p=place: write_matches(tmp_path / f"{p}.npz", {"x": np.zeros(2)}),
            lambda p=place: write_json(tmp_path / f"{p}.json", {}),
        ):
            with pytest.raises(ValueError, match="cannot be written"):
                act()
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"] and (tmp_path / "r.json").read_text() == "1\n"


def test_output_folder(tmp_path):
    assert output_folder(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot write into this folder") as caught:
            output_folder(place)
        assert "\n" not in str(caught.value)


def test_inputs_are_spared_by_whatever_name(tmp_path):
    source = tmp_path / "in.png"
    source.write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "hard.png").hardlink_to(source)
    (tmp_path / "sub").mkdir()
    for name in ("in.png", "link.png", "hard.png", "sub/../in.png"):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=r"would replace the input .*in\.png"):
                check_outputs([tmp_path / name], [source], overwrite=overwrite)
    assert source.read_bytes() == b"mine"


def test_what_is_there_stays_unless_told(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("old.json", "broken"):
        with pytest.raises(ValueError, match="is there already; give --overwrite"):
            check_outputs([tmp_path / "new.json", tmp_path / name], [tmp_path / "no such input"])
        check_outputs([tmp_path / name], [], overwrite=True)
    check_outputs([tmp_path / "new.json"], [tmp_path / "old.json"])


@pytest.mark.parametrize(
    ("walk", "says"),
    [
        ("print(flush=True)\nwhile True: pass", "reading it comes to no end"),  # as HDF5 does on some damaged files
        ("import os\nos.kill(os.getpid(), 11)", "reading it is ended by signal 11"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_hdf5_file_that_comes_to_no_end_is_refused(tmp_path, monkeypatch, walk, says):
    path = tmp_path / "m.h5"
    write_matches(path, {"keypoints0": np.zeros((3, 2), np.float32)})
    assert read_matches(path)["keypoints0"].shape == (3, 2)
    monkeypatch.setattr(files, "WALK_HDF5", walk)
    monkeypatch.setattr(files, "HDF5_SECONDS", 0.2)
    with pytest.raises(ValueError, match=rf"m\.h5: is not a file of matches .*{says}"):
        read_matches(path)
