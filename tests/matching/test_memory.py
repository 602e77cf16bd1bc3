"""What will not fit is said beforehand, in one line."""

from pathlib import Path

import pytest
import torch

from kornia_tar.cli.main import main
from kornia_tar.matching import memory
from kornia_tar.matching.memory import available_memory, check_memory, forward_memory
from kornia_tar.raster import write_image
from tests.helpers import picture, small_matcher

CPU = torch.device("cpu")


def test_the_estimate_is_what_was_measured():
    """Peak beside the weights and images, MiB, of one forward of the shipped weights on a CPU."""
    for side, masked, measured in ((512, False, 125), (1024, False, 400), (512, True, 115), (1024, True, 395)):
        estimate = forward_memory(CPU, (side, side), (side, side), masked=masked) / 2**20
        assert 0.8 * measured < estimate < 1.25 * measured, (side, masked)
    # Twice the side, four times the memory, however large the images are.
    assert forward_memory(CPU, (4096, 4096), (4096, 4096)) == 4 * forward_memory(CPU, (2048, 2048), (2048, 2048))


def test_what_does_not_fit_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 2**30)
    check_memory(CPU, (512, 512), (512, 512))
    with pytest.raises(ValueError, match=r"a pair of 3000×1440 and 1440×1440 px needs about 1\.3 GiB .* 1\.0 GiB are "
                       r"available on cpu: reduce or crop .* kornia-tar register"):  # fmt: skip
        check_memory(CPU, (1440, 3000), (1440, 1440))
    monkeypatch.setattr(memory, "LEAST", 0)
    monkeypatch.setattr(memory, "available_memory", lambda device: 2**20)
    matcher, image = small_matcher(), picture(0, 64, 64)
    with pytest.raises(ValueError, match="64×64 px needs about"):
        matcher({"image0": image, "image1": image})
    monkeypatch.setattr(memory, "available_memory", lambda device: None)  # nobody knows
    assert len(matcher({"image0": image, "image1": image})["confidence"])


def test_match_says_so_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(memory, "LEAST", 0)
    monkeypatch.setattr(memory, "available_memory", lambda device: 2**20)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, (picture(0, 64, 96)[0, 0] * 255).byte().numpy())
    code = main(["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "m.h5")])
    error = capsys.readouterr().err
    assert code == 1 and error.count("\n") == 1 and "96×64 px needs about" in error
    assert not (tmp_path / "m.h5").exists()


def test_available_memory_knows_a_limit_of_the_process(monkeypatch):
    there = available_memory(CPU)
    assert there is None or there > 2**26
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (taken + 2**26, resource.RLIM_INFINITY))
    assert 0 <= available_memory(CPU) <= 2**26 + 2**24


def test_available_memory_knows_a_container_of_either_version(tmp_path):
    group = tmp_path / "box" / "inner"
    group.mkdir(parents=True)
    for folder, most in ((group, "max"), (group.parent, "1000")):
        (folder / "memory.max").write_text(most)
        (folder / "memory.current").write_text("700")
        (folder / "memory.stat").write_text("anon 300\ninactive_file 400\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/box/inner\n")
    assert memory._of_groups(tmp_path, own) == [700]  # files in the cache are given back
    old = tmp_path / "memory" / "old"
    old.mkdir(parents=True)
    for name, value in (("limit_in_bytes", "500"), ("usage_in_bytes", "100"), ("stat", "total_inactive_file 0")):
        (old / f"memory.{name}").write_text(value)
    own.write_text("5:cpu:/\n4:memory:/old\n")
    assert memory._of_groups(tmp_path, own) == [400]
    assert memory._of_groups(tmp_path, tmp_path / "none") == []
