"""Rows as they come: kept on disk, and told."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from kornia_tar.outputs.summary import Row, write_summary


@dataclass
class Progress:
    """Rows as they come, written and told."""

    folder: Path
    rows: dict[str, Row]  # of all pairs, in the order of the file of pairs
    others: list[Row]  # of an earlier file of pairs
    total: int  # that are to be done
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        """Keep a row, on disk when this returns, and say so in one line."""
        self.rows[row.name] = row
        write_summary(self.folder, [*self.rows.values(), *self.others])
        self.done += 1
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        told = f"[{self.done}/{self.total}] {row.name}: {row.status}{row.reason and f' ({row.reason})'}"
        print(f"{told}, {duration(left)} left", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Say how long something takes, in the two largest units at most."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{rest} s"
