"""Tables of a scored set as Markdown and JSON, the report that joins those of a run, and where numbers come from."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from eval import published
from eval.datasets import Dataset
from kornia_tar.files import replacing

_PACKAGES = ("torch", "kornia", "opencv-python-headless", "numpy", "pillow", "h5py", "kornia-tar")


@dataclass(frozen=True)
class PairErrors:
    """What the figures of a report need to know of each pair of a table.

    Args:
        names: the pairs, N of them.
        rotations: (N,) degrees in [-180, 180], of the truth at the centre of image0.
        scales: (N,) size of image1's content against image0's, likewise.
        errors: per row's ``key`` the (N,) mean corner errors in px, inf for a failure.
    """

    names: list[str]
    rotations: NDArray[np.float64]
    scales: NDArray[np.float64]
    errors: dict[str, NDArray[np.float64]]


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
        rows: one per matcher, best first: scores, seconds, parameters, matcher, key (by which it is asked for),
            settings, predicted (provenance).
        ceiling: scores of true matches through the shared estimator.
        not_run: matchers without a row, with the reason.
        detail: per pair, for the figures; not part of the JSON, because the caches hold all of it.
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
    detail: PairErrors | None = None

    @property
    def title(self) -> str:
        """The set and rung in words."""
        return f"{self.dataset}, rung {self.rung}"

    @property
    def about(self) -> str:
        """The pairs in one line."""
        borders = ", ".join(f"{kind} {number}" for kind, number in self.borders.items()) or "unknown"
        return f"{self.pairs} pair{'s' * (self.pairs != 1)}; {self.drawn}; border of image1: {borders}."


def percent(share: float) -> str:
    """Write a share as percent with one decimal."""
    return f"{100 * share:.1f}"


def pixels(number: float) -> str:
    """Write pixels; a failure is infinite."""
    return f"{number:.2f}" if math.isfinite(number) else "inf"


def amount(number: float) -> str:
    """Write a number of parameters in millions."""
    return f"{number / 1e6:.2f} M" if number else "0"


@dataclass(frozen=True)
class Column:
    """A column of the tables: the rows' key, its head, how a value is written, what it says, whether more is better."""

    key: str
    head: str
    write: Callable[[float], str]
    says: str
    more: bool = True


COLUMNS = (
    *(Column(f"SR@{t}", f"SR@{t}", percent, f"% of pairs whose corner error is below {t} px") for t in (1, 3, 5, 10)),
    *(Column(f"AUC@{t}", f"AUC@{t}", percent, f"% of the area under SR up to {t} px") for t in (3, 5, 10)),
    *(Column(f"CMR@{t}", f"CMR@{t}", percent, f"% of pairs whose matches have RMSE below {t} px") for t in (1, 3, 5)),
    Column("tie RMSE", "tie RMSE", pixels, "median RMSE of the model at independent tie points, px", more=False),
    Column("CE90", "CE90", pixels, "median 90 % circular error at the tie points, px", more=False),
    Column("NCM", "NCM", "{:.1f}".format, "mean number of matches within 3 px of the truth"),
    Column("precision@3", "prec@3", percent, "mean % of matches within 3 px of the truth"),
    Column("failure", "fail", percent, "% of pairs without any model", more=False),
    Column("seconds", "seconds", "{:.3f}".format, "median seconds of one pair's match", more=False),
    Column("peak MiB", "peak MiB", "{:.0f}".format, "peak resident memory of the process, MiB", more=False),
    Column(
        "gflops", "GFLOP", "{:.1f}".format, "floating-point operations of one pair, 10^9; 0 without torch", more=False
    ),
    Column("parameters", "params", amount, "learned numbers", more=False),
)
COMPACT = (
    "SR@1",
    "SR@3",
    "SR@5",
    "SR@10",
    "AUC@10",
    "CMR@5",
    "CE90",
    "NCM",
    "precision@3",
    "failure",
    "seconds",
    "parameters",
)
LEGEND = (
    "SR, AUC: mean corner error after one RANSAC at 3 px, the same for all. CMR: RMSE over matches. Shares in percent "
    "of all pairs; a failure is an infinite error. NCM, precision: within 3 px. Seconds: median, of the match alone."
)


def columns(table: Table, keys: Sequence[str] | None = None) -> list[Column]:
    """Return the columns that some row has a number for, all or those of ``keys``."""
    wanted = [column for column in COLUMNS if keys is None or column.key in keys]
    return [column for column in wanted if any(column.key in row for row in table.rows)]


def cell(row: dict[str, Any], column: Column) -> str:
    """Write a row's number, or a dash where it has none."""
    return column.write(row[column.key]) if column.key in row else "–"


def motion(truth: ArrayLike, shape0: Sequence[int]) -> tuple[float, float]:
    """Return rotation (degrees in [-180, 180]) and scale of a 3x3 matrix at the centre of image0 (height, width).

    The Jacobian there, split into its nearest rotation and the root of its determinant.
    """
    matrix = np.asarray(truth, dtype=np.float64)
    mapped = matrix @ np.array([(shape0[1] - 1) / 2, (shape0[0] - 1) / 2, 1.0])
    jacobian = (matrix[:2, :2] - np.outer(mapped[:2] / mapped[2], matrix[2, :2])) / mapped[2]
    angle = math.atan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])
    return math.degrees(angle), math.sqrt(abs(float(np.linalg.det(jacobian))))


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


def markdown(table: Table, made: dict[str, Any]) -> str:
    """Lay a table out as Markdown, with all columns and provenance."""
    lines = [f"# {table.title}", "", table.about, f"Model: {table.model}. {LEGEND}", "", *_rows(table)]
    lines += [f"- {row['matcher']}: {row['settings']}; commit {row['predicted']['commit']}" for row in table.rows]
    lines += ["", *made_by(made)]
    threads = sorted({row["predicted"]["threads"] for row in table.rows})
    lines += [f"Matched with {' or '.join(map(str, threads))} thread(s)."] if threads else []
    return "\n".join(lines) + "\n"


def joined(tables: Sequence[Table], made: dict[str, Any]) -> str:
    """Lay all tables of a run out as one Markdown report, with the published figures behind them."""
    lines = ["# Evaluation of optical–SAR matchers", "", LEGEND]
    for table in tables:
        lines += ["", f"## {table.title}", "", f"{table.about} Model: {table.model}.", "", *_rows(table, COMPACT)]
    lines += ["", "## Figures of others", "", f"**{published.MARK}**: never to be compared with the tables above."]
    lines += ["", published.TAR]
    for other in published.TABLES:
        lines += [
            "",
            f"### {other.title} ({published.MARK})",
            "",
            f"{other.source}. Protocol: {other.protocol}.",
        ]
        lines += [other.note] if other.note else []
        lines += ["", *_grid(["method", *other.columns], other.cells)]
    return "\n".join([*lines, "", "## Provenance", "", *made_by(made)]) + "\n"


def write(table: Table, folder: Path, limit: int | None = None) -> Path:
    """Write ``<set>.<rung>.md`` and ``.json`` (with ``.limit<N>`` in the name of a partial run); returns the first."""
    made = provenance()
    stem = f"{table.dataset}.{table.rung}" + part(limit)
    content = {key: value for key, value in asdict(table).items() if key != "detail"}
    content["rows"] = [{key: _finite(value) for key, value in row.items()} for row in table.rows]
    write_text(folder / f"{stem}.json", json.dumps(content | {"scored": made}, indent=1) + "\n")
    write_text(folder / f"{stem}.md", markdown(table, made))
    return folder / f"{stem}.md"


def write_report(
    tables: Sequence[Table],
    folder: Path,
    cache: Path,
    datasets: Sequence[Dataset] = (),
    limit: int | None = None,
) -> Path:
    """Write ``report.md`` and the self-contained ``report.html``, which join all tables of a run; returns the latter.

    Args:
        tables: the tables, in the order to show them.
        folder: where to write.
        cache: folder of the cached matches, for the pictures.
        datasets: the sets, for the pictures; the page says so where the set of a table is not among them.
        limit: of a partial run, part of the names as in ``write``.

    Raises:
        ValueError: without tables.
    """
    from eval import page  # it needs matplotlib and Jinja, which no table needs

    if not tables:
        raise ValueError("no tables to report: score at least one set and rung")
    made = provenance()
    write_text(folder / f"report{part(limit)}.md", joined(tables, made))
    path = folder / f"report{part(limit)}.html"
    write_text(path, page.build(tables, made, cache, datasets))
    return path


def _rows(table: Table, keys: Sequence[str] | None = None) -> list[str]:
    shown = columns(table, keys)
    cells = [[row["matcher"], *(cell(row, column) for column in shown)] for row in table.rows]
    lines = _grid(["matcher", *(column.head for column in shown)], cells)
    if table.ceiling:
        reach = ", ".join(f"SR@{limit} {percent(table.ceiling[f'SR@{limit}'])}" for limit in (1, 3, 5, 10))
        lines += ["", f"True matches through the same estimator: {reach}."]
    return [*lines, "", *(f"- {name}: not run: {reason}" for name, reason in table.not_run.items())]


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]


def made_by(made: dict[str, Any]) -> list[str]:
    """Say what ``provenance`` says, in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return [f"`{made['command']}` · commit {made['commit']} · {made['date']}", f"{made['hardware']} · {versions}"]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no infinity


def part(limit: int | None) -> str:
    """What a partial run adds to the names of its files."""
    return f".limit{limit}" if limit else ""


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all, its folder too; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


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
