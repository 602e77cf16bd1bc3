"""All peers by name: a file of ``classical``, ``learned`` or ``ours`` is a peer, called as the file is.

The first line of its docstring says what it is. Files that begin with an underscore are shared by several.
"""

from __future__ import annotations

import ast
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from eval.peers.base import Matcher
from eval.peers.store import Store

KINDS = ("classical", "learned", "ours")
# Asked for as ``<family>:<variant>``; their function is ``create(store: Store, variant: str) -> Matcher``.
FAMILIES = {"vismatch": "vismatch:<name>, one of the matchers that vismatch wraps, such as vismatch:xoftr"}
OWN = "<module>:<factory>, your own: a callable, as Python imports it, that takes a Store and returns a Matcher"

_FILES = {
    path.stem: path
    for kind in KINDS for path in sorted((Path(__file__).parent / kind).glob("[!_]*.py"))
}  # fmt: skip
NAMES = tuple(name for name in _FILES if name not in FAMILIES)


def check(name: str) -> None:
    """Raise ValueError where a name is no matcher's; nothing is built.

    What follows ``vismatch:`` is looked up where vismatch is installed; the module of one's own matcher is imported.
    """
    key, colon, rest = name.partition(":")
    if key in FAMILIES and rest:
        _module(key).check(rest)
    elif colon and rest and key and key not in _FILES:
        try:
            import_module("eval.peers.own").find(name)
        except ValueError as error:
            close = get_close_matches(key, FAMILIES, 1, 0.75)
            raise ValueError(f"{error}; or did you mean {close[0]}:{rest}?" if close else str(error)) from error
    elif key not in NAMES or colon:
        known = [*NAMES, *(f"{family}:<name>" for family in FAMILIES), "<module>:<factory>"]
        close = get_close_matches(key, [*NAMES, *FAMILIES], 1)
        meant = f", or did you mean {close[0]}" if close and close[0] != name else ""
        raise ValueError(f"matcher {name!r} is unknown: choose from {', '.join(known)}{meant}")


def create(
    name: str, weights: Path, checkpoint: Path | None = None, *, download: bool = False, untrained: bool = False
) -> Matcher:
    """Build a matcher by its name.

    Args:
        name: one of ``NAMES``, ``vismatch:<name>``, or ``<module>:<factory>`` of one's own.
        weights: folder of the peers' weights.
        checkpoint: TAR's checkpoint; None for the one that kornia_tar ships.
        download: fetch weights that are not there, from where their authors put them.
        untrained: random weights where a network would read some. For speed and memory alone: the matches mean
            nothing, and the matcher's name says so.

    Raises:
        MatcherUnavailable: when it cannot be run here, with the reason.
        ValueError: when there is no such matcher.
        TypeError: when one's own factory returns no matcher.
    """
    check(name)
    store = Store(weights, checkpoint, download, untrained)
    key, colon, variant = name.partition(":")
    if key in FAMILIES:
        matcher = _module(key).create(store, variant)
    elif colon:
        matcher = import_module("eval.peers.own").create(store, name)
    else:
        matcher = _module(key).create(store)
    if store.random:
        matcher.name += " (random weights)"
    return cast(Matcher, matcher)


def describe() -> str:
    """List all matchers, one line each, for a command's help."""
    width = max(map(len, NAMES)) + 2
    lines = [f"  {name:{width}}{_says(_FILES[name])}" for name in NAMES]
    return "\n".join([*lines, *(f"  {line}" for line in (*FAMILIES.values(), OWN))])


def _module(name: str) -> Any:
    return import_module(f"eval.peers.{_FILES[name].parent.name}.{name}")


def _says(path: Path) -> str:
    """Return the first line of a file's docstring; the file is read, not run."""
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "says nothing of itself"
    return said.splitlines()[0].rstrip(".")
