"""Scenes of many tiles: their answers are kept, a run that was interrupted goes on, and memory stays bounded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import needs_weights, picture, small_matcher

from kornia_tar import AlignmentConfig, Registrar, RegistrarConfig, SearchConfig, TARMatcher
from kornia_tar.cli.main import main
from kornia_tar.geometry import corner_error
from kornia_tar.outputs import journal as journals
from kornia_tar.outputs.journal import FolderJournal
from kornia_tar.raster import to_grey, windows, write_image
from kornia_tar.raster import view as views
from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment import known, tiled
from kornia_tar.registration.alignment.tiled import TileEncoder

NUDGE = np.array([[1.0, 0.01, 2.0], [-0.01, 1.0, -1.5], [0, 0, 1]])


def pair(side: int = 200) -> tuple[MaskedImage, MaskedImage]:
    return tuple(
        MaskedImage.of((picture(seed, side, side)[0, 0].numpy() * 255).astype(np.uint8), None, name, "image")
        for seed, name in ((0, "optical"), (1, "sar"))
    )


class Memory:
    """A journal in memory, which may be cut off after some tiles."""

    def __init__(self, least: int = 10**6) -> None:
        self.kept, self.loaded, self.told, self.left = {}, 0, [], least

    def load(self, name):
        self.loaded += name in self.kept
        return self.kept.get(name)

    def save(self, name, arrays):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.kept[name] = arrays

    def progress(self, done, total):
        self.told.append((done, total))


def look(journal, first, second, matrix=NUDGE, matcher=None):
    encoder = TileEncoder(matcher or small_matcher(), 48, 600, journal)
    with torch.no_grad():
        return encoder.displacement_maps(first, second, matrix, 1)


def test_an_interrupted_look_goes_on_and_says_the_same():
    first, second = pair()
    expected = look(None, first, second)
    cut_off = Memory(7)
    with pytest.raises(KeyboardInterrupt):
        look(cut_off, first, second)
    cut_off.left = 10**6
    found = look(cut_off, first, second)
    assert cut_off.loaded == 7 and len(cut_off.kept) == 25 and cut_off.told[-1] == (24, 25)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_what_was_kept_of_something_else_is_of_no_use():
    first, second = pair()
    journal = Memory()
    look(journal, first, second)
    count = len(journal.kept)
    look(journal, first, second, matrix=np.eye(3))
    look(journal, second, first)
    look(journal, first, second, matcher=small_matcher(1))
    assert journal.loaded == 0 and len(journal.kept) == 4 * count
    for name in journal.kept:
        journal.kept[name] = {"own": np.array(3)}  # nothing of ours
    journal.loaded = 0
    found = look(journal, first, second)
    np.testing.assert_array_equal(found[0].probability.numpy(), look(None, first, second)[0].probability.numpy())


def test_images_of_few_tiles_leave_nothing():
    first, second = pair(120)
    journal = Memory()
    look(journal, first, second)
    assert not journal.kept and not journal.told


def test_a_folder_keeps_arrays_and_forgets_what_is_broken(tmp_path, monkeypatch):
    said = []
    journal = FolderJournal(tmp_path, said.append)
    assert journal.load("a") is None and not list(tmp_path.iterdir())
    journal.save("a", {"x": np.arange(3)})
    np.testing.assert_array_equal(journal.load("a")["x"], [0, 1, 2])
    kept = next(tmp_path.rglob("a.npz"))
    kept.write_bytes(kept.read_bytes()[:40])
    assert journal.load("a") is None
    monkeypatch.setattr(journals, "FIRST", 0)
    monkeypatch.setattr(journals, "EVERY", 0)
    for done in range(3):
        journal.progress(done, 3)
    assert said and said[-1].startswith("full size: 2 of 3 tiles, about 1 min left")
    journal.remove()
    assert not list(tmp_path.iterdir())
    FolderJournal(tmp_path / "none").save("a", {"x": np.arange(3)})  # cannot be written: no matter


@pytest.fixture
def small_parts(monkeypatch):
    """All that large images go through, at sizes of a test."""
    monkeypatch.setattr(windows, "LARGE", 2**10)
    monkeypatch.setattr(windows, "PART", 2**14)
    monkeypatch.setattr(views, "PART", 2**14)
    monkeypatch.setattr(known, "KNOWN_PIXELS", 0)
    monkeypatch.setattr(tiled, "MANY_TILES", 2)


@pytest.mark.slow  # 512 px twice
@needs_weights
def test_a_scene_in_parts_registers_as_a_whole_one_does(monkeypatch):
    scene = draw_scene(3, 512)
    optical, sar = (to_grey(image) for image in (scene.optical, scene.sar))
    config = RegistrarConfig(
        search=SearchConfig(rotations=1, side=192, scales=(1.0,)), alignment=AlignmentConfig(tile=192, magnify=1.0)
    )
    matcher = TARMatcher().fuse()
    floats = [np.asarray(image, np.float32) / 255 for image in (optical, sar)]
    whole = Registrar(matcher, config)(*floats)
    monkeypatch.setattr(views, "PART", 2**13)
    monkeypatch.setattr(known, "KNOWN_PIXELS", 0)
    parts = Registrar(matcher, config)(optical, sar)
    assert whole.registered and parts.registered
    assert corner_error(parts.matrix, whole.matrix, (512, 512)) < 0.1


@needs_weights
def test_a_command_that_was_interrupted_goes_on(tmp_path, small_parts, monkeypatch, capsys):
    pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    from kornia_tar.raster import GeoProfile

    scene = draw_scene(3, 256)
    profile = GeoProfile("EPSG:32632", from_origin(5e5, 4.6e6, 10, 10))
    for name, image in (("a.tif", scene.optical), ("b.tif", scene.sar)):
        write_image(tmp_path / name, image, profile)
    monkeypatch.setattr("kornia_tar.registration.files.RegistrarConfig", lambda **told: RegistrarConfig(
        **told | {"search": SearchConfig(rotations=1, side=96, scales=(1.0,))},
        alignment=AlignmentConfig(tile=96, magnify=1.0)))  # fmt: skip
    command = ["register", str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), "-o", str(tmp_path / "out")]
    save, count = FolderJournal.save, []

    def cut_off(self, name, arrays):
        save(self, name, arrays)
        count.append(name)
        if len(count) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(FolderJournal, "save", cut_off)
    assert main(command) == 130
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left == [journals.NAME]
    loaded, load = [], FolderJournal.load
    monkeypatch.setattr(FolderJournal, "save", save)
    monkeypatch.setattr(FolderJournal, "load", lambda self, name: loaded.append(load(self, name)) or loaded[-1])
    assert main(command) == 0
    assert sum(found is not None for found in loaded) == 5
    assert not (tmp_path / "out" / journals.NAME).exists() and (tmp_path / "out" / "registered.tif").exists()
    assert json.loads(Path(tmp_path / "out" / "report.json").read_text())["registered"]
