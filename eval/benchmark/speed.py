"""Speed and memory beside ``kornia.feature.LoFTR``, on one pair of 512×512.

Neither needs trained weights for this. LoFTR with random weights finds next to no match, so its fine stage is idle: the
comparison is in its favour. Seconds: one process, the same images, median of warm runs. Memory: peak resident
size of a process of its own, libraries included.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch

KINDS = ("TAR", "LoFTR")


def build(kind: str, checkpoint: Path | None) -> Callable[[dict[str, torch.Tensor]], object]:
    """Make a matcher: TAR fused, as its command line uses it, or kornia's LoFTR with random weights."""
    if kind == "TAR":
        from kornia_tar import TARMatcher

        return TARMatcher("optical-sar" if checkpoint is None else checkpoint).fuse()
    from kornia.feature import LoFTR
    from kornia.feature.loftr.loftr import default_cfg

    return LoFTR(pretrained=None, config=deepcopy(default_cfg)).eval()


def images(size: int) -> dict[str, torch.Tensor]:
    """The synthetic demo pair, grey, (1, 1, size, size) floats in [0, 1]."""
    from kornia_tar.raster.synthetic import draw_scene

    scene = draw_scene(seed=0, size=size)
    optical = torch.from_numpy(scene.optical).float().mean(-1) / 255
    return {"image0": optical[None, None], "image1": torch.from_numpy(scene.sar)[None, None].float() / 255}


@torch.inference_mode()
def seconds(kind: str, checkpoint: Path | None, size: int, repeats: int) -> float:
    """Median seconds of a warm call."""
    matcher, data = build(kind, checkpoint), images(size)
    matcher(data)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        matcher(data)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def peak(kind: str, checkpoint: Path | None, size: int) -> float:
    """Peak resident memory of this process in MiB, libraries included, after two calls on noise."""
    matcher, noise = build(kind, checkpoint), torch.rand(2, 1, 1, size, size)
    for _ in range(2):
        matcher({"image0": noise[0], "image1": noise[1]})
    return peak_memory()


def peak_memory() -> float:
    """Peak resident memory of this process so far in MiB, libraries included."""
    try:
        # getrusage would also count what a forking parent held.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def compare(checkpoint: Path | None = None, size: int = 512, threads: int = 2, repeats: int = 5) -> dict[str, float]:
    """Measure both; returns seconds, MiB and their ratios."""
    torch.set_num_threads(threads)
    result: dict[str, float] = {}
    for kind in KINDS:
        result[f"{kind} seconds"] = seconds(kind, checkpoint, size, repeats)
        job = json.dumps({"kind": kind, "checkpoint": checkpoint and str(checkpoint), "size": size, "threads": threads})
        done = subprocess.run(  # noqa: S603 - this file, with our own arguments
            [sys.executable, "-m", "eval.benchmark.speed", job], capture_output=True, text=True, check=True
        )
        result[f"{kind} peak MiB"] = float(done.stdout)
    result["times faster"] = result["LoFTR seconds"] / result["TAR seconds"]
    result["memory ratio"] = result["LoFTR peak MiB"] / result["TAR peak MiB"]
    return result


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    torch.set_num_threads(wanted["threads"])
    print(peak(wanted["kind"], wanted["checkpoint"] and Path(wanted["checkpoint"]), wanted["size"]))
