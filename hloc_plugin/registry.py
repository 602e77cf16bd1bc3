"""Make TAR known to hloc, without a fork and without replacing anything of it."""

from __future__ import annotations

import importlib
from copy import deepcopy
from pathlib import Path

from hloc_plugin.confs import confs


def how_to_install(package: str) -> str:
    """The command that installs hloc, or the package that ships a fork of it."""
    if package.split(".")[0] == "imcui":
        return "pip install imcui"
    return "pip install git+https://github.com/cvg/Hierarchical-Localization"


def register(package: str = "hloc") -> None:
    """Let ``hloc.matchers`` find ``tar`` and ``hloc.match_dense.confs`` list the confs; may be called twice.

    hloc loads a matcher by importing ``hloc.matchers.<name>``, so a further folder on that package's path is enough.
    A conf of the same name that is there already stays.

    Args:
        package: where hloc lives, e.g. "imcui.hloc" for the fork that imcui ships.

    Raises:
        ImportError: hloc or something it needs is not installed; the line says how to install it.
    """
    import torch  # noqa: F401  before hloc, which imports pycolmap: see _pycolmap.py

    try:
        matchers = importlib.import_module(f"{package}.matchers")
        match_dense = importlib.import_module(f"{package}.match_dense")
    except ImportError as error:
        missing = f"{package} is not installed" if error.name == package.split(".")[0] else f"{package}: {error}"
        raise ImportError(f"{missing}; {how_to_install(package)}", name=error.name) from error
    folder = str(Path(__file__).with_name("_matchers"))
    if folder not in matchers.__path__:
        matchers.__path__.append(folder)
    for name, conf in confs.items():
        match_dense.confs.setdefault(name, deepcopy(conf))
