"""Which device a matcher runs on."""

from __future__ import annotations

import torch

from kornia_tar.files import one_line


def choose_device(name: str) -> str:
    """Resolve "auto", and refuse a device that is not there in one line."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name}: not available here ({one_line(error)})") from None
    return name
