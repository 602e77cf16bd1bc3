"""The one way to pycolmap."""

from __future__ import annotations

import warnings
from types import ModuleType

NEEDED = (3, 13)


def load() -> ModuleType:
    """Import pycolmap, after torch.

    The wheels from 4.1 on carry a zlib of their own. Where they are the first to need the system's zlib, that one binds
    to theirs, and whatever writes a PNG or a compressed file afterwards corrupts the heap. torch loads the system's.

    Raises:
        ImportError: pycolmap is absent or too old.
    """
    import torch  # noqa: F401

    try:
        import pycolmap
    except ImportError as error:
        raise ImportError('needs pycolmap: pip install "kornia-tar[hloc]"') from error
    version = str(pycolmap.__version__)
    if version == "4.2.1":
        warnings.warn("pycolmap 4.2.1 triangulates no points from known poses: use another version", stacklevel=2)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < NEEDED:
        raise ImportError(f'pycolmap {version} is too old: pip install "pycolmap>=3.13,!=4.2.1"')
    return pycolmap
