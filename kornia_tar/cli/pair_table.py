"""A file of pairs: CSV, a row a pair, what its options are where they differ from those of all."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from kornia_tar.cli.options import MODALITY_CHOICES
from kornia_tar.cli.pair import PairJob

NUMBERS = ("nodata0", "nodata1", "search_radius")
COLUMNS = ("image0", "image1", "name", "modality0", "modality1", *NUMBERS)
NO_FOLDERS = (".", "..", "summary.csv", "summary.parquet")


def read_jobs(path: Path, base: PairJob) -> dict[str, PairJob]:
    """Read the file of pairs: a job by the name of its folder.

    Args:
        path: CSV with a header; paths count from its own folder.
        base: what holds of pairs whose row says nothing else; its ``out`` is the folder of all.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a column or value that is not understood, named with its line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of pairs")
    jobs: dict[str, PairJob] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        unknown = [column for column in columns if column not in COLUMNS]
        if unknown or not {"image0", "image1"} <= set(columns):
            odd = f"has unknown columns: {', '.join(unknown)}" if unknown else "needs the columns image0 and image1"
            raise ValueError(f"{path}: {odd}; there are {', '.join(COLUMNS)}")
        for line, entry in enumerate(reader, 2):
            values = {key: (value or "").strip() for key, value in entry.items() if isinstance(key, str)}
            if len(values) < len(entry) or not values["image0"] or not values["image1"]:
                raise ValueError(f"{path}, line {line}: needs image0 and image1, and no more fields than columns")
            job = _job(path, line, values, base)
            name = values.get("name") or f"{line - 1:04d}_{job.image0.stem}_{job.image1.stem}"
            if name in jobs or Path(name).name != name or name in NO_FOLDERS:
                raise ValueError(f"{path}, line {line}: the name {name!r} is no folder's, or stands twice")
            jobs[name] = replace(job, out=base.out / name)
    if not jobs:
        raise ValueError(f"{path}: names no pair")
    return jobs


def _job(path: Path, line: int, values: dict[str, str], base: PairJob) -> PairJob:
    """One row's pair."""
    told: dict[str, Any] = {key: path.parent / values[key] for key in ("image0", "image1")}
    for key in ("modality0", "modality1"):
        if values.get(key):
            if values[key] not in MODALITY_CHOICES:
                known = ", ".join(MODALITY_CHOICES)
                raise ValueError(f"{path}, line {line}: {key} is {values[key]!r}; {known} are known")
            told[key] = values[key]
    for key in NUMBERS:
        if values.get(key):
            try:
                told[key] = float(values[key])
            except ValueError:
                raise ValueError(f"{path}, line {line}: {key} is {values[key]!r}, and no number") from None
    return replace(base, **told)
