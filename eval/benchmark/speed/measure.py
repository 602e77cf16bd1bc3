"""Time networks beside each other: the same images, in turns, so that what else the machine does hits all alike.

A group is one precision, size and number of pairs. In each round every contender is called once; a ratio to LoFTR is
that of the same round, and what is told is the median of all rounds, with the least and the most. On the CPU the peak
memory is that of a process of its own, libraries included; on CUDA that of the network's weights and tensors.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eval.benchmark.speed.ceiling import Ceiling, Work, count_work, measure_ceiling, seconds
from eval.benchmark.speed.contenders import CONTENDERS, Contender, Mode, Precision, build_contender
from eval.benchmark.speed.memory import peak_memory
from eval.peers.store import MatcherUnavailable, Store
from kornia_tar.files import one_line
from kornia_tar.raster.synthetic import draw_scene

REFERENCE: tuple[str, Mode] = ("loftr", "eager")
PATIENCE = 600  # seconds that a process which measures memory may take
Images = tuple[torch.Tensor, torch.Tensor]


class Group(NamedTuple):
    """What is measured together."""

    precision: Precision
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.size}×{self.size}, {self.batch} at once, {self.precision}"


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        matchers: keys of ``CONTENDERS``.
        modes: of each matcher that has them; what cannot be fused runs eagerly beside what can.
        precisions: of the numbers.
        sizes: sides of the images, px.
        batches: pairs at once.
        device: where.
        threads: of the CPU.
        repeats: rounds.
        weights: folder of the peers' weights.
        checkpoint: TAR's; None for the one that the package ships.
        minutes: no contender is made ready, and no round begun but the first, later than that; None for no limit.
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

    def groups(self) -> list[Group]:
        """Every precision, size and number of pairs; what is quick comes first."""
        groups = (Group(*parts) for parts in product(self.precisions, self.sizes, self.batches))
        return sorted(groups, key=lambda group: group.size**2 * group.batch)

    def contenders(self) -> list[tuple[str, Mode]]:
        """Each matcher in the modes it has; compiled ones last, for compiling takes minutes."""
        found: dict[tuple[str, Mode], None] = {}
        for key, mode in product(self.matchers, self.modes):
            if mode in CONTENDERS[key].modes:
                found[key, mode] = None
            elif mode == "fused":
                found[key, "eager"] = None
        return sorted(found, key=lambda which: which[1] == "compiled")


class Spread(NamedTuple):
    """Of all rounds."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum values up."""
        known = list(values)
        return cls(min(known), statistics.median(known), max(known))


@dataclass(frozen=True)
class Row:
    """A contender in one group; times are of one pair."""

    key: str
    matcher: str
    mode: Mode
    about: str
    parameters: int
    group: Group
    milliseconds: Spread
    faster: Spread | None  # times, than LoFTR
    peak_mib: float | None
    work: Work | None  # of one pair

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

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    ceilings: dict[Precision, Ceiling] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def groups(self) -> Iterator[tuple[Group, list[Row]]]:
        """Each group with its rows, the quickest first."""
        for group in dict.fromkeys(row.group for row in self.rows):
            rows = (row for row in self.rows if row.group == group)
            yield group, sorted(rows, key=lambda row: row.milliseconds.median)


def images(size: int, batch: int, device: torch.device) -> Images:
    """Return the synthetic demo pair, grey, (batch, 1, size, size) floats in [0, 1]."""
    scene = draw_scene(seed=0, size=size)
    optical = torch.from_numpy(scene.optical).float().mean(-1) / 255
    sar = torch.from_numpy(scene.sar).float() / 255
    image0, image1 = (image[None, None].expand(batch, -1, -1, -1).contiguous().to(device) for image in (optical, sar))
    return image0, image1


def measure(plan: Plan, done: Callable[[Result, Group], None] = lambda *_: None) -> Result:
    """Measure all groups of a plan.

    Args:
        plan: what to measure.
        done: told what there is after each group, so that it can be kept whatever comes.

    Returns:
        all rows; what breaks down, or takes longer than there is time, is told in ``not_run`` and the others go on.
    """
    torch.set_num_threads(plan.threads)
    with _no_shorter_numbers():
        run = _Run(plan)
        for group in plan.groups():
            run.measure(group)
            done(run.result, group)
    return run.result


@contextmanager
def _no_shorter_numbers() -> Iterator[None]:
    """Keep float32 what it says: cuDNN's convolutions are in TF32 by default."""
    known = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = known


class _Run:
    """The measurement of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.result, self._device = plan, Result(plan), torch.device(plan.device)
        self._end = math.inf if plan.minutes is None else time.monotonic() + 60 * plan.minutes
        for precision in plan.precisions:
            with self._isolated(f"ceiling, {precision}"):
                self.result.ceilings[precision] = measure_ceiling(self._device, getattr(torch, precision))

    @contextmanager
    def _isolated(self, name: str) -> Iterator[None]:
        """Tell what breaks down in ``not_run``, of any library and at any size, and go on."""
        try:
            yield
        except MatcherUnavailable as error:
            self.result.not_run[name] = str(error)
        except Exception as error:
            self.result.not_run[name] = f"{type(error).__name__}: {one_line(error)}"
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def _late(self) -> bool:
        return time.monotonic() > self._end

    @torch.no_grad()
    def measure(self, group: Group) -> None:
        """Measure one group."""
        if "compiled" in self.plan.modes:
            torch._dynamo.reset()  # else its limit of versions of one function is reached, and it runs eagerly
        pair = images(group.size, group.batch, self._device)
        ready: dict[tuple[str, Mode], tuple[Contender, float | None, Work | None]] = {}
        for key, mode in self.plan.contenders():
            name = f"{CONTENDERS[key].name}, {mode}, {group}"
            if self._late:
                self.result.not_run[name] = f"the {self.plan.minutes:g} minutes were over"
                continue
            with self._isolated(name):
                store = Store(self.plan.weights, self.plan.checkpoint)
                one = build_contender(key, store, self._device, mode, group.precision)
                ready[key, mode] = one, *self._first_calls(one, group, pair)
        times = self._rounds({which: one for which, (one, *_) in ready.items()}, group, pair)
        reference = times.get(REFERENCE)
        for which, rounds in times.items():
            one, peak, work = ready[which]
            each = Spread.of(1000 * taken / group.batch for taken in rounds)
            pairs = [] if reference is None else list(zip(reference, rounds, strict=False))
            faster = Spread.of(theirs / ours for theirs, ours in pairs) if pairs else None
            row = Row(one.key, one.name, one.mode, one.about, one.parameters, group, each, faster, peak, work)
            self.result.rows.append(row)

    def _rounds(
        self, ready: dict[tuple[str, Mode], Contender], group: Group, pair: Images
    ) -> dict[tuple[str, Mode], list[float]]:
        """Seconds of each contender in each round; one that breaks down has none."""
        times: dict[tuple[str, Mode], list[float]] = {which: [] for which in ready}
        for number in range(self.plan.repeats):
            if number and self._late:
                break
            order = list(times)
            for which in order[number % max(len(order), 1) :] + order[: number % max(len(order), 1)]:
                taken = None
                with self._isolated(f"{ready[which].name}, {which[1]}, {group}"):
                    taken = seconds(partial(ready[which].call, *pair), self._device)
                if taken is None:
                    del times[which]
                else:
                    times[which].append(taken)
        return times

    def _first_calls(self, one: Contender, group: Group, pair: Images) -> tuple[float | None, Work | None]:
        """Call a contender for the first times, which are slow; returns its peak memory in MiB, and its work on a pair.

        Compiled code hides its operators, and compiling takes more memory than running: neither is told of it on a CPU.
        """
        one.call(*pair)
        work = None if one.mode == "compiled" else count_work(lambda: one.call(pair[0][:1], pair[1][:1]))
        if self._device.type == "cuda":
            held = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            one.call(*pair)
            return (torch.cuda.max_memory_allocated(self._device) - held) / 2**20 + one.weight, work
        if self._device.type != "cpu" or one.mode == "compiled":
            return None, work
        return _peak_of_its_own(one.key, one.mode, group, self.plan), work


def _peak_of_its_own(key: str, mode: Mode, group: Group, plan: Plan) -> float:
    """Peak memory of a process of its own that calls a contender twice, MiB."""
    told = {"key": key, "mode": mode, "threads": plan.threads, **group._asdict()}
    told |= {"weights": str(plan.weights), "checkpoint": plan.checkpoint and str(plan.checkpoint)}
    done = subprocess.run(  # noqa: S603 - this file, with our own arguments
        [sys.executable, "-m", "eval.benchmark.speed.measure", json.dumps(told)],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MatcherUnavailable(f"its process for the memory ended: {last}")
    return float(done.stdout.splitlines()[-1])


@torch.inference_mode()
def _peak(told: dict[str, Any]) -> float:
    """Peak resident memory of this process in MiB, libraries included, after two calls."""
    torch.set_num_threads(told["threads"])
    device, checkpoint = torch.device("cpu"), told["checkpoint"] and Path(told["checkpoint"])
    store = Store(Path(told["weights"]), checkpoint)
    one = build_contender(told["key"], store, device, told["mode"], told["precision"])
    pair = images(told["size"], told["batch"], device)
    for _ in range(2):
        one.call(*pair)
    return peak_memory()


def plain(result: Result) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "plan": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result.plan).items()},
        "rows": [asdict(row) for row in result.rows],
        "ceilings": {precision: asdict(best) for precision, best in result.ceilings.items()},
        "not run": result.not_run,
    }


if __name__ == "__main__":
    print(_peak(json.loads(sys.argv[1])))
