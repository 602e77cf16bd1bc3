"""What is asked where there is nothing to find, and the table of the answers."""

from __future__ import annotations

import numpy as np
import pytest

from eval import cli
from eval.benchmark import protocol
from eval.datasets import open_dataset
from eval.peers import Matches
from eval.studies import negatives


class Hopeful:
    """States 0.9 of a single match wherever both images have any contrast."""

    name, parameters, settings = "hopeful", 0, "toy"

    def match(self, image0, image1, **hints):
        assert hints == {"modality0": "optical", "modality1": "sar"}
        count = int(np.ptp(image0) > 0 and np.ptp(image1) > 0)
        point = np.zeros((count, 2), np.float32)
        return Matches(point, point, np.full(count, 0.9, np.float32))


@pytest.fixture
def dataset(tar, tmp_path, monkeypatch):
    (found,) = open_dataset(tar)
    monkeypatch.setattr("eval.benchmark.protocol.WARPS", tmp_path)
    warps = protocol.draw_warps(found.names, "tar", 0)
    protocol.write_warps(protocol.warps_path("toy-000", "tar", tmp_path), "toy-000", "tar", 0, warps)
    return found


def test_flat_ground_has_no_contrast_and_places_are_two(dataset):
    ticks = []
    found = {row.kind: row for row in negatives.measure(Hopeful(), dataset, "tar", 3, 2, ticks.append)}
    assert list(found) == [*negatives.NOISE, negatives.PLACES] and len(ticks) == 2 * 5 + 3
    assert found["flat ground"].sure == [0, 0] and found["flat ground"].mean == [0.0, 0.0]
    assert found["white noise"].sure == [1, 1] and found[negatives.PLACES].sure == [1, 1, 1]
    pairs = [images for kind, *images in negatives.questions(dataset, "tar", 3, 1) if kind == negatives.PLACES]
    assert all(np.corrcoef(a.mean(-1).ravel(), b.ravel())[0, 1] < 0.5 for a, b in pairs)


def test_the_command_writes_a_table(dataset, tar, tmp_path, capsys):
    words = ["study", "negatives", "--data", str(tar), "--matcher", "sift", "--places", "2", "--noises", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "toy-000.tar.negatives.md").read_text()
    assert "| images of different places | 2 |" in text and text in capsys.readouterr().out
