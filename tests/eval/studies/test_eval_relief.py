"""The known field that images are bent by, what is measured of an answer, and the table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from eval import cli
from eval.benchmark import protocol
from eval.datasets import open_dataset
from eval.studies import relief
from kornia_tar.geometry import Transform, fit_least_squares, transform_points, warp_image
from kornia_tar.raster import write_image

SIZE = (200, 240)


def blobs() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (127 + 60 * np.sin(x / 7) + 60 * np.cos(y / 9)).astype(np.uint8)


def oracle(truth):
    """A registrar that knows the map: ``affine`` gives the nearest matrix, other models the map itself."""

    def register(image0, image1, model):
        points = relief.ground(image0.shape[:2])
        transform = Transform(fit_least_squares(points, truth(points)))
        transform = transform if model == "affine" else Transform.of(truth, image0.shape[:2], 4)
        held_out = SimpleNamespace(rmse_px=0.5)
        return SimpleNamespace(transform=transform, model=model, registered=True, held_out=held_out)

    return register


def test_a_field_is_as_large_as_asked_and_smooth():
    field, points = relief.draw_field(3, SIZE, 6.0, (120.0, 200.0)), relief.ground(SIZE)
    shift = field(points)
    assert np.linalg.norm(shift, axis=1).max() == pytest.approx(6)
    assert np.linalg.norm(field(points + 1) - shift, axis=1).max() < 1.0
    np.testing.assert_array_equal(relief.draw_field(3, SIZE, 6.0, (120.0, 200.0))(points), shift)
    assert np.abs(relief.draw_field(4, SIZE, 6.0, (120.0, 200.0))(points) - shift).max() > 1


def test_a_bent_image_shows_at_the_shifted_place_what_it_showed():
    image, field = blobs(), relief.draw_field(0, SIZE, 5.0, (120.0, 200.0))
    bent, way = relief.bend(image, field)
    points = relief.ground(SIZE)
    np.testing.assert_allclose(way(points), points + field(points), atol=0.1)
    back = warp_image(bent, way, SIZE)
    assert np.abs(back.astype(int) - image)[20:-20, 20:-20].mean() < 3


def test_an_answer_is_measured_over_the_ground_that_both_show():
    image, field = blobs(), relief.draw_field(0, SIZE, 5.0, (120.0, 200.0))
    way = lambda points: points + field(points)  # noqa: E731
    found = {one.asked: one for one in relief.ask(oracle(way), "toy", image, image, way, ("affine", "auto"))}
    assert found["auto"].rmse < 0.1 < 1 < found["affine"].rmse < 5
    there = way(relief.ground(SIZE))
    inside = ((there >= 0) & (there <= [119, 99])).all(1)
    (one,) = relief.ask(lambda a, b, m: oracle(way)(a, b, "affine"), "toy", image, image[:100, :120], way, ("affine",))
    matrix = fit_least_squares(relief.ground(SIZE), there)
    off = np.linalg.norm(transform_points(matrix, relief.ground(SIZE)) - there, axis=1)
    assert one.rmse == pytest.approx(np.sqrt(np.mean(off[inside] ** 2)))


def test_what_has_no_transform_is_infinitely_wrong():
    lost = SimpleNamespace(transform=None, model="auto", registered=False, held_out=None)
    (one,) = relief.ask(lambda *_: lost, "toy", blobs(), blobs(), lambda points: points, ("auto",))
    assert one.rmse == np.inf and not one.registered and np.isnan(one.held_out)


def test_the_command_writes_a_table(tar, tmp_path, monkeypatch, capsys):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for kind in ("optical", "sar"):
        write_image(scenes / f"s.{kind}.png", blobs())
    (dataset,) = open_dataset(tar)
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    warps = protocol.draw_warps(dataset.names, "tar", 0)
    protocol.write_warps(protocol.warps_path("toy-000", "tar", tmp_path), "toy-000", "tar", 0, warps)
    monkeypatch.setattr(relief, "registrar", lambda matcher: oracle(lambda points: points + 1))
    words = ["study", "relief", "--scenes", str(scenes), "--scene", "s", "--data", str(tar), "--limit", "2"]
    assert cli.main([*words, "--fields", "1", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "relief.md").read_text()
    assert "| laid flat | auto | 1 | auto 1 | 1 |" in text and "| toy-000, tar, flat | affine | 2 |" in text
    assert "worse by more than 0.1 px on 0 of 3" in text and text in capsys.readouterr().out
