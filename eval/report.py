"""Tables of a scored set as Markdown and JSON, with where the numbers come from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PERCENT = ("SR@1", "SR@3", "SR@5", "SR@10", "AUC@3", "AUC@5", "AUC@10", "CMR@1", "CMR@3", "CMR@5")
_PACKAGES = ("torch", "kornia", "opencv-python-headless", "numpy", "pillow", "h5py", "kornia-tar")


@dataclass(frozen=True)
class Table:
    """One set and rung, scored.

    Args:
        dataset: name of the set.
        rung: name of the rung.
        drawn: what the rung's warps are.
        model: what the shared estimator fits.
        pairs: number of pairs in every row.
        borders: number of pairs whose image1 is filled, cropped or untouched.
        rows: one per matcher, best first: scores, seconds, parameters, matcher, settings, predicted (provenance).
        ceiling: scores of true matches through the shared estimator.
        not_run: matchers without a row, with the reason.
    """

    dataset: str
    rung: str
    drawn: str
    model: str
    pairs: int
    borders: dict[str, int]
    rows: list[dict[str, Any]]
    ceiling: dict[str, float]
    not_run: dict[str, str]


def provenance() -> dict[str, Any]:
    """Say which command, commit, versions and hardware make a number, and when."""
    return {
        "command": shlex.join(["python", "-m", "eval", *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def markdown(table: Table, made: dict[str, Any]) -> str:
    """Lay a table out as Markdown; shares are percent."""
    heads = ["matcher", *_PERCENT, "NCM", "prec@3", "fail", "seconds", "params"]
    lines = [
        f"# {table.dataset}, rung {table.rung}",
        "",
        f"{table.pairs} pairs; {table.drawn}; border of image1: "
        + ", ".join(f"{kind} {number}" for kind, number in table.borders.items())
        + ".",
        f"SR, AUC: mean corner error after one RANSAC at 3 px ({table.model}) for all. CMR: RMSE over matches.",
        "Shares in percent of all pairs; a failure is an infinite error. NCM, precision: within 3 px. Seconds: median.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---|" + "---:|" * (len(heads) - 1),
    ]
    for row in table.rows:
        cells = [row["matcher"], *(f"{100 * row[key]:.1f}" for key in _PERCENT), f"{row['NCM']:.1f}"]
        cells += [f"{100 * row['precision@3']:.1f}", f"{100 * row['failure']:.1f}", f"{row['seconds']:.3f}"]
        lines.append("| " + " | ".join([*cells, _amount(row["parameters"])]) + " |")
    if table.ceiling:
        reach = ", ".join(f"{key} {100 * table.ceiling[key]:.1f}" for key in _PERCENT[:4])
        lines += ["", f"True matches through the same estimator: {reach}."]
    lines += ["", *(f"- {name}: not run: {reason}" for name, reason in table.not_run.items())]
    lines += [f"- {row['matcher']}: {row['settings']}; commit {row['predicted']['commit']}" for row in table.rows]
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    lines += ["", f"`{made['command']}` · commit {made['commit']} · {made['date']}", f"{made['hardware']} · {versions}"]
    threads = sorted({row["predicted"]["threads"] for row in table.rows})
    lines += [f"Matched with {' or '.join(map(str, threads))} thread(s)."] if threads else []
    return "\n".join(lines) + "\n"


def write(table: Table, folder: Path, limit: int | None = None) -> Path:
    """Write ``<set>.<rung>.md`` and ``.json`` (with ``.limit<N>`` in the name of a partial run); returns the first."""
    made = provenance()
    stem = f"{table.dataset}.{table.rung}" + (f".limit{limit}" if limit else "")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{stem}.json", json.dumps(asdict(table) | {"scored": made}, indent=1) + "\n")
    text = markdown(table, made)
    _write(folder / f"{stem}.md", text)
    return folder / f"{stem}.md"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _amount(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number else "0"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
