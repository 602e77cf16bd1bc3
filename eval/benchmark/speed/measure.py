"""Time networks beside each other: the same images, in turns, so that what else the machine does hits all alike.

A group is one size, number of pairs and precision. In each round every contender is called once; a ratio to LoFTR is
that of the same round, and what is told is the median of all rounds, with the least and the most. On the CPU the peak
memory is that of a process of its own, libraries included; on an accelerator that of its tensors alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eval.benchmark.speed.ceiling import Ceiling, Work, ceiling, synchronize, work
from eval.benchmark.speed.contenders import CONTENDERS, Contender, Mode, Precision, contender
from eval.benchmark.speed.memory import peak_memory
from eval.peers.store import MatcherUnavailable, Store
from kornia_tar.raster.synthetic import draw_scene

REFERENCE = "loftr"


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        matchers: keys of ``CONTENDERS``.
        modes: of each matcher that has them.
        precisions: of the numbers.
        sizes: sides of the images, px.
        batches: pairs at once.
        device: where.
        threads: of the CPU.
        repeats: rounds.
        weights: folder of the peers' weights.
        checkpoint: TAR's; None for the one that the package ships.
        minutes: no group is begun later than that; None for no limit.
    """

    matchers: Sequence[str] = ("tar", "tar_one_look", "loftr")
    modes: Sequence[Mode] = ("eager", "fused")
    precisions: Sequence[Precision] = ("float32",)
    sizes: Sequence[int] = (512,)
    batches: Sequence[int] = (1,)
    device: str = "cpu"
    threads: int = 2
    repeats: int = 5
    weights: Path = Path("weights")
    checkpoint: Path | None = None
    minutes: float | None = None

    def groups(self) -> list[tuple[Precision, int, int]]:
        """Every precision, size and number of pairs; what is quick comes first."""
        return sorted(product(self.precisions, self.sizes, self.batches), key=lambda group: group[1] ** 2 * group[2])


class Spread(NamedTuple):
    """Of all rounds."""

    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Row:
    """A contender in one group; times of one pair."""

    key: str
    matcher: str
    about: str
    parameters: int
    mode: Mode
    precision: Precision
    size: int
    batch: int
    milliseconds: Spread
    peak_mib: float
    work: Work | None  # of one pair
    faster: Spread | None  # times, than LoFTR

    @property
    def pairs_per_second(self) -> float:
        """Pairs a second."""
        return 1000 / self.milliseconds.median

    @property
    def gflops(self) -> float | None:
        """10^9 operations a second."""
        return None if self.work is None else self.work.gflop * self.pairs_per_second


@dataclass
class Result:
    """All rows, the device's ceilings by precision, and what was not run, with the reason."""

    rows: list[Row] = field(default_factory=list)
    ceilings: dict[Precision, Ceiling] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


def images(size: int, batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the synthetic demo pair, grey, (batch, 1, size, size) floats in [0, 1]."""
    scene = draw_scene(seed=0, size=size)
    optical = torch.from_numpy(scene.optical).float().mean(-1) / 255
    sar = torch.from_numpy(scene.sar).float() / 255
    image0, image1 = (image[None, None].expand(batch, -1, -1, -1).contiguous().to(device) for image in (optical, sar))
    return image0, image1


def measure(plan: Plan, tick: Callable[[str], None] = lambda _: None) -> Result:
    """Measure all groups of a plan.

    Args:
        plan: what to measure.
        tick: told the name of each group that begins.

    Raises:
        ValueError: a matcher that there is not, or a device that torch does not see.
    """
    if unknown := sorted(set(plan.matchers) - set(CONTENDERS)):
        raise ValueError(f"no such matcher: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    torch.set_num_threads(plan.threads)
    device, result, began = torch.device(plan.device), Result(), time.monotonic()
    for precision in plan.precisions:
        result.ceilings[precision] = ceiling(device, getattr(torch, precision))
    for precision, size, batch in plan.groups():
        name = f"{size}×{size}, {batch} at once, {precision}"
        if plan.minutes is not None and time.monotonic() - began > 60 * plan.minutes:
            result.not_run[name] = f"{plan.minutes:g} minutes were over"
            continue
        tick(name)
        _group(plan, precision, size, batch, device, result)
    return result


@torch.inference_mode()
def _group(plan: Plan, precision: Precision, size: int, batch: int, device: torch.device, result: Result) -> None:
    """Measure one group; a contender that breaks down is left out, with the reason."""
    pair = images(size, batch, device)
    ready: dict[tuple[str, Mode], Contender] = {}
    needs: dict[tuple[str, Mode], tuple[float, Work | None]] = {}
    for key, mode in product(plan.matchers, plan.modes):
        own = f"{CONTENDERS[key][0]}, {mode}"
        if mode == "fused" and not key.startswith("tar"):
            continue  # only ours has blocks to fuse
        try:
            one = contender(key, _store(plan), device, mode, precision)
            needed = _first_calls(one, _Job(key, mode, precision, size, batch, plan.threads), plan, pair, device)
        except MatcherUnavailable as error:
            result.not_run[own] = str(error)
        except Exception as error:  # of any library, at any size: the others go on
            first = (str(error).splitlines() or [""])[0]
            result.not_run[f"{own}, {size}×{size}, {batch} at once, {precision}"] = f"{type(error).__name__}: {first}"
        else:
            ready[key, mode], needs[key, mode] = one, needed
    times = _rounds(ready, pair, device, plan.repeats)
    reference = times.get((REFERENCE, "eager"))
    for (key, mode), one in ready.items():
        seconds, (peak, asked) = times[key, mode], needs[key, mode]
        each = _spread(1000 * second / batch for second in seconds)
        faster = None
        if reference is not None:
            faster = _spread(theirs / ours for theirs, ours in zip(reference, seconds, strict=True))
        result.rows.append(
            Row(key, one.name, one.about, one.parameters, mode, precision, size, batch, each, peak, asked, faster)
        )


def _spread(values: Iterable[float]) -> Spread:
    known = list(values)
    return Spread(min(known), statistics.median(known), max(known))


def _rounds(
    ready: dict[tuple[str, Mode], Contender], pair: tuple[torch.Tensor, torch.Tensor], device: torch.device, count: int
) -> dict[tuple[str, Mode], list[float]]:
    """Seconds of each contender in each round."""
    times: dict[tuple[str, Mode], list[float]] = {which: [] for which in ready}
    for _ in range(count):
        for which, one in ready.items():
            synchronize(device)
            start = time.perf_counter()
            one.call(*pair)
            synchronize(device)
            times[which].append(time.perf_counter() - start)
    return times


def _first_calls(
    one: Contender, job: _Job, plan: Plan, pair: tuple[torch.Tensor, torch.Tensor], device: torch.device
) -> tuple[float, Work | None]:
    """Call a contender for the first times, which are slow; returns its peak memory in MiB, and its work on one pair.

    Compiled code hides its operators: its work is that of the eager network, which another row tells.
    """
    one.call(*pair)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        one.call(*pair)
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak = _peak_of_its_own(job, plan)
    asked = None if job.mode == "compiled" else work(lambda: one.call(pair[0][:1], pair[1][:1]))
    return peak, asked


@dataclass(frozen=True)
class _Job:
    """What a process of its own does: a contender, twice."""

    key: str
    mode: Mode
    precision: Precision
    size: int
    batch: int
    threads: int


def _peak_of_its_own(job: _Job, plan: Plan) -> float:
    told = asdict(job) | {"weights": str(plan.weights), "checkpoint": plan.checkpoint and str(plan.checkpoint)}
    done = subprocess.run(  # noqa: S603 - this file, with our own arguments
        [sys.executable, "-m", "eval.benchmark.speed.measure", json.dumps(told)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def _store(plan: Plan) -> Store:
    return Store(plan.weights, plan.checkpoint)


@torch.inference_mode()
def _peak(told: dict[str, Any]) -> float:
    """Peak resident memory of this process in MiB, libraries included, after two calls."""
    torch.set_num_threads(told["threads"])
    device = torch.device("cpu")
    checkpoint = told["checkpoint"] and Path(told["checkpoint"])
    one = contender(told["key"], Store(Path(told["weights"]), checkpoint), device, told["mode"], told["precision"])
    pair = images(told["size"], told["batch"], device)
    for _ in range(2):
        one.call(*pair)
    return peak_memory()


def groups_of(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Group rows by size, pairs at once and precision, each with its name."""
    seen: dict[tuple[int, int, str], list[Row]] = {}
    for row in rows:
        seen.setdefault((row.size, row.batch, row.precision), []).append(row)
    for (size, batch, precision), group in seen.items():
        yield f"{size}×{size}, {batch} at once, {precision}", sorted(group, key=lambda row: row.milliseconds.median)


if __name__ == "__main__":
    print(_peak(json.loads(sys.argv[1])))
