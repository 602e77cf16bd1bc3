"""report.html in a real, headless Chromium: nothing is fetched, nothing complains, nothing is wider than the window."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_page import outcome, page, pair

from kornia_tar.registration.result import Registration

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here"),
    pytest.mark.skipif(sys.platform == "win32", reason="Chromium takes its orders through POSIX's pipes"),
]

WIDTHS = (1400, 390)
# Chromium reads its orders from 3 and answers on 4.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ({theirs}, {back})]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Elements that reach beyond the window, but for those in a box that scrolls by itself.
WIDER = """[...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5)
  .filter((e) => { for (let p = e.parentElement; p; p = p.parentElement)
    if (!["visible", "clip"].includes(getComputedStyle(p).overflowX)) return false; return true; })
  .map((e) => e.tagName + "." + e.className)"""


class Tab:
    """A tab of a browser that is told what to do, and tells what happens, in JSON through two pipes."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers, self._rest, self._count = orders, answers, b"", 0
        self.events: list[dict] = []
        target = self.ask("Target.createTarget", url="about:blank", session=False)["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True, session=False)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, session: bool = True, **parameters) -> dict:
        """Give an order, and wait for its answer."""
        self._count += 1
        order = {"id": self._count, "method": method, "params": parameters}
        if session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while (told := self._next()).get("id") != self._count:
            self.events.append(told)
        assert "error" not in told, told
        return told["result"]

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], 60)[0], "the browser says nothing for a minute"
            part = os.read(self._answers, 2**16)
            assert part, "the browser is gone"
            self._rest += part
        told, _, self._rest = self._rest.partition(b"\0")
        return json.loads(told)

    def run(self, script: str):
        """Return what an expression of the page's language gives."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def open(self, path: Path, width: int) -> None:
        """Load a file in a window of that width, and wait until all of it is there."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Page.navigate", url=path.as_uri())
        for _ in range(400):
            if self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
                return
            time.sleep(0.05)
        raise AssertionError("the page was not loaded within 20 s")

    def told(self, *methods: str) -> list[dict]:
        """What the browser told under these names since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in methods]


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Start a browser that has a profile of its own, and end it."""
    theirs, orders = os.pipe()
    answers, back = os.pipe()
    words = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
        "--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}",
    ]  # fmt: skip
    start = START.format(theirs=theirs, back=back)
    process = subprocess.Popen(
        [sys.executable, "-c", start, *words], pass_fds=(theirs, back), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    os.close(back)
    try:
        yield Tab(orders, answers)
    finally:
        process.terminate()
        process.wait(20)
        os.close(orders)
        os.close(answers)


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def registered() -> Registration:
    return outcome((240, 320))


def refused() -> Registration:
    """Without a transform, for a reason that has no blank to break at."""
    found = outcome((240, 320))
    return Registration(False, ("image0 " + "is-flat-" * 40,), None, "affine", found.matches, found.inliers, 0, 1.0,
                        found.rmse, found.rmse, found.rmse, 0.0, found.witnesses)  # fmt: skip


@pytest.mark.parametrize("found", [registered, refused])
def test_nothing_is_fetched_nothing_complains_and_nothing_is_too_wide(tab, tmp_path, found):
    long = "kornia-tar register " + "a_folder_whose_name_has_no_blank/" * 12
    page(tmp_path, found(), *pair(names=("o" * 90 + ".png", "s" * 90 + ".png")), command=long)
    for width in WIDTHS:
        tab.open(tmp_path / "report.html", width)
        assert tab.run("innerWidth") == width
        assert tab.run("document.documentElement.scrollWidth - innerWidth") <= 0 and tab.run(WIDER) == [], width
        assert tab.run("[...document.images].filter((i) => !i.complete || !i.naturalWidth).length") == 0
        said = tab.told("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        assert said == []
        urls = [told["request"]["url"] for told in tab.told("Network.requestWillBeSent")]
        assert [url for url in urls if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def test_a_page_that_is_not_so_is_found_out(tab, tmp_path):
    """The checks above see what they look for."""
    bad = '<img src="near.png"><script>console.error("no")</script><p style="width: 2000px">wide</p>'
    (tmp_path / "report.html").write_text(f"<!doctype html><body>{bad}")
    tab.open(tmp_path / "report.html", 390)
    assert tab.run("document.documentElement.scrollWidth - innerWidth") > 0 and "P." in tab.run(WIDER)
    assert len(tab.told("Runtime.consoleAPICalled")) == 1
    assert any(told["request"]["url"].endswith("near.png") for told in tab.told("Network.requestWillBeSent"))


def test_the_slider_moves_the_curtain(tab, tmp_path):
    page(tmp_path, registered(), *pair())
    tab.open(tmp_path / "report.html", 1400)
    tab.run("before = document.body.innerHTML; s = document.querySelector('input[type=range]'); "
            "s.value = s.min; s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert tab.run("document.body.innerHTML !== before")
