"""The way to hloc: TAR made known to it, and its dense matching run, without a fork and without replacing anything."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

from hloc_plugin.confs import confs


def how_to_install(package: str) -> str:
    """The command that installs hloc, or the package that ships a fork of it."""
    if package.split(".")[0] == "imcui":
        return "pip install imcui"
    return "pip install git+https://github.com/cvg/Hierarchical-Localization"


def import_hloc(package: str, module: str) -> ModuleType:
    """Import a module of hloc.

    Args:
        package: where hloc lives.
        module: its name in there.

    Raises:
        ImportError: hloc or something it needs is not installed, or does not load; the line says what to do.
    """
    import torch  # before hloc, which imports pycolmap: see _pycolmap.py

    try:
        return importlib.import_module(f"{package}.{module}")
    except ImportError as error:
        missing = f"{package} is not installed" if error.name == package.split(".")[0] else f"{package}: {error}"
        raise ImportError(f"{missing}; {how_to_install(package)}", name=error.name) from error
    except (RuntimeError, AttributeError, OSError) as error:
        # A torchvision beside a torch that it was not built for: its operators, or its library, do not load.
        what = " ".join(str(error).split())
        needs = (
            f"; install the torchvision that was built for torch {torch.__version__}" if "torchvision" in what else ""
        )
        raise ImportError(f"{package} cannot be imported ({what}){needs}") from error


def register(package: str = "hloc") -> None:
    """Let ``hloc.matchers`` find ``tar`` and ``hloc.match_dense.confs`` list the confs; may be called twice.

    hloc loads a matcher by importing ``hloc.matchers.<name>``, so a further folder on that package's path is enough.
    A conf of the same name that is there already stays.

    Args:
        package: where hloc lives, e.g. "imcui.hloc" for the fork that imcui ships.

    Raises:
        ImportError: hloc or something it needs is not installed, or does not load; the line says what to do.
    """
    matchers, match_dense = (import_hloc(package, name) for name in ("matchers", "match_dense"))
    folder = str(Path(__file__).with_name("_matchers"))
    if folder not in matchers.__path__:
        matchers.__path__.append(folder)
    for name, conf in confs.items():
        match_dense.confs.setdefault(name, deepcopy(conf))


def match_dense(
    conf: Mapping[str, Any],
    pairs: Path,
    image_dir: Path,
    export_dir: Path,
    *,
    max_kps: int | None = 8192,
    overwrite: bool = False,
    package: str = "hloc",
) -> tuple[Path, Path]:
    """Run ``hloc.match_dense.main``, and refuse beforehand what it does badly without a word.

    hloc keeps the keypoints that an image has from an earlier run, and of new pairs only the matches that happen to
    lie on them; with ``overwrite`` it replaces keypoints that the matches of other pairs count.

    Args:
        conf: one of :data:`hloc_plugin.confs`.
        pairs: text file of pairs.
        image_dir: folder that their names count from.
        export_dir: folder for both files; made when missing.
        max_kps: most keypoints of an image; None for all.
        overwrite: match pairs again that are in hloc's files.
        package: where hloc lives.

    Returns:
        paths of the features and of the matches.

    Raises:
        FileNotFoundError: an image that is named and not there.
        ImportError: as :func:`register`.
        ValueError: keypoints of an earlier run stand in the way.
    """
    from hloc_plugin.formats import check_kept, check_others, dense_paths, image_files, read_pairs
    from hloc_plugin.model import files_of
    from kornia_tar.files import check_outputs, output_folder

    names = read_pairs(pairs, image_dir)
    features, matches = dense_paths(conf["output"], pairs, export_dir)
    read = [pairs, *image_files(image_dir, names), *files_of(conf["model"])]
    check_outputs((features, matches), read, overwrite=True)
    if overwrite:
        check_others(conf["output"], names, matches, whole=False)
    else:
        check_kept(names, features, matches)
    register(package)
    with plain_pairs(pairs) as plain:
        import_hloc(package, "match_dense").main(
            deepcopy(dict(conf)), plain, image_dir, output_folder(export_dir), max_kps=max_kps, overwrite=overwrite
        )
    return features, matches


@contextmanager
def plain_pairs(pairs: Path) -> Iterator[Path]:
    """Lend a file of the same name and pairs, without what hloc takes for names: comments, a byte-order mark."""
    from hloc_plugin.formats import read_pairs

    with tempfile.TemporaryDirectory(prefix="tar-hloc") as folder:
        plain = Path(folder) / pairs.name
        plain.write_text("".join(f"{name0} {name1}\n" for name0, name1 in read_pairs(pairs)), "utf-8")
        yield plain
