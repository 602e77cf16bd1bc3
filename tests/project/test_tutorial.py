"""The tutorial runs as it stands, and is kept without what a run leaves in it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
from pathlib import Path

import pytest
from helpers import needs_weights

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs/tutorial.ipynb"
CELLS = json.loads(TUTORIAL.read_text("utf-8"))["cells"]


def source(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == kind]


def test_it_is_kept_without_outputs():
    assert [cell for cell in CELLS if cell.get("outputs") or cell.get("execution_count")] == []


def test_what_it_imports_from_here_exists_and_its_links_lead_somewhere():
    nodes = [node for cell in source("code") for node in ast.walk(ast.parse(cell))]
    ours = [node for node in nodes if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kornia_tar")]
    assert len(ours) >= 5
    for node in ours:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    links = re.findall(r"\]\(([\w./]+)", " ".join(source("markdown")))
    assert links and [link for link in links if not (TUTORIAL.parent / link).is_file()] == []


@needs_weights
@pytest.mark.slow
def test_it_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason=f"running the tutorial needs {package}: the extra dev")
    pytest.importorskip("rasterio", reason="the tutorial writes a GeoTIFF")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    assert said.count("registered: True") == 1 and said.count("registered: False, probability 0.0") == 1
    errors = [float(found) for found in re.findall(r"(?:at the corners:|corner error) ([\d.]+) px", said)]
    assert len(errors) == 3 and max(errors) < 2  # estimated, true, the matcher's own
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not any("Warning" in output.get("text", "") for output in outputs if output.get("name") == "stderr")
