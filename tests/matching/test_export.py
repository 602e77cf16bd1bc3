"""The exported matcher says what the matcher says."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import demo_middle

from kornia_tar import TARMatcher
from kornia_tar.cli.main import main
from kornia_tar.matching.export import FixedMatcher, compare, write_exported


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of the drawn scene, of unlike sizes that are no multiples of 16."""
    optical, sar, _ = demo_middle(side=128)
    one, other = (torch.from_numpy(image).float()[None, None] / 255 for image in (optical.mean(2).round(), sar))
    return one[..., :120, :], other[..., :104]


def expected(matcher: TARMatcher, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The matcher's own matches, the most confident first."""
    with torch.no_grad():
        found = matcher({"image0": pair[0], "image1": pair[1], "modality0": "optical", "modality1": "sar"})
    order = found["confidence"].argsort(descending=True)
    return {key: found[key][order] for key in ("keypoints0", "keypoints1", "confidence", "std")}


@pytest.mark.parametrize("looks", [1, 2])
def test_every_match_of_the_matcher_comes_out(pair, looks):
    matcher = TARMatcher(threshold=0.05, looks=looks, turns=1, scales=1)
    own = expected(matcher, pair)
    assert len(own["confidence"]) > 50
    found = FixedMatcher(matcher, matches=4096)(*pair)
    valid = found.pop("valid")
    assert int(valid.sum()) == len(own["confidence"]) and not found["confidence"][~valid].any()
    for key, value in own.items():
        assert torch.allclose(found[key][valid], value, atol=1e-3), key


def test_a_stated_number_of_matches_comes_out_the_most_confident_ones(pair):
    matcher = TARMatcher(turns=1, scales=1)
    found, own = FixedMatcher(matcher, matches=20)(*pair), expected(matcher, pair)
    assert all(len(value) == 20 for value in found.values()) and found["valid"].all()
    assert torch.allclose(found["confidence"], own["confidence"][:20], atol=1e-5)


def test_modalities_are_inferred_where_none_is_told(pair):
    matcher = TARMatcher(turns=1, scales=1)
    found = FixedMatcher(matcher, None, None)(*pair)
    own = matcher({"image0": pair[0], "image1": pair[1]})
    assert int(found["valid"].sum()) == len(own["confidence"])


def test_what_cannot_be_exported_is_refused(pair, tmp_path):
    fixed = FixedMatcher(TARMatcher(pretrained=None))
    for size, name, told in (((16, 64), "m.onnx", "at least"), ((640, 640), "m.onnx", "too many"),
                             ((64, 64), "m.txt", "suffix")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            write_exported(tmp_path / name, fixed, size, size)
    with pytest.raises(ValueError, match="alone"):
        write_exported(tmp_path / "m.pt2", fixed, (64, 64), (64, 64), "float16")
    with pytest.raises(ValueError, match="at least 1"):
        FixedMatcher(TARMatcher(pretrained=None), matches=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow(reason="torch and ONNX take a minute or two to trace and write both looks")
@pytest.mark.parametrize(("name", "precision", "most"), [
    ("m.onnx", "float32", 1e-3), ("m.onnx", "float16", 0.02), ("m.pt2", "float32", 1e-3),
])  # fmt: skip
def test_a_file_says_what_the_matcher_says(pair, tmp_path, name, precision, most):
    pytest.importorskip("onnxruntime")
    fixed = FixedMatcher(TARMatcher(turns=1, scales=1))
    sizes = [tuple(image.shape[2:]) for image in pair]
    write_exported(tmp_path / name, fixed, *sizes, precision)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    found = compare(tmp_path / name, fixed, *pair)
    assert found.expected > 50 and found.farthest < most and found.matches == found.expected


@pytest.mark.slow(reason="torch takes half a minute to trace and write one look")
def test_the_command_writes_a_file_that_it_has_checked(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "new" / "one_look.onnx"
    assert main(["export", str(out), "--size", "64", "96", "--looks", "1", "--precision", "float16"]) == 0
    told = re.search(r"MB; (\d+) matches of a drawn scene, (\d+) of the matcher, (\S+) px", capsys.readouterr().out)
    assert told and int(told[1]) > 0 and float(told[3]) < 0.1 and out.stat().st_size > 2**20
    assert main(["export", str(out), "--size", "64", "--looks", "1"]) == 1
    assert "--overwrite" in capsys.readouterr().err
