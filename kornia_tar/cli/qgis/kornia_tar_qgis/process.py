"""The installed command: its words, its progress, its run and its end. Needs no QGIS."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

RECORD = Path(__file__).with_name("installed.json")  # written by ``kornia-tar qgis install``
REGISTERED, REFUSED, CANCELED = 0, 2, 130  # exit codes of the command
PATIENCE = 10.0  # seconds for the command to clean up after an interrupt, then as long after a termination

# QGIS sets these for its own Python and libraries; another Python would load the wrong ones.
FOREIGN = re.compile(r"PYTHON\w*|(GDAL|PROJ|OGR|QT|QGIS)\w*|LD_LIBRARY_PATH|DYLD_\w+|VIRTUAL_ENV|CPL_ZIP_ENCODING")
STEP = re.compile(r"\[(\d+)/(\d+)\]\s*(.*)")
WITHIN = re.compile(r".*?\b(\d+) of (\d+) tiles\b")  # told of large images, within a step


class Ended(NamedTuple):
    """How a run of the command ended."""

    code: int  # its exit code; CANCELED where it was asked to stop
    lines: tuple[str, ...]  # what it said, progress left out; the last ones of many

    @property
    def reason(self) -> str:
        """The last thing that it said, without the name of the command before it."""
        last = self.lines[-1] if self.lines else f"the command ended with exit code {self.code} and said nothing"
        return re.sub(r"^kornia-tar [\w-]+: ", "", last)


def find_command(setting: str = "", record: Path = RECORD) -> str:
    """Return the absolute path of the command: the setting's where there is one, else the one that was recorded.

    Raises:
        ValueError: there is none, in one line that says what to do.
    """
    path = setting.strip()
    if not path:
        try:
            path = str(json.loads(record.read_text("utf-8"))["command"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError("no command is recorded: run 'kornia-tar qgis install' once more") from None
    if not Path(path).is_absolute() or not os.access(path, os.X_OK) or Path(path).is_dir():
        raise ValueError(
            f"{path}: is no command that can be run; run 'kornia-tar qgis install --overwrite' once more, or name "
            "another one in Settings > Options > Processing > Providers > kornia-tar"
        )
    return path


def words(command: str, positional: Sequence[str], options: Mapping[str, object]) -> list[str]:
    """Build the words of a subcommand.

    Args:
        command: of kornia-tar.
        positional: files; after all options, so that none is taken for one.
        options: name without dashes → value; None and False are left out, True stands alone.
    """
    told = [command]
    for name, value in options.items():
        if value is True:
            told.append(f"--{name}")
        elif value is not None and value is not False:
            told.append(f"--{name}={value:.17g}" if isinstance(value, float) else f"--{name}={value}")
    return [*told, "--", *positional]


class Step(NamedTuple):
    """A step that goes on."""

    start: float  # share of all that lies behind it
    share: float  # that it is itself
    text: str


def read_step(line: str) -> Step | None:
    """Read a line such as ``[2/4] reading``; None of others."""
    found = STEP.match(line.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        return None
    return Step((int(found[1]) - 1) / int(found[2]), 1 / int(found[2]), found[3])


def read_within(line: str) -> float:
    """Read the share of a step that is done from a line such as ``full size: 12 of 64 tiles``; 0 of others."""
    found = WITHIN.match(line)
    return min(1.0, int(found[1]) / max(1, int(found[2]))) if found else 0.0


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the command: QGIS's own, without what QGIS set for its Python and libraries."""
    kept = {name: value for name, value in given.items() if not FOREIGN.fullmatch(name.upper())}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def run(
    command: Sequence[str],
    canceled: Callable[[], bool],
    say: Callable[[str], None],
    advance: Callable[[float, str], None],
    folder: Path,
) -> Ended:
    """Run the command without a shell, and stop it when asked; then nothing half-written stays behind.

    Args:
        command: absolute path and words.
        canceled: asked a few times a second.
        say: told each line.
        advance: told the share that is done, in [0, 1], never less than before, and what goes on.
        folder: that the command writes into.

    Raises:
        ValueError: it cannot be started.
    """
    was_there, before = folder.is_dir(), _names(folder)
    apart = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x08000200}  # no window, own group
    try:
        process = subprocess.Popen(  # noqa: S603  a list, no shell
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", env=environment(os.environ), **apart,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"{command[0]}: cannot be started ({error.strerror or error})") from error
    waiting: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(process.stdout, waiting), daemon=True).start()
    said: list[str] = []
    furthest, stopped, step = 0.0, False, Step(0.0, 1.0, "")
    while True:
        if not stopped and canceled():
            stopped = True
            _stop(process)
        try:
            line = waiting.get(timeout=0.1)
        except queue.Empty:
            continue
        if line is None:
            break
        begun = read_step(line)
        step = begun or step
        done = step.start + step.share * read_within(line)
        if begun or done > furthest:
            furthest = max(furthest, done)
            advance(furthest, step.text)
        if not begun and line.strip():
            said = [*said[-99:], line.rstrip()]
            say(said[-1])
    code = process.wait()
    if stopped:
        _clean(folder, before, was_there)
        return Ended(CANCELED, tuple(said))
    return Ended(code, tuple(said))


def _listen(stream, waiting) -> None:
    with stream:
        for line in stream:
            waiting.put(line)
    waiting.put(None)


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt the command, which cleans up then; terminate and kill it where it does not end."""
    ways: list[Callable[[], None]] = [process.terminate, process.kill]
    if os.name == "posix":
        ways.insert(0, lambda: process.send_signal(signal.SIGINT))
    for way in ways:
        way()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if process.poll() is not None:
                return
            time.sleep(0.05)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _clean(folder: Path, before: set[str], was_there: bool) -> None:
    """Remove the temporary files of a command that was killed before it could, and its folder where it is empty."""
    for name in _names(folder) - before:
        path = folder / name
        if name.startswith(".results-") and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif name.startswith(".") and name.endswith(".tmp") and path.is_file():
            path.unlink()
    if not was_there and folder.is_dir() and not _names(folder):
        folder.rmdir()
