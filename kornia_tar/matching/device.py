"""Which device a matcher runs on."""

from __future__ import annotations

import torch

from kornia_tar.files import one_line


def choose_device(name: str) -> str:
    """Resolve "auto", and refuse a device that is not there in one line."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError:  # lists names of devices that no torch in use knows
        raise ValueError(f"device {name}: is none; give auto, cpu, cuda, cuda:1 or mps") from None
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name}: not available here ({one_line(error)})") from None
    return name
