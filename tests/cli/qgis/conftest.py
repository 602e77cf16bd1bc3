"""The command as pip installs it: a script with an absolute path, of this Python and this checkout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def script() -> Callable[[Path, str], Path]:
    """A function that writes a Python program that can be run."""

    def write(path: Path, code: str) -> Path:
        path.write_text(f"#!{sys.executable}\n{code}\n", "utf-8")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, script) -> Path:
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom kornia_tar.cli.main import main\nsys.exit(main())"
    return script(tmp_path_factory.mktemp("bin") / "kornia-tar", code)
