"""report.html: one well-formed page that fetches nothing and tells report.json's numbers, whatever the pair."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kornia_tar.geometry import PointMatches, transform_points, valid_mask
from kornia_tar.outputs.ground import ground_report
from kornia_tar.outputs.page import build
from kornia_tar.outputs.page.vectors import residual_vectors
from kornia_tar.outputs.results import write_results
from kornia_tar.outputs.windows import find_windows
from kornia_tar.raster import GeoProfile, Raster, read_image, to_rgb8, write_image
from kornia_tar.raster.synthetic import draw_scene
from kornia_tar.registration.acceptance import AcceptanceConfig, Witnesses
from kornia_tar.registration.held_out import HeldOut
from kornia_tar.registration.result import Registration

MATRIX = np.array([[1.0, 0.02, 8.0], [-0.02, 1.0, -5.0], [0, 0, 1]])
GOOD = Witnesses(gain=0.5, cells=2000, error=0.8, agreement=0.92, excess_gain=0.5, trimmed_excess=0.5)
VOID = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """Checks that every tag is closed in turn, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.tags, self.words = text, [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words += data

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def numbers(self) -> dict[str, float]:
        return {a["data-key"]: float(a["value"]) for a in self.all("data") if a["data-key"] not in ("matrix", "bytes")}


def outcome(size: tuple[int, int], witnesses: Witnesses = GOOD, matrix=MATRIX, n: int = 600) -> Registration:
    """Tie points that are off by 3 px to the right in the right half of image0, and by 0.2 px in the left."""
    rng = np.random.default_rng(0)
    points0 = rng.uniform((0, 0), size[::-1], (n, 2))
    off = np.where(points0[:, :1] > size[1] / 2, 3.0, 0.2) * [1.0, 0.0]
    matches = PointMatches(points0, transform_points(matrix, points0) + off, np.ones(n), np.ones(n))
    checks = AcceptanceConfig().checks(matrix, size, 0.97, witnesses)
    reasons = tuple(check.reason for check in checks if not check.passed)
    return Registration(
        not reasons, reasons, matrix, "affine", matches, np.arange(n) % 4 > 0, 0, 1.0, 0.4, 0.31, 0.27, 0.97,
        witnesses, checks=checks,
    )  # fmt: skip


def pair(size0=(240, 320), size1=(260, 330), names=("o.png", "s.png")) -> tuple[Raster, Raster]:
    scene = draw_scene(3, 384)
    images = scene.optical[: size0[0], : size0[1]], scene.sar[: size1[0], : size1[1]]
    return tuple(Raster(p, np.ones(p.shape[:2], bool), None, Path(n)) for p, n in zip(images, names, strict=True))


def page(folder: Path, found: Registration, first: Raster, second: Raster, **more) -> Page:
    grey1 = second.pixels if second.pixels.ndim == 2 else second.pixels[..., 0]
    told = {"seconds": 1.25, "weights": "w", "kornia_tar": "9", **more}
    report = {**found.report(), **ground_report(found, first, second), **told}
    write_results(folder, found, report, first, second, grey1)
    return Page((folder / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> tuple[Page, dict]:
    folder = tmp_path_factory.mktemp("registered")
    held = HeldOut(16, 1.5, 2.5, 1.4, 2.4, np.full((4, 4, 2), 1.0), np.zeros((4, 4, 2)))
    settings = {"model": "affine", "nodata0": None}
    told = page(
        folder, replace(outcome((240, 320)), held_out=held), *pair(), settings=settings, command="kornia-tar register"
    )
    return told, json.loads((folder / "report.json").read_text())


def test_the_page_fetches_nothing_and_runs_no_script_but_its_own(registered):
    told, _ = registered
    assert {tag for tag, _ in told.tags} & {"link", "iframe", "object", "embed", "base", "form"} == set()
    sources = [a[key] for _, a in told.tags for key in ("src", "srcset", "data", "poster", "href") if key in a]
    assert len(sources) > 10 and all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    assert "url(" not in told.text and "@import" not in told.text and not re.search(r"https?://", told.text)
    (policy,) = [a["content"] for a in told.all("meta") if "http-equiv" in a]
    (script,) = re.findall(r"<script>(.*?)</script>", told.text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:") and f"script-src 'sha256-{digest}'" in policy
    assert not [key for _, a in told.tags for key in a if key.startswith("on")]


def test_ids_are_unique_links_lead_somewhere_and_all_is_named(registered):
    told, _ = registered
    ids = [a["id"] for _, a in told.tags if "id" in a]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in told.all("a")} <= set(ids)
    assert all(a["alt"].strip() for a in told.all("img"))
    assert all(a.get("aria-hidden") or a.get("aria-label") for a in told.all("svg"))
    labelled = {a.get("for") for a in told.all("label")}
    assert [a["id"] for a in told.all("input") if a["type"] == "range"] == ["slider"] and "slider" in labelled


def test_the_numbers_are_those_of_the_report(registered):
    told, report = registered
    numbers = told.numbers
    for key in ("probability", "error_estimate_px", "matches", "inliers", "rmse_px", "rotation_degrees", "scale",
                "stretch", "corner_std_px", "disagreement_px", "agreement", "excess_gain", "seconds"):  # fmt: skip
        assert numbers.pop(key) == report[key], key
    for key in ("rmse_px", "ce90_px", "rmse_px_image0"):
        assert numbers.pop(f"held_out.{key}") == report["held_out"][key]
    for check in report["checks"]:
        found = numbers.pop(f"check.{check['name']}", None)
        assert found == check["value"], check["name"]
    assert [key for key in numbers if not key.startswith("window.")] == []
    matrix = [float(a["value"]) for a in told.all("data") if a["data-key"] == "matrix"]
    assert matrix == np.ravel(report["matrix"]).tolist()
    least = f"at least {AcceptanceConfig.min_probability:g}"
    for words in ("Registered", least, "at most 1.6", "passed", "1.25", "kornia-tar 9", "kornia-tar register"):
        assert words in told.words
    assert "failed" not in told.words and "m on the ground" not in told.words


def test_windows_show_the_pixels_of_both_images_where_the_residuals_say(tmp_path):
    first, second = pair()
    found = outcome((240, 320))
    told = page(tmp_path, found, first, second)
    windows = find_windows(found, valid_mask(second.mask, MATRIX, (240, 320)))
    assert windows[0].middle[0] < 160 < windows[-1].middle[0]
    assert [told.numbers[f"window.{k}"] for k in "ABC"] == pytest.approx([w.error for w in windows])
    assert told.numbers["window.A"] == pytest.approx(0.2) and told.numbers["window.C"] == pytest.approx(3.0)
    shown = [a for a in told.all("img") if "in window" in a["alt"]]
    assert len(shown) == 9
    for window, (image, *_) in zip(windows, zip(*[iter(shown)] * 3, strict=True), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))
        assert pixels.shape[0] * window.magnify == int(image["height"])
        np.testing.assert_array_equal(pixels, to_rgb8(first)[window.rows, window.columns])


def test_a_refused_pair_says_why_and_what_was_needed(tmp_path):
    poor = replace(GOOD, trimmed_excess=0.03, block_agreement=0.41)
    found = outcome((240, 320), poor)
    told = page(tmp_path, found, *pair())
    assert "Not registered" in told.words and "no registered image was written" in told.words
    for reason in found.reasons:
        assert reason[1:] in told.words
    assert told.words.count("✕ failed") == 2 and told.numbers["check.block_agreement"] == 0.41
    assert "refused transform" in told.words and "lies on image0" not in told.words
    assert not (tmp_path / "registered.png").exists()


def test_a_pair_without_a_transform(tmp_path):
    none = Registration(
        False, ("image0 is flat",), None, "affine", PointMatches.empty(), np.zeros(0, bool), 0, 1.0, np.inf, np.inf,
        np.inf, 0.0, Witnesses.none(),
    )  # fmt: skip
    told = page(tmp_path, none, *pair())
    assert "Image0 is flat" in told.words and "No transform was found" in told.words
    assert not re.search(r"\b(inf|nan|None)\b", told.words) and len(told.all("img")) == 3


NASTY = "<script>alert(1)</script>&\"'{{ 7 * 7 }}.png"


def test_names_are_escaped(tmp_path):
    told = page(
        tmp_path, outcome((240, 320)), *pair(names=(NASTY.replace("/", "∕"), "b&amp;.png")),
        command=f"kornia-tar {NASTY}", search={"kind": "full", "why": "<b>", "radius": None},
    )  # fmt: skip
    assert len(told.all("script")) == 1 and told.all("b") and "49.png" not in told.text
    assert NASTY.replace("/", "∕") in told.words and "b&amp;.png" in told.words and f"kornia-tar {NASTY}" in told.words
    assert any(NASTY.replace("/", "∕") in a["alt"] for a in told.all("img"))


@pytest.mark.parametrize("size", [(33, 33), (40, 380), (380, 40)])
def test_tiny_and_elongated_images(tmp_path, size):
    told = page(tmp_path, outcome(size), *pair(size, size))
    assert "Registered" in told.words and len(told.all("img")) >= 8


def test_metres_and_the_shift_of_a_georeferenced_pair(tmp_path):
    pytest.importorskip("rasterio", reason="georeferences need rasterio")
    from rasterio.transform import from_origin

    first, second = pair()
    for raster, west in ((first, 4e5), (second, 4e5 + 30)):
        write_image(tmp_path / raster.path.with_suffix(".tif").name, raster.pixels,
                    GeoProfile("EPSG:32633", from_origin(west, 5e6, 10, 10)))  # fmt: skip
    found = outcome((240, 320), matrix=np.eye(3))
    told = page(tmp_path, found, read_image(tmp_path / "o.tif"), read_image(tmp_path / "s.tif"))
    report, numbers = json.loads((tmp_path / "report.json").read_text()), told.numbers
    assert numbers["shift_metres.east"] == report["shift_metres"]["east"] == pytest.approx(30, abs=0.1)
    assert numbers["shift_metres.north"] == report["shift_metres"]["north"]
    assert numbers["error_estimate_metres"] == report["error_estimate_metres"]
    assert numbers["window_metres.C"] == pytest.approx(30, rel=0.01)
    assert "m on the ground" in told.words and "EPSG:32633" in told.words and "° N" in told.words
    assert "what the georeferences say" in told.words
    refused = outcome((240, 320), replace(GOOD, trimmed_excess=0.03), np.eye(3))
    told = page(tmp_path, refused, read_image(tmp_path / "o.tif"), read_image(tmp_path / "s.tif"))
    assert json.loads((tmp_path / "report.json").read_text())["shift_metres"] is None, "of what is not to be used"
    assert "shift_metres.east" not in told.numbers


def test_vectors_lead_where_the_content_lies():
    found = outcome((240, 320), matrix=np.diag([2.0, 2.0, 1.0]))
    blocks = np.full((4, 4, 2), np.nan)
    blocks[1, 2] = (4.0, -2.0)  # px of image1 that the fit leads too far: the content lies 2 px of image0 to the left
    places = np.full((4, 4, 2), 100.0)
    told = residual_vectors(replace(found, held_out=HeldOut(1, 1, 1, 1, 1, blocks, places)), (240, 320))
    assert told["held_out"]["count"] == 1 and told["factor"] in (1, 2, 5, 10, 20, 50)
    x, y, dx, dy = map(float, re.findall(r"-?[\d.]+", told["held_out"]["lines"]))
    assert (x, y) == (100, 100)
    assert (dx, dy) == pytest.approx((-2 * told["factor"], 1 * told["factor"]), abs=0.06)
    right = [float(v) for v in re.findall(r"l(-?[\d.]+)", told["points"]["lines"])]
    assert max(right) == pytest.approx(1.5 * told["factor"], abs=0.06) and min(right) > 0
    assert told["length"] == told["scale"] * told["factor"]
    assert residual_vectors(replace(found, matrix=None), (240, 320)) is None


def test_residuals_of_zero_are_drawn():
    found = outcome((100, 100), matrix=np.eye(3))
    still = replace(found, matches=replace(found.matches, points1=found.matches.points0))
    told = residual_vectors(still, (100, 100))
    assert told["points"]["count"] and np.isfinite([told["factor"], told["scale"]]).all()


def test_pictures_get_coarser_when_the_page_is_too_large(tmp_path, monkeypatch):
    whole = page(tmp_path, outcome((240, 320)), *pair()).text
    monkeypatch.setattr(build, "BUDGET", len(whole) - 1)
    assert len(page(tmp_path, outcome((240, 320)), *pair()).text) < len(whole)


@pytest.mark.slow
def test_noise_of_any_size_stays_within_the_budget(tmp_path):
    rng = np.random.default_rng(0)
    size = (1300, 1300)
    first, second = (
        Raster(rng.integers(0, 255, shape, dtype=np.uint8), np.ones(size, bool), None, Path(name))
        for shape, name in (((*size, 3), "o.png"), (size, "s.png"))
    )
    page(tmp_path, outcome(size), first, second)
    assert (tmp_path / "report.html").stat().st_size <= build.BUDGET
