"""The table of many registrations: a row a pair, as CSV and, where pyarrow is installed, as Parquet."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from kornia_tar.files import replacing

Status = Literal["registered", "refused", "failed", "waiting"]


@dataclass(frozen=True)
class Row:
    """What became of one pair; None for what is not known."""

    name: str  # of its folder
    image0: str
    image1: str
    status: Status
    reason: str = ""  # why it was refused, or failed
    probability: float | None = None
    error_px: float | None = None  # estimated, px of image1
    error_metres: float | None = None
    shift_east_metres: float | None = None  # of image1's georeference
    shift_north_metres: float | None = None
    search: str = ""  # which one led to it
    seconds: float | None = None
    settings: str = ""  # all that the result depends on beside the images, as a hash


def write_summary(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``summary.csv`` whole or not at all."""
    with (
        replacing(folder / "summary.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in asdict(row).items()} for row in rows)


def write_parquet(folder: Path, rows: Sequence[Row]) -> Path | None:
    """Write ``summary.parquet``; None where pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"float | None": pa.float64()}
    schema = pa.schema([(field.name, kinds.get(str(field.type), pa.string())) for field in fields(Row)])
    path = folder / "summary.parquet"
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), temporary)
    return path


def read_summary(folder: Path) -> dict[str, Row]:
    """Read the rows of an earlier run by their names; none where there is no summary.

    Raises:
        ValueError: a ``summary.csv`` that is none of ours.
    """
    path = folder / "summary.csv"
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or ()) != [field.name for field in fields(Row)]:
                raise ValueError("other columns")
            return {entry["name"]: _row(entry) for entry in reader}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: is no summary of ours ({error}); choose another folder") from error


def _row(entry: Mapping[str, str]) -> Row:
    values: dict[str, Any] = {}
    for field in fields(Row):
        text = entry[field.name]
        number = field.type == "float | None"
        values[field.name] = (float(text) if text else None) if number else text
    return Row(**values)


def _plain(value: Any) -> Any:
    return "" if value is None else round(value, 4) if isinstance(value, float) else value
