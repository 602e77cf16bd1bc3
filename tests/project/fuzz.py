"""Damage valid files of every kind that we read, and see that each reader reads them or says in one line why not.

    python tests/project/fuzz.py --count 10000 --seed 0

An example is a valid file, a few edits of its bytes or words, and the reader. It passes when the reader returns, or
raises one of the errors that a command tells in one line and that names the file, within ``SECONDS`` and ``MEGABYTES``,
without a warning and without a word on stderr. Examples run in a process of their own: a crash is an example's fault,
too. Example n of a seed is always the same: ``--only N`` runs it alone and keeps its file.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    for folder in Path(__file__).resolve().parents[1:3]:
        sys.path.insert(0, str(folder))

from fuzz_files import Kind, made

from kornia_tar.cli.command import ERRORS
from kornia_tar.files import one_line

SECONDS, MEGABYTES, MAX_PIXELS = 10, 400, 2**20
NATIVE = re.compile(r"^Error: Key \w+ is of type .*\n", re.M)  # libgeotiff's own words, which nobody can catch


class Edit(NamedTuple):
    """One damage."""

    how: str  # of EDITS
    at: float  # in [0, 1), where
    other: float  # in [0, 1), how much, or from where
    value: int  # what is put there


EDITS = ("flip", "field", "cut", "drop", "repeat", "move", "insert", "word")
FIELDS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 16, 1 << 30, (1 << 63) - 1, (1 << 64) - 1)
WORDS = (
    "nan", "NaN", "inf", "-inf", "Infinity", "1e308", "-1e308", "1e400", "0", "-1", "1e-320", "9" * 30, "9" * 5000,
    "", "null", "true", "[]", "{}", '"a"', "[" * 3000, "\0", "\xff", "é", "\n", ",", '"', "/vsicurl/http://127.0.0.1:9/a.tif",
    "a" * 200_000, "../../../etc/passwd", "x.vrt", "EPSG:999999", "Infinity, NaN", "<", "&amp;",
)  # fmt: skip


def mutated(content: bytes, edits: Iterable[Edit], text: bool = False) -> bytes:
    """Apply edits."""
    data = bytearray(content)
    for how, at, other, value in edits:
        n = max(len(data), 1)
        # Half of all places lie in the head, where sizes and offsets are told.
        place = int(at * 2 * min(n, 256)) if at < 0.5 else int((at - 0.5) * 2 * n)
        size = 1 + int(other**4 * n)
        if how == "word" and text:
            words = [*re.finditer(rb"[^\s,;:<>\[\]{}\"'=/]+", bytes(data))]
            if words:
                word = words[int(at * len(words))]
                data[word.start() : word.end()] = WORDS[value % len(WORDS)].encode("latin-1")
        elif how == "flip":
            if place < len(data):
                data[place] ^= 1 << (value % 8)
        elif how in ("field", "word"):
            width, order = (1, 2, 4, 8)[value % 4], "<>"[value // 4 % 2]
            number = FIELDS[value // 8 % len(FIELDS)] & ((1 << (8 * width)) - 1)
            data[place : place + width] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], number)
        elif how == "cut":
            del data[place:]
        elif how == "drop":
            del data[place : place + size]
        elif how == "repeat":
            data[place:place] = data[place : place + size] * (1 + value % 5)
        elif how == "move":
            start = int(other * n)
            data[place : place + 16] = data[start : start + 16]
        else:
            data[place:place] = value.to_bytes(8, "little")
        del data[1_000_000:]
    return with_checksums(bytes(data)) if sum(edit.value for edit in edits) % 2 else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums again, so that damage reaches what reads them."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + data[at:]


def drawn(rng: random.Random) -> list[Edit]:
    """One to four edits."""
    return [
        Edit(rng.choice(EDITS), rng.random(), rng.random(), rng.randrange(2**32))
        for _ in range(rng.choice((1, 1, 2, 4)))
    ]


def run(kind: Kind, edits: list[Edit], folder: Path) -> str | None:
    """Try one example in an empty folder; None where it passes, else what is wrong."""
    name = kind.damaged or next(iter(kind.files))
    for other, content in kind.files.items():
        (folder / other).write_bytes(mutated(content, edits, kind.text) if other == name else content)
    path = folder / next(iter(kind.files))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        started = time.process_time()  # others may use the machine
        try:
            kind.read(path)
        except ERRORS as error:
            told = one_line(error)
            if type(error) in (MemoryError, RecursionError):
                return f"{type(error).__name__}: {told}"
            if not any(other in told for other in kind.files):
                return f"names no file: {type(error).__name__}: {told}"
            if "\n" in str(error):
                return f"more than a line: {error}"
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "kornia_tar" in f.filename or "hloc_plugin" in f.filename]
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
            return f"{type(error).__name__} at {where}: {one_line(error)}"
        seconds = time.process_time() - started
    if seconds > SECONDS:
        return f"took {seconds:.0f} s"
    return f"warns: {warned[0].message} ({Path(warned[0].filename).name}:{warned[0].lineno})" if warned else None


def example(kinds: dict[str, Kind], seed: int, number: int) -> tuple[str, list[Edit]]:
    """The kind and the edits of example ``number`` of a seed."""
    rng = random.Random(f"{seed}:{number}")
    return rng.choice(sorted(kinds)), drawn(rng)


def _peak() -> int:
    """Most memory that this process held since the last call, MB; None on other systems than Linux."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) // 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def child(seed: int, numbers: list[int], log: Path) -> None:
    """Run examples; ``log`` gets a line at each one's start and one at its fault."""
    os.environ["KORNIA_TAR_MAX_PIXELS"] = str(MAX_PIXELS)
    kinds = made()
    stderr = Path(f"{log}.stderr")
    with stderr.open("w") as sink:
        os.dup2(sink.fileno(), 2)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEGABYTES * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with log.open("a") as lines, stderr.open() as said, Path(f"{log}.hang").open("w") as hang:
        for number in numbers:
            print(number, file=lines, flush=True)
            name, edits = example(kinds, seed, number)
            base = _peak()
            with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
                faulthandler.dump_traceback_later(10 * SECONDS, exit=True, file=hang)
                fault = run(kinds[name], edits, Path(folder))
                faulthandler.cancel_dump_traceback_later()
            peak = _peak() - base
            if fault is None and peak > MEGABYTES:
                fault = f"took {peak} MB"
            noise = NATIVE.sub("", said.read())
            if fault is None and noise:
                fault = f"writes to stderr: {noise.strip()[:200]}"
            if fault is not None:
                print(number, name, fault, file=lines, flush=True)
        print("end", file=lines, flush=True)


def main() -> int:
    """Run all examples in children; returns 1 where one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="examples (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this example alone, in this process, and keep its files")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child is not None:
        child(a.seed, list(range(int(a.child[0]), a.count)), Path(a.child[1]))
        return 0
    if a.only is not None:
        os.environ["KORNIA_TAR_MAX_PIXELS"] = str(MAX_PIXELS)
        kinds = made()
        name, edits = example(kinds, a.seed, a.only)
        folder = Path(tempfile.mkdtemp())
        print(name, *edits, folder, sep="\n")
        print(run(kinds[name], edits, folder) or "passes")
        kinds[name].read(folder / next(iter(kinds[name].files)))
        return 0
    started, begin = time.monotonic(), 0
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        while begin < a.count:
            log.write_text("")
            words = [sys.executable, __file__, "--seed", str(a.seed), "--count", str(a.count)]
            process = subprocess.run([*words, "--child", str(begin), str(log)], check=False)
            lines = log.read_text().splitlines()
            faults += [line for line in lines if " " in line]
            if lines and lines[-1] == "end":
                break
            last = int(lines[-1].split()[0]) if lines else begin
            name = example(made(), a.seed, last)[0]
            hung = Path(f"{log}.hang").read_text().splitlines() if Path(f"{log}.hang").is_file() else []
            what = (
                f"hangs: {'; '.join(line.strip() for line in hung[-12:])}"
                if hung
                else f"ends the process ({process.returncode})"
            )
            faults.append(f"{last} {name} {what}")
            begin = last + 1
    for line in faults:
        print(line)
    print(f"{a.count} files of {len(made())} kinds, {len(faults)} faults, {time.monotonic() - started:.0f} s")
    for fault, count in Counter(
        re.sub(r"[\d.]+|/\S+", "#", line.split(" ", 1)[1])[:90] for line in faults
    ).most_common():
        print(f"  {count} x {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
