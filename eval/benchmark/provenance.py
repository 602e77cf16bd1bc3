"""Where numbers come from: command, commit, versions, hardware, date."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "kornia", "opencv-python-headless", "numpy", "pillow", "h5py", "kornia-tar")


def provenance() -> dict[str, Any]:
    """Say which command, commit, versions and hardware make a number, and when."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    told = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # paths are one machine's
    return {
        "command": shlex.join(["python", "-m", "eval", *told]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": f"{_processor()}, {os.cpu_count()} cores{gpu}",
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def made_by(made: dict[str, Any]) -> list[str]:
    """Say what ``provenance`` says, in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return [f"`{made['command']}` · commit {made['commit']} · {made['date']}", f"{made['hardware']} · {versions}"]


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
