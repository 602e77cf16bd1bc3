"""Anyone's own matcher, asked for as ``module:factory``, without touching a file of this repository."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from eval.peers.base import Image, Matches
from eval.peers.store import Store, digest

_NEEDED = "name", "parameters", "settings", "match"


def find(path: str) -> Callable[[Store], Any]:
    """Return the callable at ``module:factory``, as Python imports it; the working folder is searched first.

    Raises:
        ValueError: when there is none; says whether the module or the name in it is missing.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"matcher {path!r}: the module {module_name!r} cannot be imported ({error}); run from the folder that holds"
            " it, or put that folder into PYTHONPATH"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(
            f"matcher {path!r}: {module_name} has no function or class {name!r}; it has {', '.join(offered) or 'none'}"
        )
    return factory  # type: ignore[no-any-return]


class Own:
    """A matcher from elsewhere, whose code's hash goes into its settings: changed code is matched anew.

    Args:
        path: ``module:factory``.
        store: handed to the factory.

    Raises:
        TypeError: when what the factory returns is no matcher; says what it lacks.
    """

    def __init__(self, path: str, store: Store) -> None:
        factory = find(path)
        self._matcher = factory(store)
        if lacking := [part for part in _NEEDED if not hasattr(self._matcher, part)]:
            raise TypeError(
                f"matcher {path!r}: the {type(self._matcher).__name__} it returns lacks {', '.join(lacking)}; see"
                " eval.peers.Matcher"
            )
        self.name, self.parameters = str(self._matcher.name), int(self._matcher.parameters)
        self.one_transform = bool(getattr(self._matcher, "one_transform", False))
        self.settings = f"{self._matcher.settings}, code {_code(path.partition(':')[0])}"

    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match two images by the matcher's own means."""
        return self._matcher.match(image0, image1, **hints)  # type: ignore[no-any-return]


def _code(module: str) -> str:
    """Hash the file of a module."""
    file = inspect.getsourcefile(import_module(module))
    return digest(Path(file)) if file else "unknown"


def create(store: Store, path: str) -> Own:
    """Build the matcher at ``module:factory``."""
    return Own(path, store)
