import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_eval_report import NAME, made
from toys import texture

from eval.benchmark import protocol
from eval.benchmark.provenance import provenance
from eval.benchmark.table import PairErrors
from eval.report import markdown, published
from eval.report.page import build as page
from eval.report.page import pictures as page_pictures
from eval.report.page import plots as page_plots

made = made  # the fixture of the neighbouring file
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every tag is closed in turn, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.tables = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found[name] for name in ("src", "srcset", "data", "poster") if name in found]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def text(made):
    dataset, tables, folder = made
    return page.build(tables, provenance() | {"command": "python <script>"}, folder, [dataset])


def test_the_page_is_well_formed_with_unique_ids_and_whole_links(text):
    parsed = Page(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(parsed.ids)


def test_the_page_fetches_nothing(text):
    parsed = Page(text)
    assert all(link.startswith("#") for link in parsed.links)
    assert parsed.sources
    assert all(source.startswith("data:image/webp;base64,") for source in parsed.sources)
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_names_and_reasons_are_escaped(text):
    assert "a<b>" not in text
    assert "a&lt;b&gt;" in text
    assert "no &lt;weights&gt;" in text
    assert "python &lt;script&gt;" in text


def test_the_numbers_of_the_page_are_those_of_the_tables(made, text):
    tables = Page(text).tables
    overview, *rest = tables
    assert overview[1] == [NAME, "100.0", "100.0"]
    for table in made[1]:
        shown = next(found for found in rest if found[0][1] == "SR@1")
        rest.remove(shown)
        columns = markdown.columns(table)
        assert shown[0] == ["matcher", *(column.head for column in columns)]
        assert shown[1:] == [
            [row["matcher"], *(markdown.cell(row, column) for column in columns)] for row in table.rows
        ]
    figures = [found for found in rest if found[0][0] == "method"]
    assert [found[1:] for found in figures] == [other.cells for other in published.TABLES]
    assert text.count(published.MARK) == 1 + len(published.TABLES)


def test_the_plots_draw_the_tables_numbers(made):
    table = made[1][0]
    svg = page_plots.by_threshold(table, page_plots.colours([table]))
    assert "var(--m1)" in svg and "var(--m0)" in svg and "var(--ink)" in svg
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]", svg)
    assert "identity" not in page_plots.by_seconds(table, page_plots.colours([table]))


def test_the_leader_and_the_next_are_pictured(made, text):
    dataset, (table, _), folder = made
    examples = page_pictures.examples(table, dataset, folder)
    assert [example.label for example in examples] == ["best", "typical", "worst"]  # three pairs, each once
    assert {example.name for example in examples} == set(dataset.names)
    assert [answer.key for answer in examples[0].answers] == ["exact", "off"]
    assert examples[0].answers[0].grades == (40, 0, 0)
    assert "of 40 matches 40 right, 0 near, 0 wrong" in text


def only(table, *keys, pairs=slice(None)):
    detail = table.detail
    errors = {key: detail.errors[key][pairs] for key in keys}
    detail = PairErrors(detail.names[pairs], detail.rotations[pairs], detail.scales[pairs], errors)
    rows = [row for row in table.rows if row["key"] in keys]
    return dataclasses.replace(table, rows=rows, pairs=len(detail.names), not_run={}, detail=detail)


@pytest.mark.parametrize(
    ("keys", "level"), [(("silent",), 0), (("identity",), 1), (("identity", "silent"), 0), ((), 1)]
)
def test_one_pair_failures_and_nothing_at_all_make_a_page(made, keys, level):
    dataset, tables, folder = made
    built = page.build([only(tables[level], *keys, pairs=slice(1))], provenance(), folder, [dataset])
    Page(built)
    assert ("no model found" in built) == ("silent" in keys)
    assert not re.search(r"\bnan\b", re.sub('base64,[^"]*', "", built), re.IGNORECASE)


def test_without_the_images_the_page_says_so(made):
    _, tables, folder = made
    built = page.build(tables[:1], provenance(), folder)
    assert not Page(built).sources
    assert "No pictures: the images of toy-000 were not given" in built


def test_pictures_get_coarser_when_the_page_is_too_large(made, monkeypatch):
    dataset, tables, folder = made
    words = [only(tables[0], "exact", pairs=slice(1))], provenance(), folder, [dataset]
    whole = page.build(*words)
    monkeypatch.setattr(page, "BUDGET", len(whole) - 1)
    assert len(page.build(*words)) < len(whole)


def test_a_checkerboard_of_the_true_model_shows_the_image_itself():
    image = np.repeat(texture(0)[..., None], 3, -1)
    warp = protocol.draw_warps(["a"], "tar", 0)["a"]
    moved = cv2.warpPerspective(image, warp, (256, 256))
    inner = (slice(100, 156), slice(100, 156))
    difference = page_pictures.checkerboard(image, moved, warp)[inner].astype(float) - image[inner]
    assert np.abs(difference).mean() < 3


@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 180)))
def test_rotation_bins_hold_every_pair_in_at_most_seven(sizes):
    edges = page_plots.rotation_edges(sizes)
    held = page_plots.bins(sizes, edges)
    assert 2 <= len(edges) <= 8
    assert (edges[held] <= sizes + 1e-6).all()
    assert (sizes <= edges[held + 1] + 1e-3).all()


@given(arrays(float, st.integers(1, 40), elements=st.floats(0.1, 10)))
def test_scale_bins_hold_every_pair(scales):
    edges = page_plots.scale_edges(scales)
    held = page_plots.bins(scales, edges)
    assert (edges[held] <= scales * (1 + 1e-9)).all()
    assert (scales <= edges[held + 1] * (1 + 1e-9)).all()


@given(arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(0, 1)))
def test_labels_never_overlap_and_only_move_up(places):
    heights = page_plots.spread(places, np.full(len(places), 0.2), 0.07)
    assert (heights >= places[:, 1]).all()
    for i in range(len(places)):
        for j in range(i):
            beside = abs(places[i, 0] - places[j, 0]) < 0.2 - 1e-9  # 1 - 0.8 is a little less than 0.2
            assert not beside or abs(heights[i] - heights[j]) >= 0.07 - 1e-9


@pytest.mark.slow
def test_in_a_real_browser_the_tables_sort_and_nothing_is_wider_than_the_window(text, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    probe = """<script>
      const heads = document.querySelectorAll("table.sortable")[0].querySelectorAll("th button");
      const body = document.querySelector("table.sortable").tBodies[0];
      const order = () => [...body.rows].map((row) => row.cells[0].innerText);
      const said = {wide: document.documentElement.scrollWidth - innerWidth, before: order()};
      heads[1].click(); heads[1].click(); said.least = order();
      heads[0].click(); said.names = order();
      document.title = JSON.stringify(said);
    </script></body>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", probe))
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [browser, *words, profile, f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=100
    )
    said = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))
    assert said["wide"] <= 0
    assert said["before"][0] == NAME and said["least"][-1] == NAME
    assert said["names"] == sorted(said["before"], key=str.lower)
