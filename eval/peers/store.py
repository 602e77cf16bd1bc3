"""Where peers' weights come from: a folder, an opt-in download, or, for speed and memory alone, nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

import torch

Module = TypeVar("Module", bound=torch.nn.Module)
State = dict[str, torch.Tensor]


class NotRun(Exception):
    """A matcher that cannot be run here; the message is the reason that the report prints."""


class Store:
    """The weights of one matcher.

    Args:
        folder: folder of all peers' weights.
        checkpoint: TAR's checkpoint; None for the one that kornia_tar ships.
        download: fetch what is not in the folder.
        untrained: leave networks at random weights.

    Attributes:
        random: whether a network was left at random weights.
    """

    def __init__(
        self, folder: Path, checkpoint: Path | None = None, download: bool = False, untrained: bool = False
    ) -> None:
        self.folder, self.checkpoint, self.download, self.untrained = folder, checkpoint, download, untrained
        self.random = False
        self._files: dict[Path, None] = {}  # in the order they were asked for

    def file(self, name: str, url: str) -> Path:
        """Return a file of the folder, fetched from ``url`` first where that was opted for, or raise NotRun."""
        path = self.folder / name
        if not path.is_file():
            if not self.download:
                raise NotRun(f"no weights ({name} is not in the weights folder; it comes from {url})")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(path), progress=False)
            except OSError as error:
                raise NotRun(f"no weights ({url} cannot be had: {error})") from error
        self._files[path] = None
        return path

    def trained(self, name: str, how: str) -> Path:
        """Return a file that is trained here and that nobody offers, or raise NotRun that says how to make it."""
        path = self.folder / name
        if not path.is_file():
            raise NotRun(f"no weights ({name} is not in the weights folder; {how})")
        self._files[path] = None
        return path

    def load(
        self,
        module: Module,
        name: str,
        url: str,
        rename: Callable[[State], State] = lambda state: state,
        unused: str | None = None,
    ) -> Module:
        """Load a file's weights into a network and return it, ready to run.

        Args:
            module: the network.
            name: the file, relative to the folder.
            url: where its authors put it.
            rename: turns the stored dict into the network's.
            unused: submodule that may stay without weights.
        """
        if self.untrained:
            self.random = True
            return module.eval()
        load_strictly(module, rename(read_weights(self.file(name, url))), unused)
        return module

    @property
    def settings(self) -> str:
        """Say in a few words which weights were loaded."""
        return "random weights" if self.random else f"weights {digest(*self._files)}"

    def refuse_untrained(self) -> None:
        """Raise NotRun where random weights are asked for; for peers whose library only builds trained networks."""
        if self.untrained:
            raise NotRun("its library builds it with trained weights only")


def need(package: str, install: str) -> NotRun:
    """Return the NotRun for a package that is not there."""
    return NotRun(f"needs {package}: {install}")


def read_weights(path: Path) -> State:
    """Read a state dict, or raise NotRun where the file is not there."""
    if not path.is_file():
        raise NotRun(f"no weights ({path.parent.name}/{path.name} is not in the weights folder)")
    stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    return cast(State, stored.get("state_dict", stored))


def load_strictly(module: torch.nn.Module, state: State, unused: str | None = None) -> None:
    """Load a state dict that may lack buffers and the submodule named ``unused``, but no weight that is in use."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    used = {name for name, _ in module.named_parameters() if name.split(".")[0] != unused}
    random = set(missing) & used
    if random or unexpected:
        odd = sorted(random) + list(unexpected)
        raise NotRun(f"weights do not fit this library's version ({len(odd)} odd names, first {odd[0]})")
    module.eval()


def digest(*files: Path) -> str:
    """Hash files, so that matches cached from other ones are not taken for theirs."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Hold back libraries that fetch weights by themselves, unless ``allowed``; what they have cached still serves."""

    def refuse(url: str, *_: Any, **__: Any) -> None:
        raise NotRun(f"no weights ({url} is not in its library's cache, and downloads were not opted for)")

    with ExitStack() as stack:
        if not allowed:
            stack.enter_context(mock.patch("torch.hub.download_url_to_file", refuse))
            with suppress(ImportError):
                stack.enter_context(mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True))
        yield
