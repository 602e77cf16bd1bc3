"""Checkpoints: one safetensors file with the network's tensors and, in its metadata, config and provenance.

No pickle is read. Weights are stored in fp16; a truncated, foreign or oversized file is refused in one clear line.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kornia_tar.files import replacing
from kornia_tar.network.calibration import Calibration
from kornia_tar.network.layers import RepConv
from kornia_tar.network.net import TARConfig, TARNet

FORMAT = "kornia-tar-1"
MAX_BYTES = 512 * 2**20  # nothing we train is near it; a larger file is not one of ours
LOFTR = ("outdoor", "indoor", "indoor_new")  # weights that whoever swaps matchers may ask for
MAX_WIDTH, MAX_TEXT = 1024, 2**16  # of a config: channels, layers and the like; names and their features
WEIGHTS = Path(__file__).parents[1] / "weights"  # shipped in the wheel


def resolve_weights(name: str | Path) -> Path:
    """Path of a shipped checkpoint by name, or of a file.

    Raises:
        FileNotFoundError: neither; the line lists the shipped names.
    """
    shipped = WEIGHTS / f"{name}.safetensors"
    if shipped.is_file():
        return shipped
    if Path(name).suffix or Path(name).exists():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))) or "none"
    whose = " (that is LoFTR's)" if str(name) in LOFTR else ""
    raise FileNotFoundError(
        f"no weights named {str(name)!r}{whose}: shipped are {known}; or give the path of a .safetensors"
    )


def save_checkpoint(path: str | Path, net: TARNet, info: dict[str, Any]) -> None:
    """Write ``net`` to ``path`` atomically.

    Args:
        path: target, ``.safetensors``.
        net: an unfused network.
        info: JSON-serialisable provenance: text prior, data, recipe, seed, …; under "calibration" what
            :meth:`kornia_tar.network.calibration.Calibration.to_metadata` gave, where there is a fit.
    """
    path = Path(path)
    tensors = {k: v.detach().to("cpu", torch.float16 if v.is_floating_point() else v.dtype).contiguous()
               for k, v in net.state_dict().items()}  # fmt: skip
    if any(isinstance(m, RepConv) and m.fused is not None for m in net.modules()):
        raise ValueError(f"checkpoint {path}: a fused network is for inference and cannot be saved; save it unfused")
    # The text may have been exchanged for another number of names since the net was made.
    config = replace(net.config, tafe=replace(net.config.tafe, classes=len(net.tafe.tokens)))
    if config.landcover is not None and net.landcover is not None:
        config = replace(config, landcover=replace(config.landcover, classes=len(net.landcover.words)))
    meta = {"format": FORMAT, "config": json.dumps(config.to_dict()), "info": json.dumps(info)}
    if not path.parent.is_dir():
        raise FileNotFoundError(f"checkpoint {path}: no such folder")
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, meta))  # Python's own write tells of a full disk


def load_checkpoint(path: str | Path) -> tuple[TARNet, dict[str, Any]]:
    """Read a checkpoint.

    Args:
        path: a file written by :func:`save_checkpoint`.

    Returns:
        the network in eval mode (fp32, CPU), and the provenance.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a kornia-tar checkpoint: truncated, a pickle, another format, or tensors that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"checkpoint {path}: {path.stat().st_size >> 20} MiB is larger than {MAX_BYTES >> 20} MiB")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint {path}: not a readable safetensors file ({error}); pickles (.pt, .pth) are not loaded, "
            "and a truncated file must be copied again"
        ) from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path}: its format is {meta.get('format')!r}, need {FORMAT!r}")
    try:
        config, info = TARConfig.from_dict(json.loads(meta["config"])), json.loads(meta["info"])
        _check_sizes(config, tensors)
        _check_info(info)
        net = TARNet(config)
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        if broken := [name for name, t in net.state_dict().items() if not t.isfinite().all()]:
            raise ValueError(f"{broken[0]} holds NaN or Inf")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint {path}: its tensors or config do not fit this version ({reason})") from None
    return net.eval(), info


def _check_sizes(config: TARConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Refuse a config that promises a larger network than there are tensors for, before memory is taken for it."""
    elements, msfl, cfdm = sum(tensor.numel() for tensor in tensors.values()), config.msfl, config.cfdm
    wide = [*msfl.widths, *msfl.blocks, cfdm.heads, cfdm.layers, cfdm.window, cfdm.hidden]
    if (second := config.second_look) is not None:
        wide += [second.hidden, second.tokens, *second.dilations, second.spacing, second.seeds]
    text = [config.tafe.classes, config.tafe.text_dim]
    if (head := config.landcover) is not None:
        wide += [head.width, head.hidden, *head.windows]
        text += [head.classes, head.text_dim]
    if not all(isinstance(n, int) and 0 <= n <= MAX_WIDTH for n in wide) or not all(0 <= n <= MAX_TEXT for n in text):
        raise ValueError(f"its config has widths above {MAX_WIDTH}, or other numbers that no network of ours has")
    # The 3x3 convolutions of the stages alone, and a tensor at least of every layer.
    stages = zip((1, *msfl.widths[:-1]), msfl.widths, msfl.blocks, strict=True)
    inside = sum(9 * width * (before + count * width) for before, width, count in stages)
    if inside > elements or sum(msfl.blocks) + cfdm.layers > len(tensors):
        raise ValueError(f"its config promises more than its {len(tensors)} tensors of {elements} numbers")


def _check_info(info: Any) -> None:
    """Refuse provenance that those who read it would stumble over."""
    if not isinstance(info, dict):
        raise TypeError("its info is no dictionary")
    Calibration.from_metadata(info.get("calibration"))
    for key in ("text", "trained_text", "landcover"):
        text = info.get(key, {})
        if not isinstance(text, dict) or not isinstance(text.get("encoder", ""), str):
            raise TypeError(f"what it says of its {key} is no dictionary, or names no encoder")
        for part in ("names", "templates", "seen"):
            words = text.get(part, [])
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise TypeError(f"the {part} of its {key} are no list of words")
