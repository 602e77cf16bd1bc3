import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import texture, write_tar

from eval.benchmark import predict, protocol, score
from eval.benchmark.table import motion
from eval.datasets import open_dataset
from eval.peers import Matches
from eval.peers.classical.identity import Identity
from eval.report import deformation, published, write
from eval.report.markdown import grid

NAME = 'a<b>"|&$x$ matcher'


class Truthful:
    """Knows the answer, off by a shift in px."""

    parameters, settings = 1_500_000, "knows"

    def __init__(self, name, warps, shift=0.0):
        self.name, self._warps, self._shift, self._calls = name, list(warps.values()), shift, 0

    def match(self, image0, image1, **hints):
        warp = self._warps[max(self._calls - 1, 0)]  # the first call only warms up
        self._calls += 1
        points = np.random.default_rng(0).uniform(0, 255, (40, 2))
        moved = np.column_stack([points, np.ones(40)]) @ warp.T
        moved = moved[:, :2] / moved[:, 2:] + self._shift
        return Matches(points.astype(np.float32), moved.astype(np.float32), np.ones(40, np.float32))


class Silent(Identity):
    """Finds nothing, so that every one of its errors is infinite."""

    name, settings = "silent", "says nothing"

    def match(self, image0, image1, **hints):
        nothing = np.zeros((0, 2), np.float32)
        return Matches(nothing, nothing, np.zeros(0, np.float32))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of three pairs, scored on both levels, and its folder of caches."""
    folder = tmp_path_factory.mktemp("report")
    grey = {f"fake__{index}": texture(index) for index in range(3)}
    (dataset,) = open_dataset(
        write_tar(folder / "toy-000.tar", {name: (np.stack([image] * 3, -1), image) for name, image in grey.items()})
    )
    tables = []
    for level in ("tar", "hard"):
        warps = protocol.draw_warps(dataset.names, level, 0)
        protocol.write_warps(protocol.warps_path(dataset.name, level, folder), dataset.name, level, 0, warps)
        matchers = {
            "identity": Identity(),
            "exact": Truthful(NAME, warps),
            "off": Truthful("off by two", warps, shift=2.0),
            "silent": Silent(),
        }
        for key, matcher in matchers.items():
            predict.predict(dataset, level, matcher, key, folder, dataset.names, folder)
        tables.append(score.score(dataset.name, level, folder, dataset.names, {"magic": "no <weights>"}, folder))
    return dataset, tables, folder


def test_the_table_carries_what_the_figures_need_and_the_json_does_not(made, tmp_path):
    _, (table, _), _ = made
    assert [row["key"] for row in table.rows][:2] == ["exact", "off"]
    assert np.allclose(table.detail.errors["off"], np.hypot(2, 2), atol=1e-3)
    assert np.isinf(table.detail.errors["silent"]).all()
    assert (np.abs(table.detail.rotations) <= 35).all()
    assert ((table.detail.scales >= 0.7) & (table.detail.scales <= 1.3)).all()
    path = write.write(table, tmp_path)
    stored = json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert "detail" not in stored
    assert stored["rows"][0]["SR@1"] == 1


def test_the_deformation_plot_stands_alone(made, tmp_path):
    _, (table, _), _ = made
    path = deformation.draw(table, tmp_path / "plot.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 600
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    with pytest.raises(ValueError, match="aggregate"):
        deformation.draw(dataclasses.replace(table, detail=None), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_infinite_numbers_become_null_in_the_json(made, tmp_path):
    table = made[1][0]
    rows = [row | {"CE90": float("inf")} for row in table.rows]
    path = write.write(dataclasses.replace(table, rows=rows), tmp_path)
    stored = json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert stored["rows"][0]["CE90"] is None
    assert "| inf |" in path.read_text()


def test_the_joined_report_holds_every_table_best_first_and_says_what_was_not_run(made, tmp_path):
    _, tables, folder = made
    assert write.write_report(tables, tmp_path, folder).name == "report.html"
    text = (tmp_path / "report.md").read_text()
    order = [text.index(part) for part in ("## toy-000, level tar", "off by two", "silent", "## toy-000, level hard")]
    assert order == sorted(order)
    assert text.count("| identity |") == 2
    assert text.count("- magic: not run: no <weights>") == 2
    assert 'a<b>"\\|&$x$ matcher | 100.0 |' in text
    assert text.index(published.MARK) > text.index("level hard")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_a_partial_run_has_its_own_report(made, tmp_path):
    table = dataclasses.replace(made[1][0], rows=[])
    assert write.write_report([table], tmp_path, made[2], limit=3).name == "report.limit3.html"
    assert (tmp_path / "report.limit3.md").is_file()


def test_no_tables_is_a_users_error(tmp_path):
    with pytest.raises(ValueError, match="no tables"):
        write.write_report([], tmp_path, tmp_path)


@given(
    st.floats(-179, 179), st.floats(0.5, 2), st.tuples(st.floats(-50, 50), st.floats(-50, 50)), st.floats(-4e-4, 4e-4)
)
def test_motion_is_the_similarity_at_the_centre_whatever_the_shift_and_tilt(angle, scale, shift, tilt):
    cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    similarity = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]])
    projective = np.array([[1, 0, 0], [0, 1, 0], [tilt, -tilt, 1]])
    centred = protocol.translation(99.5, 49.5) @ similarity @ projective @ protocol.translation(-99.5, -49.5)
    rotation, size = motion(centred * 3, (100, 200))  # a homography has no size of its own
    assert rotation == pytest.approx(angle, abs=1e-6)
    assert size == pytest.approx(scale)


def test_published_figures_are_whole_and_cited():
    for table in published.TABLES:
        assert all(len(values) == len(table.columns) for _, values in table.rows)
        assert "arXiv" in table.source
        assert [len(row) for row in table.cells] == [1 + len(table.columns)] * len(table.rows)
    assert published.TABLES[0].cells[0] == ["CRFT", "0.65", "99.0", "95.1", "89.9"]


def test_grid_sets_numbers_flush_right_and_keeps_bars():
    lines = grid(["variant", "of", "n"], [["a|b", "c", "1"]], text=2)
    assert lines == ["| variant | of | n |", "|---|---|---:|", "| a\\|b | c | 1 |"]
    assert grid(["x"], []) == ["| x |", "|---|"]
