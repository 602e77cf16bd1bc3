"""``kornia-tar register-many``: a row a pair, whatever becomes of it; a second run goes on where the first ended."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import lively_net
from PIL import Image

from kornia_tar.cli.main import build_parser, main
from kornia_tar.cli.many import worker
from kornia_tar.cli.many.progress import duration
from kornia_tar.cli.many.settings import Setup
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.outputs.summary import Row, read_summary, write_parquet, write_summary


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (tmp_path / "pairs.csv").write_text(
        "image0,image1,name,modality1\na.png,b.png,first,\na.png,broken.png,,sar\nb.png,c.png,third,auto\n"
    )
    save_checkpoint(tmp_path / "w.safetensors", lively_net(), {})
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    words = ["register-many", str(folder / "pairs.csv"), "-o", str(folder / "out")]
    return [*words, "--weights", str(folder / "w.safetensors"), "--rotations", "1", "--device", "cpu", *more]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_failing_pair_stops_no_other_and_what_is_done_is_not_done_again(folder, capsys):
    assert main(command(folder)) == 2
    told = capsys.readouterr()
    assert "1 failed" in told.out and "[3/3] third" in told.err and "left" in told.err
    found = rows(folder)
    assert [row["name"] for row in found] == ["first", "a_broken", "third"]
    assert [row["status"] == "failed" for row in found] == [False, True, False]
    assert "broken.png: cannot be read" in found[1]["reason"] and found[0]["seconds"]
    written = (folder / "out" / "first" / "report.json").stat().st_mtime_ns
    Image.open(folder / "c.png").save(folder / "broken.png")
    assert main(command(folder)) == 2
    assert "2 of 3 pairs are done already" in capsys.readouterr().err
    assert [row["status"] != "failed" for row in rows(folder)] == [True] * 3
    assert (folder / "out" / "first" / "report.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("place", [(), ("--workers", "2")])
def test_pairs_side_by_side(folder, place):
    assert main(command(folder, "--at-once", "2", *place)) == 2
    assert [(row["name"], row["status"]) for row in rows(folder)] == [
        ("first", "refused"), ("a_broken", "failed"), ("third", "refused"),
    ]  # fmt: skip
    assert (folder / "out" / "third" / "report.html").is_file() and not list((folder / "out").rglob(".*"))


def test_an_image_that_was_written_again_is_done_anew(folder, capsys):
    (folder / "pairs.csv").write_text("image0,image1,name\na.png,b.png,first\n")
    assert main(command(folder)) == 2
    Image.open(folder / "c.png").save(folder / "b.png")
    os.utime(folder / "b.png", ns=(10**18, 10**18))  # some disks count in seconds
    assert main(command(folder)) == 2
    assert "1 of 1 pairs are done anew: files, settings or weights have changed" in capsys.readouterr().err
    assert main(command(folder)) == 2
    assert "1 of 1 pairs are done already" in capsys.readouterr().err


@pytest.mark.slow
def test_where_all_is_done_a_cluster_and_its_gpus_are_not_asked_for(folder, capsys):
    (folder / "pairs.csv").write_text("image0,image1,name\na.png,b.png,first\n")
    assert main(command(folder)) == 2
    assert main(command(folder, "--ray-address", "auto", "--device", "cuda")) == 2, capsys.readouterr().err
    assert "1 of 1 pairs are done already" in capsys.readouterr().err


def test_other_settings_do_all_anew(folder, capsys):
    assert main(command(folder)) == 2
    written = (folder / "out" / "first" / "report.json").stat().st_mtime_ns
    assert main(command(folder, "--min-probability", "0.5")) == 2
    told = capsys.readouterr().err
    assert "done already" not in told and "2 of 3 pairs are done anew: files, settings or weights have changed" in told
    assert (folder / "out" / "first" / "report.json").stat().st_mtime_ns > written


def test_every_option_of_register_is_there_with_its_default():
    """But --progress: what becomes of each pair is always told."""
    parse = build_parser().parse_args
    one, many = (vars(parse(words)) for words in (["register", "a", "b", "-o", "x"], ["register-many", "c", "-o", "x"]))
    of_register = one.keys() - {"command", "run", "image0", "image1", "progress"}
    assert of_register <= many.keys() and len(of_register) > 20
    assert {option: one[option] for option in of_register} == {option: many[option] for option in of_register}


def test_the_advice_about_nodata_can_be_followed_and_does_the_pairs_anew(folder, capsys):
    pixels = np.random.default_rng(1).uniform(-25, 0, (64, 64)).astype(np.float32)
    pixels[:, :4] = -9999
    Image.fromarray(pixels).save(folder / "s.tif")
    (folder / "pairs.csv").write_text("image0,image1,name,nodata1\na.png,s.tif,own,-9999\na.png,s.tif,told,\n")
    assert main(command(folder)) == 2
    error = capsys.readouterr().err
    assert error.count("warning: ") == 1 and "give --nodata1=-9999" in error
    assert "are exactly -9999" in rows(folder)[1]["reason"], "a refusal's reasons name what may be the cause"
    assert main(command(folder, "--nodata1=-9999")) == 2
    error = capsys.readouterr().err
    assert "are exactly -9999" not in error and "1 of 2 pairs are done already" in error


def test_words_that_steer_are_settings(folder):
    words = ((), ()), (("water",), ()), ((), ("water",))
    setups = [Setup(str(folder / "w.safetensors"), "cpu", 1, None, "affine", 1, 0.9, *told) for told in words]
    assert len({setup.digest() for setup in setups}) == 3


def test_a_library_s_own_error_is_a_pair_s(folder, monkeypatch):
    class Strange(Exception):
        pass

    real = worker.register_pair

    def register(job, registrar, weights, step):
        if job.out.name == "first":
            raise Strange("of a kind that nobody expects")
        return real(job, registrar, weights, step)

    monkeypatch.setattr(worker, "register_pair", register)
    assert main(command(folder)) == 2
    assert [row["status"] == "failed" for row in rows(folder)] == [True, True, False]
    assert rows(folder)[0]["reason"] == "Strange: of a kind that nobody expects"


def test_a_pair_for_which_the_memory_did_not_do_beside_others_is_tried_again(folder, monkeypatch):
    real, tried = worker.register_pair, list[str]()

    def register(job, registrar, weights, step):
        tried.append(job.out.name)
        if tried.count(job.out.name) == 1:
            raise torch.OutOfMemoryError("no room beside others")
        return real(job, registrar, weights, step)

    monkeypatch.setattr(worker, "register_pair", register)
    assert main(command(folder, "--at-once", "2")) == 2
    assert [row["status"] for row in rows(folder)] == ["refused", "failed", "refused"]
    assert "broken.png" in rows(folder)[1]["reason"] and sorted(tried) == sorted(2 * ["first", "a_broken", "third"])


@pytest.mark.slow
def test_another_table_in_the_same_folder_leaves_the_first_one_s_rows(folder):
    whole = (folder / "pairs.csv").read_text()
    assert main(command(folder)) == 2
    (folder / "pairs.csv").write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert main(command(folder)) in (0, 2) and len(rows(folder)) == 3
    (folder / "pairs.csv").write_text(whole)
    assert main(command(folder)) == 2 and len(rows(folder)) == 3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--min-probability 2", "min_probability"),
        ("--threads 0", "threads must be at least 1"),
        ("--bank none.npz", "none.npz"),
        ("--threshold 2", "threshold must be in [0, 1], got 2.0"),
        ("--search-radius 0", "the search radius is 0.0 m"),
        ("--search-radius 300 --no-georeference", "a search radius of 300 m needs georeferences"),
        ("--ignore water", "no land-cover head"),
    ],
)
def test_a_wrong_option_is_told_once_whatever_the_workers(folder, capsys, more, says):
    assert main(command(folder, "--workers", "2", *more.split())) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and "Traceback" not in error and not (folder / "out").exists()


@pytest.mark.slow
def test_a_pair_that_fails_now_leaves_no_results_of_an_earlier_run(folder):
    assert main(command(folder)) == 2
    third = folder / "out" / "third"
    (third / "notes.txt").write_text("mine")
    (folder / "c.png").write_bytes(b"no more")
    assert main(command(folder, "--min-probability", "0.5")) == 2
    assert [row["status"] == "failed" for row in rows(folder)] == [False, True, True]
    assert [path.name for path in third.iterdir()] == ["notes.txt"]
    assert (folder / "out" / "first" / "report.json").is_file()


def workers(folder: Path) -> set[int]:
    """Processes that register pairs of a folder: they work in it."""
    found = set()
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes()
            ours = b"spawn_main" in words or words.startswith(b"ray::_PairActor.register")
            if process.name.isdecimal() and ours and (process / "cwd").readlink() == folder:
                found.add(int(process.name))
        except OSError:
            continue
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds its workers in /proc")
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where pytest was started to ignore it
from kornia_tar.cli.main import main
sys.exit(main())
"""
PLACES = [("--workers", "2"), ("--workers", "2", "--at-once", "2"), ("--workers", "2", "--ray-address", "local")]


def need(place: tuple[str, ...]) -> None:
    if "--ray-address" in place:
        pytest.importorskip("ray", reason="Ray is not installed: pip install kornia-tar[ray]")


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_two_killed_workers_leave_a_complete_summary(folder, monkeypatch, place):
    """Two workers; each is killed as soon as it runs, and so each at another pair."""
    need(place)
    monkeypatch.chdir(folder)
    pairs = "".join(f"{a}.png,{b}.png,{a}{b}{k}\n" for a, b in ("ab", "bc", "ca") for k in range(2))
    (folder / "pairs.csv").write_text(f"image0,image1,name\n{pairs}a.png,broken.png,bad\n")
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 600
        while len(killed) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            if (new := workers(folder) - set(killed)) and (folder / "out" / "summary.csv").is_file():
                killed.append(min(new))
                os.kill(killed[-1], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    assert main(command(folder, *place)) == 2
    assert len(killed) == 2
    found = rows(folder)
    assert len(found) == 7 and {row["name"] for row in found if row["status"] == "failed"} == {"bad"}
    assert all(row["status"] in ("registered", "refused") for row in found if row["name"] != "bad")
    assert not list((folder / "out").rglob(".*"))


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_ends_the_workers_and_the_next_run_goes_on(folder, place):
    need(place)
    pairs = "".join(f"a.png,b.png,p{k}\n" for k in range(4))
    (folder / "pairs.csv").write_text(f"image0,image1,name\n{pairs}")
    run = subprocess.Popen(
        [sys.executable, "-c", MAIN, *command(folder, *place)], cwd=folder, stderr=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    assert run.stderr is not None
    told = next(line for line in run.stderr if line.startswith("[1/4]"))
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    rest = run.stderr.read()
    assert run.wait(60) == 130 and rest.splitlines()[-1] == "kornia-tar register-many: interrupted", told + rest
    assert "Traceback" not in rest
    statuses = [row["status"] for row in rows(folder)]
    assert len(statuses) == 4 and 1 <= statuses.count("refused") < 4 and "waiting" in statuses
    for _ in range(100):
        if not (left := workers(folder)):
            break
        time.sleep(0.1)
    assert not left
    assert main(command(folder)) == 2  # on this machine, what Ray has done is not done again
    found = rows(folder)
    assert [row["status"] for row in found] == ["refused"] * 4
    assert not list((folder / "out").rglob(".*"))


@needs_proc
@pytest.mark.slow
def test_a_ray_that_dies_ends_the_run_in_one_line_and_the_next_run_goes_on(folder):
    """Killed here is Ray's only node, not a worker; the run waited for another node for ever."""
    need(PLACES[-1])
    pairs = "".join(f"a.png,b.png,p{k}\n" for k in range(40))  # actors outlive their node by many
    (folder / "pairs.csv").write_text(f"image0,image1,name\n{pairs}")
    run = subprocess.Popen(
        [sys.executable, "-c", MAIN, *command(folder, *PLACES[-1])], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert run.stderr is not None
    next(line for line in run.stderr if line.startswith("[1/40]"))
    os.kill(child(run.pid, b"/raylet/raylet"), signal.SIGKILL)
    last = run.stderr.read().splitlines()[-1]
    assert run.wait(120) == 1 and "the Ray cluster is gone" in last and "Traceback" not in last
    assert 0 < [row["status"] for row in rows(folder)].count("refused") < 40
    assert main(command(folder)) == 2
    assert [row["status"] for row in rows(folder)] == ["refused"] * 40


def child(parent: int, name: bytes) -> int:
    """The process, of those that another one has started, whose program has a name that ends so."""
    for process in Path("/proc").iterdir():
        try:
            program = (process / "cmdline").read_bytes().split(b"\0")[0]
            if program.endswith(name) and int((process / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"no child of {parent} runs {name!r}")


def test_without_ray_one_line_says_how_to_install_it(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command(folder, "--ray-address", "local")) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and 'pip install "kornia-tar[ray]"' in told and not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image0,other\na,b\n", "unknown columns: other"),
        (
            "image0;image1\na;b\n",
            "unknown columns: image0;image1; there are image0, image1, name, modality0, "
            "modality1, nodata0, nodata1, search_radius, parted by commas",
        ),
        ("image0\na\n", "needs the columns image0 and image1"),
        ("image0,image1\na.png\n", "line 2: needs image0 and image1"),
        ("image0,image1\na.png,b.png,c.png\n", "line 2: needs image0 and image1"),
        ("image0,image1,modality1\na.png,b.png,radar\n", "line 2: modality1 is 'radar'"),
        ("image0,image1,nodata1\na.png,b.png,none\n", "line 2: nodata1 is 'none', and no number"),
        ("image0,image1,search_radius\na.png,b.png,\nb.png,c.png,-5\n", "line 3: the search radius is -5.0 m"),
        ("image0,image1,search_radius\na.png,b.png,nan\n", "line 2: the search radius is nan m"),
        ("image0,image1,name\na.png,b.png,x\nb.png,a.png,x\n", "line 3: the name 'x' is no folder's, or stands twice"),
        ("image0,image1,name\na.png,b.png,x\n\nb.png,a.png,X\n", "line 4: the name 'X' is no folder's"),
        ("image0,image1,name\na.png,b.png,x\nout/x/registered.png,a.png,y\n", "is read for y and lies where x is"),
        ("image0,image1,name\na.png,b.png,../x\n", "line 2: the name '../x' is no folder's"),
        ("image0,image1\n", "names no pair"),
    ],
)
def test_a_file_of_pairs_that_is_wrong_is_told_before_any_work(folder, capsys, text, says):
    (folder / "pairs.csv").write_text(text)
    assert main(command(folder)) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (folder / "out").exists()


def test_a_row_s_radius_and_no_georeference_exclude_each_other(folder, capsys):
    (folder / "pairs.csv").write_text("image0,image1,search_radius\na.png,b.png,300\n")
    assert main(command(folder, "--no-georeference")) == 1
    error = capsys.readouterr().err
    assert "pairs.csv, line 2: a search radius of 300 m needs georeferences" in error and error.count("\n") == 1


def test_foreign_files_stay(folder, capsys):
    out = folder / "out"
    (out / "first").mkdir(parents=True)
    (out / "first" / "report.json").write_text("mine")
    assert main(command(folder)) == 1
    assert "report.json: is there already; give --overwrite" in capsys.readouterr().err
    assert main(command(folder, "--overwrite")) == 2 and "kornia_tar" in (out / "first" / "report.json").read_text()
    assert main(command(folder, "--overwrite")) == 2 and "2 of 3 pairs are done already" in capsys.readouterr().err
    (out / "first" / "report.json").unlink()
    (out / "summary.csv").write_text("a,b\n1,2\n")
    assert main(command(folder, "--overwrite")) == 1
    assert "is no summary of ours" in capsys.readouterr().err and (out / "summary.csv").read_text() == "a,b\n1,2\n"


def test_a_summary_comes_back(tmp_path):
    found = [
        Row("a", "x.tif", "y.tif", "registered", "", 0.99, 1.5, 15.0, -3.0, 4.0, "georeference", 6.2, "abc"),
        Row("b", "x.tif", "ü, z.tif", "failed", 'no such file, "x"'),
    ]
    write_summary(tmp_path, found)
    assert list(read_summary(tmp_path).values()) == found
    if write_parquet(tmp_path, found) is not None:
        import pyarrow.parquet as pq

        assert pq.read_table(tmp_path / "summary.parquet").to_pylist()[0]["error_metres"] == 15.0


def test_time_left_is_said_in_words():
    assert [duration(s) for s in (5, 59.6, 200, 7300)] == ["5 s", "1 min", "3 min", "2 h 1 min"]
