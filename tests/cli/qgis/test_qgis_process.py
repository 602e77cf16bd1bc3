"""What the plugin does without QGIS: words of the command, its progress, its end; with real processes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest
from helpers import needs_weights
from PIL import Image

from kornia_tar.cli.main import build_parser
from kornia_tar.cli.qgis.kornia_tar_qgis import process
from kornia_tar.raster.synthetic import demo_pair

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the scripts begin with #!")


class Listener:
    """Keeps what a run says, and asks to cancel once it has heard a text."""

    def __init__(self, cancel_at: str = "\0") -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[float, str]] = []
        self.cancel_at = cancel_at

    def canceled(self) -> bool:
        return any(self.cancel_at in text for text in (*self.lines, *(text for _, text in self.steps)))

    def run(self, command: list[str], folder: Path) -> process.Ended:
        advance = lambda share, text: self.steps.append((share, text))  # noqa: E731
        return process.run(command, self.canceled, self.lines.append, advance, folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("a pair; $(of) 'images'")
    optical, sar, _ = demo_pair(1)
    Image.fromarray(optical[:128, :128]).save(folder / "optical.png")
    Image.fromarray(sar[:128, :128]).save(folder / "-sar.png")
    return [str(folder / "optical.png"), str(folder / "-sar.png")]


def test_words_hold_options_first_and_files_as_they_are():
    options = {"nodata1": -9999.0, "model": "spline", "overwrite": True, "search-radius": None, "refused": False}
    assert process.words("register", ["a b.tif", "-c.tif"], options) == [
        "register", "--nodata1=-9999", "--model=spline", "--overwrite", "--", "a b.tif", "-c.tif",
    ]  # fmt: skip
    told = build_parser().parse_args(process.words("apply", ["-t.json", "-a.tif"], {"out": "x", "nodata": -0.1}))
    assert (str(told.transform), [str(image) for image in told.images], told.nodata) == ("-t.json", ["-a.tif"], -0.1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[1/4] loading", (0.0, 0.25, "loading")), ("[3/4] registering\n", (0.5, 0.25, "registering")),
        ("[5/4] odd", None), ("[0/4] odd", None), ("[7/9]", (6 / 9, 1 / 9, "")), ("see [1/2] there", None),
        ("registered: probability 1.00", None),
    ],
)  # fmt: skip
def test_progress_is_read_from_lines(line, expected):
    assert process.read_step(line) == expected


def test_the_environment_of_qgis_stays_in_qgis():
    given = {"PATH": "/bin", "PYTHONHOME": "/q", "PYTHONPATH": "/q", "GDAL_DATA": "/q", "PROJ_LIB": "/q", "HOME": "/h",
             "LD_LIBRARY_PATH": "/q", "QT_PLUGIN_PATH": "/q", "CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "1",
             "KORNIA_TAR_MAX_PIXELS": "9"}  # fmt: skip
    kept = process.environment(given)
    assert set(kept) == {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "KORNIA_TAR_MAX_PIXELS",
                         "PYTHONUNBUFFERED", "PYTHONUTF8"}  # fmt: skip


def test_the_setting_goes_before_the_record_and_what_is_no_command_is_named(tmp_path, script):
    record = tmp_path / "installed.json"
    with pytest.raises(ValueError, match="no command is recorded: run 'kornia-tar qgis install'"):
        process.find_command("", record)
    record.write_text(f'{{"command": "{sys.executable}"}}')
    assert process.find_command("  ", record) == sys.executable
    other = script(tmp_path / "kornia-tar", "")
    assert process.find_command(str(other), record) == str(other)
    for wrong in ("kornia-tar", str(tmp_path), str(tmp_path / "none"), str(record)):
        with pytest.raises(ValueError, match="is no command that can be run; run 'kornia-tar qgis install"):
            process.find_command(wrong, record)


@pytest.mark.slow  # a process of its own, as the tests below start
@needs_weights
def test_a_refusal_comes_with_steps_and_its_reason(pair, program, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # as QGIS may set it: no other Python starts with it
    Image.new("L", (64, 64), 7).save(tmp_path / "flat.png")
    images = [str(tmp_path / "flat.png"), pair[1]]
    told = process.words("register", images, {"progress": True, "out": tmp_path / "out"})
    listener = Listener()
    ended = listener.run([str(program), *told], tmp_path / "out")
    assert ended.code == process.REFUSED and ended.reason.startswith("not registered: image0 is flat"), ended
    assert [text for _, text in listener.steps] == ["loading the weights", "reading", "registering", "writing"]
    assert [share for share, _ in listener.steps] == [0, 0.25, 0.5, 0.75]
    assert (tmp_path / "out/report.json").is_file() and not (tmp_path / "out/registered.png").exists()


def test_an_error_is_the_commands_own_line(pair, program, tmp_path):
    listener = Listener()
    told = process.words("register", [pair[0], str(tmp_path / "none.tif")], {"out": tmp_path / "out"})
    ended = listener.run([str(program), *told], tmp_path / "out")
    assert ended.code == 1 and ended.reason.endswith("none.tif: no such file")
    with pytest.raises(ValueError, match="nowhere: cannot be started"):
        listener.run([str(tmp_path / "nowhere")], tmp_path)


@needs_weights
def test_a_canceled_run_ends_soon_and_leaves_nothing(pair, program, tmp_path):
    listener = Listener(cancel_at="registering")
    told = process.words("register", pair, {"progress": True, "out": tmp_path / "out"})
    ended = listener.run([str(program), *told], tmp_path / "out")
    assert ended.code == process.CANCELED
    assert "kornia-tar register: interrupted" in ended.lines  # it cleaned up itself, and was not killed
    assert not (tmp_path / "out").exists()


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
{more}
out = pathlib.Path(sys.argv[1])
(out / ".results-x").mkdir()
(out / ".results-x/half.tif").touch()
(out / ".new.tif.0f.tmp").touch()
(out / "whole.tif").touch()
print("[1/2] ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("more", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["terminated", "killed"])
def test_what_a_killed_command_leaves_is_removed_and_no_more(more, tmp_path, monkeypatch, script):
    monkeypatch.setattr(process, "PATIENCE", 0.3)
    out = tmp_path / "out"
    (out / ".results-earlier").mkdir(parents=True)
    (out / ".earlier.tmp").touch()
    started = time.monotonic()
    ended = Listener("ready").run([str(script(tmp_path / "stubborn", STUBBORN.format(more=more))), str(out)], out)
    assert ended.code == process.CANCELED and time.monotonic() - started < 30
    assert sorted(path.name for path in out.iterdir()) == [".earlier.tmp", ".results-earlier", "whole.tif"]


def test_progress_never_goes_back_and_long_talk_is_cut(tmp_path, script):
    lines = [
        "[1/2] a",
        "full size: 3 of 4 tiles, 1 min",
        "full size: 1 of 4 tiles",
        "[2/2] b",
        "[1/9] c",
        *(f"line {k}" for k in range(300)),
        "the end",
    ]
    command = [str(script(tmp_path / "talk", f"print({chr(10).join(lines)!r})"))]
    listener = Listener()
    ended = listener.run(command, tmp_path)
    assert listener.steps == [(0.0, "a"), (0.375, "a"), (0.5, "b"), (0.5, "c")]
    assert ended == (0, (*(f"line {k}" for k in range(201, 300)), "the end"))


def test_a_run_leaves_no_file_open(tmp_path, script):
    command = [str(script(tmp_path / "talk", "print('one')"))]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert Listener().run(command, tmp_path) == (0, ("one",))
        gc.collect()
    assert not [str(one.message) for one in told if one.category is ResourceWarning]


def test_a_command_that_ends_itself_by_a_signal_is_no_success(tmp_path, script):
    command = [str(script(tmp_path / "dies", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"))]
    ended = Listener().run(command, tmp_path)
    assert ended.code not in (process.REGISTERED, process.REFUSED, process.CANCELED)
    assert ended.reason == f"the command ended with exit code {ended.code} and said nothing"
