"""The plugin in a real QGIS, headless: ``qgis_process`` finds the algorithms and runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import needs_weights

from kornia_tar.cli.qgis import command
from kornia_tar.raster import GeoProfile, read_image, write_image
from kornia_tar.raster.synthetic import draw_scene

QGIS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")  # Debian 12 wraps it in a script that fails
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QGIS is None, reason="no qgis_process on PATH: QGIS is not installed"),
]
UTM, SIDE = "EPSG:32632", 192


class Qgis:
    """qgis_process with a user folder of its own, in which the plugin is installed and enabled."""

    def __init__(self, home: Path, program: Path) -> None:
        data = home / "data"
        # Without our virtual environment: QGIS would take its packages for those of its own Python.
        rest = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        path = [p for p in os.get_exec_path() if Path(p) != Path(sys.executable).parent]
        self.environment = {
            **rest, "PATH": os.pathsep.join(path), "HOME": str(home), "XDG_DATA_HOME": str(data),
            "XDG_CONFIG_HOME": str(home), "QT_QPA_PLATFORM": "offscreen",
        }  # fmt: skip
        command.install(data / "QGIS/QGIS3/profiles/default/python/plugins", program)
        assert self("plugins", "enable", command.PLUGIN.name).returncode == 0

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(QGIS), *words], env=self.environment, capture_output=True, text=True, timeout=900, check=False
        )

    def run(self, algorithm: str, **parameters: object) -> subprocess.CompletedProcess[str]:
        told = [f"--{name}={value}" for name, value in parameters.items()]
        return self("--json", "run", f"kornia_tar:{algorithm}", *told)


@pytest.fixture(scope="module")
def qgis(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Qgis:
    return Qgis(tmp_path_factory.mktemp("qgis"), program)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Optical and SAR with georeferences, that of the SAR image 30 m too far east."""
    rasterio = pytest.importorskip("rasterio", reason="georeferences need rasterio")
    folder, scene = tmp_path_factory.mktemp("two layers"), draw_scene(3, 256)
    grid = rasterio.transform.from_origin
    write_image(folder / "o.tif", scene.optical[:SIDE, :SIDE], GeoProfile(UTM, grid(5e5, 4.6e6, 10, 10)))
    write_image(folder / "s.tif", scene.sar[8 : 8 + SIDE, 12 : 12 + SIDE],
                GeoProfile(UTM, grid(5e5 + 150, 4.6e6 - 80, 10, 10)))  # fmt: skip
    return folder / "o.tif", folder / "s.tif"


def results(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])["results"]


def test_the_provider_and_its_parameters_are_there(qgis):
    listed = qgis("list").stdout
    assert all(f"kornia_tar:{name}" in listed for name in ("register", "apply", "landcover"))
    told = qgis("help", "kornia_tar:register").stdout
    assert all(name in told for name in ("IMAGE0", "IMAGE1", "MODALITY1", "MODEL", "SEARCH_RADIUS", "OUTPUT"))


@needs_weights
def test_register_then_apply(qgis, files, tmp_path):
    found = results(qgis.run("register", IMAGE0=files[0], IMAGE1=files[1], SEARCH_RADIUS=300, OUTPUT=tmp_path / "out"))
    assert found["REGISTERED"] == str(tmp_path / "out/registered.tif") and found["PROBABILITY"] > 0.9
    assert read_image(found["REGISTERED"]).profile.crs == UTM
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["search"]["radius"] == 300 and found["ERROR"] == pytest.approx(report["error_estimate_px"])
    applied = results(
        qgis.run("apply", TRANSFORM=tmp_path / "out/transform.json", IMAGES=files[1], OUTPUT=tmp_path / "applied")
    )
    one = read_image(Path(applied["OUTPUT"]) / "s_registered.tif")
    np.testing.assert_array_equal(one.pixels, read_image(found["REGISTERED"]).pixels)
    again = qgis.run("register", IMAGE0=files[0], IMAGE1=files[1], OUTPUT=tmp_path / "out")
    assert again.returncode != 0 and "is there already" in again.stdout + again.stderr


def test_a_refusal_fails_with_its_reason(qgis, files, tmp_path):
    write_image(tmp_path / "flat.png", np.full((64, 64), 9, np.uint8))
    done = qgis.run("register", IMAGE0=tmp_path / "flat.png", IMAGE1=files[1], OUTPUT=tmp_path / "out")
    assert done.returncode != 0 and "image0 is flat" in done.stdout + done.stderr


@needs_weights
def test_land_cover_writes_its_picture(qgis, files, tmp_path):
    found = results(
        qgis.run("landcover", IMAGE0=files[0], IMAGE1=files[1], NAMES="river,forest", OUTPUT=tmp_path / "cover.png")
    )
    assert read_image(found["OUTPUT"]).size[1] > SIDE


IN_QGIS = """
import json, sys, threading, time
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsProject

plugins, image0, image1, done, canceled = sys.argv[1:]
application = QgsApplication([], False)
application.initQgis()
sys.path.insert(0, plugins)
import kornia_tar_qgis

plugin = kornia_tar_qgis.classFactory(None)
plugin.initProcessing()
registry = QgsApplication.processingRegistry()


class Feedback(QgsProcessingFeedback):
    steps = ()

    def setProgressText(self, text):
        self.steps = (*self.steps, (text, self.progress()))


def run(folder, cancel_at=None):
    context, feedback = QgsProcessingContext(), Feedback(False)
    context.setProject(QgsProject.instance())

    def cancel():
        while not any(cancel_at == text for text, _ in feedback.steps):
            time.sleep(0.05)
        feedback.cancel()

    if cancel_at:
        threading.Thread(target=cancel, daemon=True).start()
    told = {"IMAGE0": image0, "IMAGE1": image1, "OUTPUT": folder, "SEARCH_RADIUS": 300}
    algorithm = registry.algorithmById("kornia_tar:register")
    found, ok = algorithm.run(told, context, feedback)
    layers = {path: details.name for path, details in context.layersToLoadOnCompletion().items()}
    return {"ok": ok, "found": found, "steps": feedback.steps, "layers": layers, "log": feedback.textLog()}


told = {"done": run(done), "canceled": run(canceled, "registering")}
plugin.unload()
told["gone"] = registry.providerById("kornia_tar") is None
print("TOLD" + json.dumps(told))
"""


@needs_weights
def test_in_a_running_qgis_the_result_goes_to_the_map_and_a_run_can_be_canceled(qgis, program, files, tmp_path):
    python = shutil.which("python3", path=os.environ.get("PYQGIS_PATH", "/usr/bin"))  # of QGIS, not of this environment
    ready = python and subprocess.run([python, "-c", "import qgis.core"], env=qgis.environment, capture_output=True)
    if not ready or ready.returncode:
        pytest.skip("no Python in /usr/bin (or PYQGIS_PATH) that imports qgis.core")
    command.install(tmp_path / "plugins", program)
    words = [str(path) for path in (tmp_path / "plugins", *files, tmp_path / "done", tmp_path / "canceled")]
    done = subprocess.run(
        [python, "-c", IN_QGIS, *words], env=qgis.environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert "TOLD" in done.stdout, done.stdout + done.stderr
    told = json.loads(done.stdout.partition("TOLD")[2])
    assert told["done"]["ok"] and told["gone"]
    assert told["done"]["layers"] == {str(tmp_path / "done/registered.tif"): "s registered"}
    steps = [["loading the weights", 0], ["reading", 25], ["registering", 50], ["writing", 75]]
    assert told["done"]["steps"] == steps and told["canceled"]["steps"] == steps[:3]
    assert not told["canceled"]["ok"] and not told["canceled"]["layers"]
    assert "canceled; nothing half-written is left" in told["canceled"]["log"]
    assert not (tmp_path / "canceled").exists()
