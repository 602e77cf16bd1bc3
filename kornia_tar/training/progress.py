"""What a run tells while it trains: means of the last steps as a line of ``log.jsonl``, and a bar."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

BAR = "{percentage:3.0f}%|{bar:20}| {elapsed} {postfix}"


class Progress:
    """Adds up what steps say of themselves, and every so many steps tells the means; use as a context.

    Args:
        path: the log; each line holds the terms' means, step, minutes, lr, size, ease and pairs_per_s.
        every: steps between two lines.
        says: what the bar tells beside speed and coarse accuracy, with names of terms as ``str.format`` takes them.
        resume: append to the log; else it is started anew.
    """

    def __init__(self, path: Path, every: int, says: str, resume: bool = False) -> None:
        self._path, self._every, self._says, self._mode = path, every, says, "a" if resume else "w"
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        self._log = self._open.enter_context(self._path.open(self._mode))
        self._bar = self._open.enter_context(tqdm(total=100, unit="%", bar_format=BAR))
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(
        self, terms: Mapping[str, Tensor], *, pairs: int, progress: float, step: int, seconds: float, lr: float,
        size: int, ease: float,
    ) -> None:  # fmt: skip
        """Add a step that was taken.

        Args:
            terms: scalars, detached, on any device; among them "accuracy" and "identity". They are not read, which
                would make the device wait, before a line is due.
            pairs: seen in this step.
            progress: share of the run that was done when the step began, 0 to 1.
            step: steps taken, this one included.
            seconds: spent stepping.
            lr: learning rate of this step.
            size: px, side of its crops.
            ease: of its warps, 1 easy … 0 full.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value
        self._pairs += pairs
        self._steps += 1
        if step % self._every:
            return
        line: dict[str, Any] = {name: round(float(total) / self._steps, 4) for name, total in self._sums.items()}
        speed = round(self._pairs / (time.perf_counter() - self._since), 1)
        line |= {"step": step, "minutes": round(seconds / 60, 2), "lr": lr, "size": size}
        line |= {"ease": round(ease, 3), "pairs_per_s": speed}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        told = "{pairs_per_s} pairs/s · coarse accuracy {accuracy:.3f} (identity {identity:.3f}) · " + self._says
        self._bar.set_postfix_str(told.format(**line))
        self._bar.update(min(100, round(100 * progress)) - self._bar.n)
        self._start()

    def _start(self) -> None:
        """Forget what was told."""
        self._sums: dict[str, Tensor] = {}
        self._pairs = self._steps = 0
        self._since = time.perf_counter()
