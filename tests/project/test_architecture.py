"""The house: which room may import which, no circle, and no room too large to read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kornia_tar", "hloc_plugin", "eval")

# A room may import those named here, and itself. The most telling prefix of a module decides its room.
NETWORK = ("kornia_tar.conventions", "kornia_tar.files")
RASTER = (*NETWORK, "kornia_tar.geometry")
TEXT = (*NETWORK, "kornia_tar.network")
MATCHING = (*RASTER, "kornia_tar.raster", "kornia_tar.network", "kornia_tar.text")
REGISTRATION = (*MATCHING, "kornia_tar.matching")
OUTPUTS = (*RASTER, "kornia_tar.raster", "kornia_tar.matching.landcover", "kornia_tar.registration.result")
DOOR = ("kornia_tar", *RASTER, "kornia_tar.raster", "kornia_tar.outputs.drawing")
PEERS = (*DOOR, "eval.datasets")
BENCHMARK = (*PEERS, "eval.peers")
REPORT = (*BENCHMARK, "eval.benchmark")
CALIBRATION = (
    *REPORT, "eval.report", "kornia_tar.network.calibration", "kornia_tar.network.checkpoint",
    "kornia_tar.registration.acceptance",
)  # fmt: skip
COMMANDS = (*CALIBRATION, "eval.calibration", "kornia_tar.matching.device")
ALLOWED: dict[str, tuple[str, ...]] = {
    "kornia_tar": ("kornia_tar.matching", "kornia_tar.network", "kornia_tar.registration", "kornia_tar.text"),
    "kornia_tar.__main__": ("kornia_tar.cli",),
    "kornia_tar.conventions": (),
    "kornia_tar.files": (),
    "kornia_tar.geometry": NETWORK,
    "kornia_tar.raster": RASTER,
    "kornia_tar.network": NETWORK,
    "kornia_tar.text": TEXT,
    "kornia_tar.matching": MATCHING,
    "kornia_tar.matching.vismatch": ("kornia_tar", *MATCHING),  # an adapter of the door, which nothing here imports
    "kornia_tar.registration": REGISTRATION,
    "kornia_tar.outputs": OUTPUTS,
    "kornia_tar.training": (*TEXT, "kornia_tar.text", "kornia_tar.geometry", "kornia_tar.raster.stretch"),
    "kornia_tar.cli": ("kornia_tar",),
    "hloc_plugin": (*DOOR, "kornia_tar.cli.command", "kornia_tar.registration.acceptance"),
    "eval": (),
    "eval.cli": ("eval.commands", "eval.studies", "kornia_tar.cli.command"),
    "eval.__main__": ("eval.cli",),
    "eval.datasets": DOOR,
    "eval.peers": PEERS,
    "eval.benchmark": BENCHMARK,
    "eval.report": REPORT,
    "eval.calibration": CALIBRATION,
    "eval.commands": COMMANDS,
    "eval.studies": ("kornia_tar", "eval", "hloc_plugin"),
}
EXACT = ("kornia_tar", "eval")  # as a room that is imported, the door alone: not what stands behind it
EXTRAS = {"rasterio", "rioxarray", "xarray", "open_clip", "pycolmap", "hloc", "torchvision", "vismatch"}
WHOLE = {"kornia_tar.cli", "eval.studies"}  # may import anything of the packages that they name


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Modules of ours that a file imports anywhere, also late, in functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return {one for one in found if one.split(".")[0] in PACKAGES and one != name}


def room_of(module: str) -> str:
    """The room of a module: the longest name in ``ALLOWED`` that it begins with."""
    rooms = [room for room in ALLOWED if module == room or module.startswith(room + ".")]
    return max(rooms, key=len)


def may(module: str, target: str) -> bool:
    """Whether a module may import another."""
    room = room_of(module)
    if room == "kornia_tar.registration" and target == "kornia_tar.raster.write":
        return False  # it finds, others write
    if room == room_of(target) and room not in ("eval", "kornia_tar"):
        return True
    for allowed in ALLOWED[room]:
        if target == allowed:
            return True
        if target.startswith(allowed + ".") and (allowed not in EXACT or room in WHOLE):
            return True
    return False


KNOWN = modules()
ARROWS = {name: imports(name, path, set(KNOWN)) for name, path in KNOWN.items()}


def wrong_arrows(arrows: dict[str, set[str]]) -> list[str]:
    return sorted(
        f"{name} → {target}" for name, targets in arrows.items() for target in targets if not may(name, target)
    )


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(arrows.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, []))), [])


def test_arrows_run_one_way():
    assert wrong_arrows(ARROWS) == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("kornia_tar.geometry.warp", "kornia_tar.raster.read"),
        ("kornia_tar.network.net", "kornia_tar.registration.registrar"),
        ("kornia_tar.outputs.quicklook", "kornia_tar.matching.matcher"),
        ("kornia_tar.registration.registrar", "kornia_tar.raster.write"),
        ("hloc_plugin.model", "kornia_tar.network.net"),
        ("eval.datasets.base", "eval.peers.base"),
        ("eval.benchmark.predict", "eval.report.write"),
    ],
)
def test_an_arrow_that_is_turned_is_found(module, target):
    assert wrong_arrows({module: {target}}) == [f"{module} → {target}"]


def test_there_is_no_circle():
    assert circle(ARROWS) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def foreign_imports(path: Path) -> tuple[set[str], set[str]]:
    """Packages that a file imports when it is imported, and those that it ever imports."""
    at_import: set[str] = set()
    ever: set[str] = set()

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            ever.update(one.split(".")[0] for one in found)
            if not late:
                at_import.update(one.split(".")[0] for one in found)
        for child in ast.iter_child_nodes(node):
            visit(child, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text("utf-8")), False)
    return at_import, ever


def test_every_module_has_a_room():
    assert [
        name for name in KNOWN if room_of(name) in ("kornia_tar", "eval") and name not in ("kornia_tar", "eval")
    ] == []


EXTRAS = {"rasterio", "open_clip", "pycolmap", "hloc", "torchvision", "vismatch", "ray", "pyarrow"}


def test_geometry_needs_no_torch_and_the_package_no_extra_at_import():
    for name, path in KNOWN.items():
        top, all_ = foreign_imports(path)
        if name.startswith("kornia_tar.geometry"):
            assert "torch" not in all_, name
        if not name.startswith("kornia_tar.matching.vismatch"):
            assert not top & EXTRAS, name


def test_no_room_is_too_large():
    def lines_of_code(path: Path) -> int:
        return sum(
            1 for line in path.read_text("utf-8").splitlines() if line.strip() and not line.strip().startswith("#")
        )

    assert {name: n for name, path in KNOWN.items() if (n := lines_of_code(path)) > 350} == {}
    for package in (*PACKAGES, "tests"):
        for folder in [ROOT / package, *(p for p in (ROOT / package).rglob("*") if p.is_dir())]:
            if folder.name == "__pycache__":  # holds what files of earlier commits left, too
                continue
            entries = [p for p in folder.iterdir() if p.name != "__pycache__" and not p.name.startswith(".")]
            if folder != ROOT / "eval" / "results":
                assert len(entries) <= 15, f"{folder.relative_to(ROOT)} has {len(entries)} entries"


def test_only_the_command_that_parsed_them_sees_the_words_of_a_command_line():
    """Below it functions take named arguments."""
    for name, path in KNOWN.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name != "_do" and not node.name.startswith("run_"):
                told = [ast.unparse(a.annotation) for a in node.args.args + node.args.kwonlyargs if a.annotation]
                assert not any("Namespace" in one for one in told), f"{name}.{node.name}"
