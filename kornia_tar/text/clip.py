"""CLIP text encoders: RemoteCLIP, and every model open_clip knows.

Only the text tower is built and read: 254 of the 605 MB of RemoteCLIP ViT-B-32; the rest, below ``visual.``, is never
needed here. Needs ``open_clip``, from ``pip install kornia-tar[text]``.

**GELU or QuickGELU.** RemoteCLIP (Liu et al., IEEE TGRS 2024) was fine-tuned from OpenAI's CLIP, whose activation is
QuickGELU, ``x * sigmoid(1.702 x)``; its published recipe loads the weights into open_clip's plain ``ViT-B-32``, whose
activation is GELU. The weights do not tell, and the two give different features. The default here is the published
recipe, ``"gelu"``; which one was used is recorded in ``info``, because features of the two must not be mixed.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from .descriptors import check_texts

Activation = Literal["gelu", "quick_gelu"]
_Encoder = Callable[[Tensor], Tensor]  # tokens (P, L) -> features (P, dim)

_BATCH = 64
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Keys of an open_clip state dict that are no part of the text tower.
_NOT_TEXT = ("visual.", "logit_scale", "logit_bias", "attn_mask", "text.attn_mask")


class _ClipPrior:
    """Tokenizer and text encoder of open_clip behind the `TextPrior` protocol."""

    name: str
    info: Mapping[str, str]

    def __init__(self, model: str, encode_text: _Encoder, device: str | torch.device) -> None:
        self._tokenize = _open_clip().get_tokenizer(model)
        self._encode_text = encode_text
        self._device = torch.device(device)
        self.dim = self._features(("water",)).shape[1]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return (P, dim) float32 features on the CPU, rows of unit norm.

        Raises:
            TypeError: One bare string instead of a sequence.
            ValueError: An empty prompt.
        """
        prompts = check_texts(prompts, "prompts")
        batches = [self._features(prompts[start : start + _BATCH]) for start in range(0, len(prompts), _BATCH)]
        return torch.cat([torch.empty(0, self.dim), *batches])

    @torch.no_grad()
    def _features(self, prompts: Sequence[str]) -> Tensor:
        features = self._encode_text(self._tokenize(list(prompts)).to(self._device))
        return F.normalize(features.float().cpu(), dim=-1)


class RemoteCLIPPrior(_ClipPrior):
    """The text tower of RemoteCLIP, or of any checkpoint in open_clip's layout.

    Args:
        checkpoint: A local file, which is an open_clip state dict (``.pt`` or ``.safetensors``); or, where no such
            file is, a hub repository like ``"chendelong/RemoteCLIP"``, fetched through ``huggingface_hub``.
        model: The open_clip model it fits: ``"ViT-B-32"`` (dim 512), ``"RN50"`` (1024), ``"ViT-L-14"`` (768).
        activation: ``"gelu"`` as in RemoteCLIP's published recipe, or ``"quick_gelu"`` as in its training.
        filename: The file in the hub repository; ``None`` means ``RemoteCLIP-<model>.pt``.
        device: Where the tower runs.

    Attributes:
        info: ``encoder``, ``model``, ``activation``, ``checkpoint`` (file name), ``sha256`` of the file, ``open_clip``.

    Raises:
        ImportError: open_clip is not installed.
        FileNotFoundError: No such file, or the hub cannot be reached.
        ValueError: Unknown model or activation; a file that needs unpickling, or whose tensors do not fit the model.
    """

    name = "remoteclip"

    def __init__(
        self,
        checkpoint: str | Path,
        model: str = "ViT-B-32",
        activation: Activation = "gelu",
        filename: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if activation not in ("gelu", "quick_gelu"):
            raise ValueError(f"unknown activation {activation!r}: use 'gelu' or 'quick_gelu'")
        path = _local_or_hub(checkpoint, filename or f"RemoteCLIP-{model}.pt")
        tower = _text_tower(model, path, quick_gelu=activation == "quick_gelu").to(device)
        super().__init__(model, tower, device)
        self.info = _info("RemoteCLIP", model, tower, path)


class OpenCLIPPrior(_ClipPrior):
    """The text encoder of any open_clip model.

    Args:
        model: A name of ``open_clip.list_models()``, or ``"hf-hub:owner/repository"``, which brings its own weights.
        pretrained: A tag of ``open_clip.list_pretrained_tags_by_model(model)``, which open_clip downloads; or a local
            file, of which the text tower alone is read; or ``None``: random weights (seed 0), with a warning.
        device: Where the encoder runs.

    Attributes:
        info: ``encoder``, ``model``, ``activation``, ``checkpoint`` (tag or file name), ``sha256`` of a local file,
            ``open_clip``.

    Raises:
        ImportError: open_clip is not installed.
        FileNotFoundError: No such file, or the weights cannot be downloaded.
        ValueError: Unknown model or tag, or a file that does not fit the model.
    """

    name = "open_clip"

    def __init__(
        self, model: str = "ViT-B-32", pretrained: str | Path | None = None, device: str | torch.device = "cpu"
    ) -> None:
        if pretrained is not None and (Path(pretrained).is_file() or Path(pretrained).suffix in _WEIGHT_SUFFIXES):
            path = _local_file(pretrained)
            tower = _text_tower(model, path).to(device)
            super().__init__(model, tower, device)
            self.info = _info("open_clip", model, tower, path)
            return
        clip = _pretrained_clip(model, None if pretrained is None else str(pretrained)).to(device)
        super().__init__(model, cast(_Encoder, clip.encode_text), device)
        default = "own" if model.startswith("hf-hub:") else "random weights, seed 0"
        self.info = _info("open_clip", model, clip, str(pretrained or default))


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(f"this text prior needs open_clip: pip install kornia-tar[text] ({error})") from error
    except RuntimeError as error:
        # A torchvision built for another torch fails at import: "operator torchvision::nms does not exist".
        raise ImportError(
            f"open_clip cannot import torchvision: install the one built for your torch ({error})"
        ) from error
    return open_clip


def _info(family: str, model: str, encoder: nn.Module, source: Path | str) -> dict[str, str]:
    quick = any(type(module).__name__ == "QuickGELU" for module in encoder.modules())
    checkpoint = {"checkpoint": str(source)}
    if isinstance(source, Path):
        with source.open("rb") as file:
            checkpoint = {"checkpoint": source.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    label = f"{family} {model}" if family == "RemoteCLIP" else f"{family} {model} {checkpoint['checkpoint']}"
    return {
        "encoder": f"{label} (quick_gelu)" if quick else label,
        "model": model,
        "activation": "quick_gelu" if quick else "gelu",
        **checkpoint,
        "open_clip": _open_clip().__version__,
    }


def _model_config(model: str) -> dict[str, Any]:
    open_clip = _open_clip()
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise ValueError(f"unknown open_clip model {model!r}: open_clip.list_models() has the known ones")
    return config


def _text_tower(model: str, path: Path, quick_gelu: bool | None = None) -> nn.Module:
    """Build the text tower of a model and fill it from a file; ``None`` takes the activation of the model's config."""
    config = _model_config(model)
    if config["text_cfg"].get("hf_model_name"):
        raise ValueError(f"model {model!r} has a Hugging Face text encoder: a local file of it cannot be read here")
    from open_clip.model import _build_text_tower  # no public name builds the text tower alone

    if quick_gelu is None:
        quick_gelu = config.get("quick_gelu", False)
    # On "meta" nothing is allocated or drawn: the weights of the file are put in place, the global seed is left alone.
    with torch.device("meta"):
        tower: Any = _build_text_tower(config["embed_dim"], config["text_cfg"], quick_gelu=quick_gelu)
    state = _text_state(path)
    _check_fit(path, model, state, tower.state_dict())
    tower.load_state_dict(state, assign=True)
    if tower.attn_mask is not None:  # not part of a state dict, so still on "meta"
        tower.attn_mask = tower.build_causal_mask()
    return tower.requires_grad_(False).eval()


def _text_state(path: Path) -> dict[str, Tensor]:
    """Read the text tensors of an open_clip state dict as float32; pickled objects are refused."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                raw = {key: file.get_tensor(key) for key in file.keys() if _is_text(key)}  # noqa: SIM118
        else:
            with warnings.catch_warnings(action="ignore"):  # about the pickle protocol of files refused right after
                raw = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            raw = raw["state_dict"] if isinstance(raw, dict) and "state_dict" in raw else raw
    except Exception as error:  # what torch.load raises on foreign bytes is not a closed list
        # Not torch's own words: they advise to load the file with weights_only=False.
        reason = f"pickled objects are refused ({type(error).__name__})"
        raise ValueError(f"{path}: not a readable file of plain tensors, {reason}") from None
    if not isinstance(raw, dict) or not all(isinstance(value, Tensor) for value in raw.values()):
        raise ValueError(f"{path}: not a state dict, which maps names to tensors")
    # A copy, so that the mapped file is let go.
    return {_text_key(key): value.to(torch.float32, copy=True) for key, value in raw.items() if _is_text(key)}


def _is_text(key: str) -> bool:
    return not key.removeprefix("module.").startswith(_NOT_TEXT)


def _text_key(key: str) -> str:
    return key.removeprefix("module.").removeprefix("text.")


def _check_fit(path: Path, model: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for key in expected:
        if key not in state:
            raise ValueError(f"{path}: no {key!r} in it, so it is no checkpoint of {model!r} in open_clip's layout")
    for key, value in state.items():
        if key not in expected:
            raise ValueError(f"{path}: holds {key!r}, which the text tower of {model!r} has not: choose another model")
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)}, {model!r} needs {tuple(expected[key].shape)}"
            raise ValueError(f"{path}: {key!r} has the shape {shapes}: choose the model it belongs to")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key!r} holds NaN or Inf")


def _local_file(path: str | Path, hint: str = "") -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"text checkpoint {path}: no such file{hint}")
    return path


def _local_or_hub(checkpoint: str | Path, filename: str) -> Path:
    is_hub = isinstance(checkpoint, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint)
    if Path(checkpoint).exists() or not is_hub or Path(checkpoint).suffix in _WEIGHT_SUFFIXES:
        return _local_file(checkpoint, f"; {filename} is to be had at Hugging Face, chendelong/RemoteCLIP")
    _open_clip()  # say that it is missing before a download, not after
    from huggingface_hub import hf_hub_download  # comes with open_clip

    try:
        return Path(hf_hub_download(str(checkpoint), filename))
    except Exception as error:  # network, permission and lookup errors of three libraries
        raise FileNotFoundError(
            f"cannot get {filename} of {checkpoint} from the hub ({type(error).__name__}): "
            "download it where there is a network and give its path as checkpoint"
        ) from error


def _pretrained_clip(model: str, tag: str | None) -> nn.Module:
    """Let open_clip make the whole model, and let go of its visual half."""
    open_clip = _open_clip()
    if not model.startswith("hf-hub:"):
        _model_config(model)
        tags = open_clip.list_pretrained_tags_by_model(model)
        if tag is None:
            warnings.warn(f"open_clip {model}: no pretrained weights asked for, so they are random", stacklevel=3)
        elif tag not in tags:
            raise ValueError(f"{tag!r} is neither a file nor a tag of {model!r}: tags are {', '.join(tags) or 'none'}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            clip: nn.Module = open_clip.create_model(model, pretrained=tag)
        except Exception as error:  # network, permission and lookup errors of three libraries
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise FileNotFoundError(f"open_clip cannot make {model!r} with weights {tag!r}: {reason}") from error
    del clip.visual
    return clip.requires_grad_(False).eval()
