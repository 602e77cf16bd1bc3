"""What the words are worth, and what ignoring the flood brings: figures on toys, and the commands."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import small_matcher
from PIL import Image
from toys import add, texture

from eval.cli import main
from eval.studies.text.steering import FIGURES, ROWS, Steered, difference
from eval.studies.text.words import rank, roc_area
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import with_landcover
from kornia_tar.network.tafe import LandCoverConfig

WORDS = ["farmland", "forest", "industrial", "meadow", "mountain", "park", "parking", "pond", "residential", "river"]
FLOODED = "ombria-s1s2__test_0001_after"


def test_ranks_are_what_arithmetic_says():
    scores = np.array([[0.5, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    found = rank(scores, ["a", "a"], ["a", "b", "c", "d"])
    assert (found.images, found.first, found.third, found.words) == (2, 0.5, 0.5, 4)
    with pytest.raises(ValueError, match="no 'e'"):
        rank(scores, ["e", "a"], ["a", "b", "c", "d"])
    assert roc_area(np.array([3.0, 1.0, 2.0]), np.array([True, False, False])) == 1
    assert roc_area(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_warps_of_one_place_count_as_one():
    figures = {row: np.zeros((4, 4)) for row in ROWS}
    figures["true mask"][:, 0] = [4, 0, 4, 4]
    mean, error = difference(Steered(["a", "a", "b", "b"], figures), "true mask", 0)
    assert mean == 3 and error == pytest.approx(np.std([2, 4], ddof=1) / 2**0.5)


@pytest.fixture
def data(tmp_path):
    """A folder of the four data sets with a few toy images, and weights with a land-cover head."""

    def picture(seed: int, channels: int = 1) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(texture(seed, 256, channels)).save(buffer, "webp", lossless=True)
        return buffer.getvalue()

    with tarfile.open(tmp_path / "optical_only-000.tar", "w") as tar:
        for k, name in enumerate(("rsscn7__eForest_e003", "rsscn7__gParking_g006")):
            add(tar, f"{name}.optical.webp", picture(k))
    with tarfile.open(tmp_path / "optical_only-101.tar", "w") as tar:
        for k, word in enumerate(("forest", "river", "pond")):
            add(tar, f"whurs19__{word}_8.optical.webp", picture(k))
            add(tar, f"whurs19__{word}_8.json", json.dumps({"class": word}).encode())
    with tarfile.open(tmp_path / "val-000.tar", "w") as tar:
        for k, name in enumerate(("sen12-a__river_test_1", "sen12-a__forest_test_2", FLOODED)):
            add(tar, f"{name}.optical.webp", picture(k, 3))
            add(tar, f"{name}.sar.webp", picture(k + 9))
            add(tar, f"{name}.json", b"{}")
    mask = np.zeros((256, 256), np.uint8)
    mask[:90] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("1").save(buffer, "PNG")
    with tarfile.open(tmp_path / "ombria-floods.tar", "w") as tar:
        add(tar, f"{FLOODED}.flood.png", buffer.getvalue())
    net = small_matcher().net
    config = LandCoverConfig(text_dim=16, classes=len(WORDS), width=8, hidden=16, windows=(3,))
    net = with_landcover(net, config)
    text = F.normalize(torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(1)), dim=1)
    net.landcover.set_text(text)
    net.tafe.set_text(text)
    seen = [word for word in WORDS if word not in ("river", "pond")]
    info = {"text": {"encoder": "e", "names": WORDS}, "landcover": {"seen": seen}}
    save_checkpoint(tmp_path / "w.safetensors", net, info)
    return tmp_path


def test_one_command_measures_all_that_the_words_are_worth(data, capsys):
    weights = ["--checkpoint", str(data / "w.safetensors"), "--out", str(data / "out")]
    assert main(["study", "landcover", "--data", str(data), *weights]) == 0
    told = json.loads((data / "out" / "words.json").read_text())
    assert told["whurs19"]["images"] == 3 and told["unseen"]["among_unseen"]["words"] == 2
    assert set(told["floods"]) == {"optical", "sar"} and told["floods"]["sar"]["everything"] == pytest.approx(90 / 256)
    printed = capsys.readouterr().out
    assert "floods, sar, 1 images: IoU" in printed and "WHU-RS19's held-out 3" in printed and "8 words seen" in printed
    (data / "val-000.tar").unlink()
    assert main(["study", "landcover", "--data", str(data), *weights]) == 1
    assert "val-000.tar" in capsys.readouterr().err


@pytest.mark.slow  # five runs of the matcher
def test_the_flood_is_ignored_in_five_ways(data, capsys):
    common = ["--draws", "1", "--out", str(data / "out"), "--checkpoint", str(data / "w.safetensors")]
    assert main(["study", "steering", "--data", str(data), *common]) == 0
    told = json.loads((data / "out" / "steering.json").read_text())
    assert list(told["rows"]) == list(ROWS) and told["pairs"] == 1
    assert 20 < told["rows"]["true mask"][FIGURES[3]] < 50 and told["rows"]["off"][FIGURES[3]] == 0
    assert "| mask of equal area |" in capsys.readouterr().out
