"""The truth of the land-cover map: the rule, its controls, the command on toy images, and the shipped weights."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from helpers import ERROR_SCALE, needs_weights, small_matcher
from PIL import Image
from toys import add, texture

from eval.cli import main
from eval.studies.landcover import RSSCN7, SEN12, Label, Scenes, compare, decide, measure, read_scenes, score
from kornia_tar import TARMatcher
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.training.data import SCENES

LABELS = (Label("green", "g", ("meadow", "park")), Label("wet", "w", ("pond",)))
TEXT = ("pond", "desert", "park", "meadow")


def scenes(scores: list[list[float]], truth: list[int]) -> Scenes:
    names = [f"image {k}" for k in range(len(truth))]
    return Scenes("optical", LABELS, names, np.array(truth), TEXT, np.array(scores), np.zeros((len(truth), 2, 2), int))


def test_the_highest_of_the_classes_words_decides():
    given = np.array([[0.3, 0.9, 0.1, 0.2], [0.2, 0.0, 0.1, 0.3], [0.2, 0.0, 0.15, 0.15]])
    assert decide(given, TEXT, LABELS, corrected=False).tolist() == [1, 0, 1]  # words do not add up


def test_the_correction_takes_a_words_habit_away():
    given = np.array([[0.8, 0.1, 0.01, 0.09], [0.6, 0.1, 0.01, 0.29]])  # "pond" is always the highest
    assert decide(given, TEXT, LABELS, corrected=False).tolist() == [1, 1]
    assert decide(given, TEXT, LABELS, corrected=True).tolist() == [1, 0]


def test_figures_are_what_arithmetic_says():
    wet, green = [0.9, 0, 0, 0.1], [0.1, 0, 0, 0.9]
    row = score(scenes([wet, wet, wet, green], [1, 1, 0, 0]), corrected=False)
    assert row.images == 4 and row.right == 0.75 and row.error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert row.balanced == 0.75 and row.even == 0.5 and row.largest == 0.5
    assert row.dealt == pytest.approx((2 * 1 + 2 * 3) / 16)
    assert row.confusion == {"green": {"green": 1, "wet": 1}, "wet": {"green": 0, "wet": 2}}


def test_shuffled_names_know_nothing_of_a_map_that_is_right():
    words, truth = [[0.9, 0.1, 0.2, 0.3], [0.2, 0.1, 0.3, 0.9]] * 20, [1, 0] * 20
    row = score(scenes(words, truth), corrected=False)
    assert row.right == 1 and 0.3 < row.shuffled < 0.7 and row.shuffled <= row.shuffled_95


def test_a_map_of_the_frame_is_the_same_everywhere():
    frame = np.array([[0, 1], [2, -1]])
    ground = np.array([[0, 1], [2, -1]]), np.array([[3, 3], [3, -1]])

    def parts(*maps: np.ndarray) -> list[Scenes]:
        whole = scenes([[1.0, 0, 0, 0]] * 2, [0, 1])
        return [replace(whole, modality=m, dominant=np.stack(maps)) for m in ("optical", "sar")]

    found = compare(parts(frame, frame))
    assert found.one_place == 1 and found.two_places == 1 and found.chance == pytest.approx(1 / 3)
    found = compare(parts(*ground))
    assert found.one_place == 1 and found.two_places == 0 and found.chance == 0
    assert compare(parts(*ground)[:1]).one_place is None


def test_training_named_the_scenes_by_words_that_stand_for_them():
    for label in (*SEN12, *RSSCN7):
        assert SCENES[label.mark] in label.words
    assert len(SCENES) == len(SEN12) + len(RSSCN7)


def test_images_that_training_knew_by_name_are_not_asked(weights, tmp_path):
    names = [f"rsscn7__eForest_e{k:03}" for k in (1, 2, 3, 103, 203, 6)]
    data = write_images(tmp_path / "toy.tar", names, ("optical",))
    (part,) = read_scenes(data, TARMatcher(weights))
    assert sorted(name[-3:] for name in part.names) == ["003", "006", "103", "203"]


@pytest.fixture
def weights(tmp_path):
    names = sorted({word for label in (*SEN12, *RSSCN7) for word in label.words})
    path = tmp_path / "toy.safetensors"
    matcher = small_matcher()
    matcher.net.tafe.tokens = matcher.net.tafe.tokens[0].expand(len(names), -1).clone()
    matcher.net.tafe.tokens[names.index("river")] *= -1  # so that it is the highest or the lowest everywhere
    save_checkpoint(path, matcher.net, {"text": {"encoder": "e", "names": names}})
    return path


def write_images(path, names: list[str], parts: tuple[str, ...]):
    with tarfile.open(path, "w") as tar:
        for k, name in enumerate(names):
            for part in parts:
                buffer = io.BytesIO()
                Image.fromarray(texture(k, 64)).save(buffer, "webp", lossless=True)
                add(tar, f"{name}.{part}.webp", buffer.getvalue())
    return path


def test_the_command_reads_both_modalities_and_passes_other_sets_over(weights, tmp_path, capsys):
    names = ["sen12-a__river_test_1", "sen12-a__forest_test_2", "sen12-a__unheard_test_3", "volkov__river_1"]
    data = write_images(tmp_path / "toy-000.tar", names, ("optical", "sar"))
    out = tmp_path / "out"
    assert main(["study", "landcover", "--data", str(data), "--checkpoint", str(weights), "--out", str(out)]) == 0
    rows = json.loads((out / "toy-000.landcover.json").read_text())["rows"]
    assert [(row["modality"], row["corrected"]) for row in rows] == [
        ("optical", False), ("optical", True), ("sar", False), ("sar", True),
    ]  # fmt: skip
    assert all(row["images"] == 2 for row in rows)
    assert {true: sum(given.values()) for true, given in rows[0]["confusion"].items()} == {
        "agriculture": 0, "forest": 1, "gorge": 0, "residential": 0, "river": 1,
    }  # fmt: skip
    assert json.loads((out / "toy-000.landcover.json").read_text())["cells"]["one_place"] is not None
    assert "| sar | prior-corrected | 2 |" in capsys.readouterr().out


def test_what_cannot_be_measured_is_one_line(weights, tmp_path, capsys):
    (tmp_path / "text.tar").write_text("no tar")
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, small_matcher().net, {"text": {"names": ["forest", "b", "c", "d"]}})
    mixed = ["rsscn7__aGrass_a003", "sen12-a__river_test_1"]
    cases = {
        "absent.tar": (tmp_path / "absent.tar", weights),
        "text.tar": (tmp_path / "text.tar", weights),
        "no image": (write_images(tmp_path / "none.tar", ["volkov__1"], ("optical",)), weights),
        "rsscn7 and sen12": (write_images(tmp_path / "mixed.tar", mixed, ("optical",)), weights),
        "'meadow'": (write_images(tmp_path / "grass.tar", mixed[:1], ("optical",)), other),
    }
    for named, (data, checkpoint) in cases.items():
        arguments = ["study", "landcover", "--data", str(data), "--checkpoint", str(checkpoint), "--out", str(tmp_path)]
        assert main(arguments) == 1, named
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and named in error, (named, error)


@pytest.mark.slow  # a check of the shipped weights, which eval measures
@needs_weights
@pytest.mark.skipif(not (ERROR_SCALE / "data" / "optical_only-000.tar").is_file(), reason="no RSSCN7 in ../shared/data")
def test_the_shipped_map_knows_rsscn7s_scenes_better_than_chance():
    rows, same = measure(ERROR_SCALE / "data" / "optical_only-000.tar", TARMatcher().fuse(), limit=35)
    assert rows[0].right > 1 / 7 + 0.08  # 31 % of all 248
    assert same.two_places < same.chance + 0.05  # no map of the frame
