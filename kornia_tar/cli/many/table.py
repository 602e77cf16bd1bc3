"""A file of pairs: CSV, a row a pair, what its options are where they differ from those of all."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import chain, count
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
    jobs, taken = dict[str, PairJob](), set(NO_FOLDERS)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = columns = [column.strip() for column in reader.fieldnames or ()]
            _check_columns(path, columns)
            for entry in reader:
                job, name = _job(path, reader.line_num, entry, base)
                name = name or _free(f"{job.image0.stem}_{job.image1.stem}", taken)
                if name.casefold() in taken or Path(name).name != name:
                    told = f"the name {name!r} is no folder's, or stands twice"
                    raise ValueError(f"{path}, line {reader.line_num}: {told}")
                taken.add(name.casefold())  # some disks do not tell them apart
                jobs[name] = replace(job, out=base.out / name)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no CSV ({error})") from None
    if not jobs:
        raise ValueError(f"{path}: names no pair")
    _check_apart(jobs)
    return jobs


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken."""
    return next(n for n in chain([name], (f"{name}_{k}" for k in count(2))) if n.casefold() not in taken)


def _check_columns(path: Path, columns: list[str]) -> None:
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown or not {"image0", "image1"} <= set(columns):
        names = " ".join(", ".join(unknown).split())
        odd = f"has unknown columns: {names}" if unknown else "needs the columns image0 and image1"
        parted = ", parted by commas" if len(columns) == 1 else ""
        raise ValueError(f"{path}: {odd}; there are {', '.join(COLUMNS)}{parted}")


def _check_apart(jobs: dict[str, PairJob]) -> None:
    """Refuse a table in which one pair reads what another one writes."""
    folders = {job.out.resolve(): name for name, job in jobs.items()}
    for name, job in jobs.items():
        for image in (job.image0, job.image1):
            for folder in image.resolve().parents:
                if folder in folders:
                    raise ValueError(f"{image}: is read for {name} and lies where {folders[folder]} is written")


def _job(path: Path, line: int, entry: dict[str, Any], base: PairJob) -> tuple[PairJob, str | None]:
    """One row's pair, and its name if it has one."""
    values = {key: (value or "").strip() for key, value in entry.items() if isinstance(key, str)}
    if any("\0" in value for value in values.values()):
        raise ValueError(f"{path}, line {line}: holds a NUL, which no name does; save it as plain CSV in UTF-8")
    if len(values) < len(entry) or not values["image0"] or not values["image1"]:
        raise ValueError(f"{path}, line {line}: needs image0 and image1, and no more fields than columns")
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
    try:
        return replace(base, **told), values.get("name") or None
    except ValueError as error:  # of a radius that is none, or that nothing uses
        raise ValueError(f"{path}, line {line}: {error}") from None
