"""How much memory it takes to match two images at once, how much there is, and one line where that is not enough.

Every cell of one image is compared with every cell of the other, some rows of them at a time, and large images are
matched small first (``network/pyramid.py``), so that the memory grows with the pixels. Without a look beforehand a pair
that is too large works for minutes and then dies in the allocator.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kornia_tar.conventions import CELL
from kornia_tar.network.cfdm import SCORES_AT_ONCE, of_device

# Measured on a CPU, one forward at 512², 1024²: 125, 400 MiB beside the weights; 115, 395 with masks.
SCORE_BYTES, MASKED_SCORE_BYTES = 12, 16  # of those scores that are worked on: float32, and what is made of them
PIXEL_BYTES = 220  # of features, and of the second look's maps
GIB = 2**30
LEAST = GIB  # below which nobody is asked how much there is

Size = tuple[int, int]


def forward_memory(device: torch.device, size0: Size, size1: Size, batch: int = 1, masked: bool = False) -> int:
    """Estimate the bytes that one forward takes beside the weights and the images, without gradients.

    Args:
        device: where the network runs.
        size0: (H, W) of image0.
        size1: (H, W) of image1.
        batch: number of pairs.
        masked: whether any image has a mask.
    """
    cells0, cells1 = (-(-height // CELL) * -(-width // CELL) for height, width in (size0, size1))
    pixels = size0[0] * size0[1] + size1[0] * size1[1]
    held = max(min(batch * cells0 * cells1, of_device(SCORES_AT_ONCE, device)), cells1)  # one row at least
    return max(batch * pixels * PIXEL_BYTES, held * (MASKED_SCORE_BYTES if masked else SCORE_BYTES))


def check_memory(device: torch.device, size0: Size, size1: Size, batch: int = 1, masked: bool = False) -> None:
    """Refuse what will not fit before any work.

    Args:
        device: where the network runs.
        size0: as in :func:`forward_memory`, and so on.
        size1: likewise.
        batch: likewise.
        masked: likewise.

    Raises:
        ValueError: more is needed than there is; with both figures and what to do.
    """
    needed = forward_memory(device, size0, size1, batch, masked)
    if needed < LEAST:
        return
    there = available_memory(device)
    if there is not None and needed > there:
        pair = f"{size0[1]}×{size0[0]} and {size1[1]}×{size1[0]} px"
        raise ValueError(
            f"{f'{batch} pairs of' if batch > 1 else 'a pair of'} {pair} needs about {needed / GIB:.1f} GiB to be "
            f"matched at once, {there / GIB:.1f} GiB are available on {device.type}: reduce or crop the images, or "
            "register them (Registrar, kornia-tar register), which looks at large images tile by tile"
        )


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may still take on a device; None where nothing tells.

    Of a CPU the least of what the machine, the control group and the process' own limit leave.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    told = [limit for limit in (_of_machine(), *_of_groups(), _of_process()) if limit is not None]
    return max(0, min(told)) if told else None


def _of_machine() -> int | None:
    """What the machine has left, swap with it; without ``/proc`` all that it has."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
        return sum(int(lines[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each control group that this process is in leaves, of version 1 or 2; a container's limit is one."""
    try:
        lines = [line.split(":", 2) for line in own.read_text("utf-8").splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if not controllers:
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            try:
                most, used = (int((folder / name).read_text("utf-8")) for name in names[:2])
                stat = dict(line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines())
                found.append(most - used + int(stat.get(names[2], 0)))  # pages of files are given back
            except (OSError, ValueError):  # "max", or another's container
                continue
    return found


def _of_process() -> int | None:
    """What ``ulimit -v`` leaves."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
