"""A run's log and bar: means of the steps since the last line, and what both look like."""

from __future__ import annotations

import json

import pytest
import torch

from kornia_tar.training.progress import Progress


def terms(accuracy: float, precision: float) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(x) for name, x in (("accuracy", accuracy), ("identity", 0.125), ("precision", precision))
    }


def take(shown: Progress, accuracies: list[float], first: int = 1) -> None:
    for step, accuracy in enumerate(accuracies, first):
        shown.add(
            terms(accuracy, accuracy / 2), pairs=8, progress=step / 10, step=step, seconds=6.0 * step, lr=1e-3 * step,
            size=128, ease=1 / 3,
        )  # fmt: skip


def test_a_line_holds_the_means_of_its_steps_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    with Progress(path, 2, "precision@3 {precision:.3f}") as shown:
        take(shown, [0.1, 0.2, 0.5, 0.7, 0.9])
        lines = [json.loads(line) for line in path.read_text().splitlines()]  # on disk while the run goes on
    assert [line["accuracy"] for line in lines] == pytest.approx([0.15, 0.6])
    assert [line["step"] for line in lines] == [2, 4]
    assert [line["minutes"] for line in lines] == [0.2, 0.4] and [line["lr"] for line in lines] == [2e-3, 4e-3]
    assert lines[0]["size"] == 128 and lines[0]["ease"] == 0.333 and lines[0]["pairs_per_s"] > 0
    assert list(lines[0]) == [
        "accuracy", "identity", "precision", "step", "minutes", "lr", "size", "ease", "pairs_per_s",
    ]  # fmt: skip


def test_the_bar_tells_speed_accuracy_and_what_the_run_wants_told(tmp_path, capsys):
    with Progress(tmp_path / "log.jsonl", 1, "precision@3 {precision:.3f}") as shown:
        take(shown, [0.5])
        speed = json.loads((tmp_path / "log.jsonl").read_text())["pairs_per_s"]
    last = capsys.readouterr().err.rsplit("\r")[-1]
    assert last.lstrip().startswith("10%|")
    assert f"{speed} pairs/s · coarse accuracy 0.500 (identity 0.125) · precision@3 0.250" in last


def test_a_resumed_run_appends_and_a_new_one_starts_over(tmp_path):
    path = tmp_path / "log.jsonl"
    for resume, steps in ((False, [1]), (True, [1, 2]), (False, [3])):
        with Progress(path, 1, "", resume) as shown:
            take(shown, [0.5], first=steps[-1])
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == steps
