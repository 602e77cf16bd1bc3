"""Text features that were computed before: a bank of named rows, read from and written to one small file.

A bank is what text becomes in practice: the encoder is frozen and the prompts are known, so its output is a matrix of
a few dozen rows, and neither the encoder nor its 600 MB of weights are needed where matching runs.

Three formats, chosen by the suffix, with the same four fields:

========== ================ ============== ========= =======
field      shape            npz            h5        safetensors
========== ================ ============== ========= =======
embeddings (K, D) float     array          dataset   tensor
class_names (K,)            array of str   dataset   metadata, JSON
prompts    (T,) templates   array of str   dataset   metadata, JSON
encoder    one string       array of str   dataset   metadata
========== ================ ============== ========= =======

In an npz file ``mean`` (K, D) or ``per_prompt`` (T, K, D) may stand for ``embeddings``; ``prompts`` and ``encoder`` may
be missing. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from kornia_tar.files import reading_hdf5, replacing, writing_hdf5
from kornia_tar.text.descriptors import check_texts

MAX_BYTES = 64 * 2**20
"""A bank larger than this is refused unread: 100 names x 100 prompts x 1024 float32 are 40 MiB."""

MAX_TEXTS = 10_000
"""More names or templates in an HDF5 file are refused unread."""

_FIELDS = ("embeddings", "mean", "per_prompt", "class_names", "prompts", "encoder")


@dataclass(frozen=True, eq=False)
class TextBank:
    """Named text features of one encoder.

    Attributes:
        names: K distinct class names.
        features: (K, D) float32 on the CPU, rows of unit norm (the constructor normalises them).
        encoder: What computed the rows, e.g. ``"RemoteCLIP ViT-B-32"``. Rows of different encoders never mix.
        templates: The sentences the names stood in; the rows are means over them. Empty where it is not recorded.

    Raises:
        TypeError: ``features`` is not a floating-point tensor, or names are not strings.
        ValueError: Wrong shapes, doubled names, NaN or Inf, a row of zeros.
    """

    names: tuple[str, ...]
    features: Tensor
    encoder: str = "unknown"
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = check_texts(self.names, "names")
        if not isinstance(self.features, Tensor) or not self.features.is_floating_point():
            raise TypeError("features must be a floating-point tensor (K, D)")
        features = self.features.detach().to("cpu", torch.float32)
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"features must be (K, D) with K, D >= 1, got {tuple(features.shape)}")
        if len(names) != len(features):
            raise ValueError(f"{len(names)} names but {len(features)} rows of features: one row per name is needed")
        if len(set(names)) != len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {doubled!r} occurs twice; names must be unique")
        if not features.isfinite().all():
            raise ValueError("features hold NaN or Inf")
        if not (features.norm(dim=1) > 1e-6).all():
            raise ValueError("features hold a row of zeros, which has no direction")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "features", F.normalize(features, dim=1))
        object.__setattr__(self, "templates", check_texts(self.templates, "templates"))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """D, the length of one feature."""
        return self.features.shape[1]

    def subset(self, names: Sequence[str]) -> TextBank:
        """Return the rows of ``names``, in that order.

        Raises:
            ValueError: A name is not in the bank.
        """
        names = check_texts(names, "names")
        row = {name: index for index, name in enumerate(self.names)}
        unknown = [name for name in names if name not in row]
        if unknown:
            raise ValueError(f"the bank has no {', '.join(map(repr, unknown))}: it has {', '.join(self.names)}")
        return TextBank(names, self.features[[row[name] for name in names]], self.encoder, self.templates)

    @classmethod
    def load(cls, path: str | Path) -> TextBank:
        """Read a bank from ``.npz``, ``.safetensors``, ``.h5`` or ``.hdf5``.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Another suffix, more than 64 MiB, not such a file, or not a valid bank; the line names the file.
        """
        path = Path(path)
        read = _by_suffix(path, _READERS)
        if not path.is_file():
            raise FileNotFoundError(f"text bank {path}: no such file")
        try:
            _check_size(path.stat().st_size)
            return _assemble(read(path))
        except _BROKEN as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ValueError(f"text bank {path}: {reason}") from error

    def save(self, path: str | Path) -> None:
        """Write the bank; the suffix chooses the format. The file appears whole or not at all.

        Raises:
            ValueError: The suffix is none of ``.npz``, ``.safetensors``, ``.h5``, ``.hdf5``, or the folder is missing
                or cannot be written.
        """
        path = Path(path)
        _by_suffix(path, _WRITERS)(path, self)


class BankPrior:
    """A `TextPrior` that looks names up in a bank instead of running an encoder.

    A bank holds class names, not sentences, so that ``encode`` takes names only; the templates are already in its rows.

    Args:
        path: The file of a `TextBank`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is not a valid bank.
    """

    name = "bank"

    def __init__(self, path: str | Path) -> None:
        self.bank = TextBank.load(path)
        self.dim = self.bank.dim
        self.info: Mapping[str, str] = {"encoder": self.bank.encoder, "checkpoint": Path(path).name}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the rows (P, dim) of P class names, unit norm.

        Raises:
            ValueError: A prompt is not one of the bank's class names.
        """
        prompts = check_texts(prompts, "prompts")
        unknown = next((prompt for prompt in prompts if prompt not in self.bank.names), None)
        if unknown is not None:
            known = ", ".join(self.bank.names)
            raise ValueError(
                f"{unknown!r} is not in the bank: a bank takes its own class names, no sentences ({known})"
            )
        return self.bank.features[[self.bank.names.index(prompt) for prompt in prompts]]


# What the readers raise for a file that is damaged or is something else; h5py adds KeyError and RuntimeError.
_BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    OSError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)


def _by_suffix(path: Path, table: Mapping[str, Any]) -> Any:
    try:
        return table[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"text bank {path}: unknown suffix {path.suffix!r}, use one of {', '.join(table)}") from None


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{size / 2**20:.0f} MiB is more than the {MAX_BYTES // 2**20} MiB a bank may have")


def _assemble(fields: Mapping[str, np.ndarray]) -> TextBank:
    if "class_names" not in fields:
        raise ValueError("no class_names in it")
    if "per_prompt" in fields and not fields.keys() & {"embeddings", "mean"}:
        per_prompt = fields["per_prompt"]
        if per_prompt.ndim != 3:
            raise ValueError(f"per_prompt must be (T, K, D), got {per_prompt.shape}")
        rows = per_prompt.mean(axis=0, dtype=np.float64)
    elif "embeddings" in fields:
        rows = fields["embeddings"]
    elif "mean" in fields:
        rows = fields["mean"]
    else:
        raise ValueError("no embeddings in it")
    if rows.dtype.kind != "f":
        raise ValueError(f"embeddings must be floating point, got {rows.dtype}")
    names, templates = (tuple(map(str, np.atleast_1d(fields.get(key, ())))) for key in ("class_names", "prompts"))
    # float() of an array larger than float32 would become Inf, and is caught as such by the constructor.
    with np.errstate(over="ignore"):
        features = torch.from_numpy(rows.astype(np.float32))
    return TextBank(names, features, str(fields.get("encoder", "unknown")), templates)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        _check_size(sum(member.file_size for member in archive.infolist()))
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in _FIELDS if key in arrays}


def _write_npz(path: Path, bank: TextBank) -> None:
    # An open file, or numpy would append its own suffix to the temporary name.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            embeddings=bank.features.numpy(),
            class_names=np.array(bank.names),
            prompts=np.array(bank.templates, dtype=np.str_),
            encoder=np.array(bank.encoder),
        )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        texts = {key: json.loads(metadata[key]) for key in ("class_names", "prompts") if key in metadata}
        for key, value in texts.items():
            if not isinstance(value, list):
                raise ValueError(f"metadata {key} must be a JSON list")
        fields = {key: np.array(value, dtype=np.str_) for key, value in texts.items()}
        if "encoder" in metadata:
            fields["encoder"] = np.array(metadata["encoder"])
        return fields | {key: file.get_tensor(key) for key in _FIELDS[:3] if key in file.keys()}  # noqa: SIM118


def _write_safetensors(path: Path, bank: TextBank) -> None:
    metadata = {"class_names": json.dumps(bank.names), "prompts": json.dumps(bank.templates), "encoder": bank.encoder}
    with replacing(path) as temporary:
        temporary.write_bytes(save({"embeddings": bank.features.contiguous()}, metadata))


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    fields: dict[str, np.ndarray] = {}
    with reading_hdf5(path) as file:
        for key in _FIELDS:
            if key not in file:
                continue
            dataset = file[key]
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(f"{key} must be a dataset")
            # The shape is a promise of the header: a few compressed bytes can promise terabytes.
            _check_size(math.prod(dataset.shape) * dataset.dtype.itemsize)
            is_text = h5py.check_string_dtype(dataset.dtype) is not None
            if is_text and (count := math.prod(dataset.shape)) > MAX_TEXTS:  # HDF5 looks for each of them on its own
                raise ValueError(f"{key} holds {count} texts, more than {MAX_TEXTS}")
            fields[key] = np.array(dataset.asstr()[()] if is_text else dataset[()])
    return fields


def _write_h5(path: Path, bank: TextBank) -> None:
    with writing_hdf5(path) as file:
        text = h5py.string_dtype()
        file.create_dataset("embeddings", data=bank.features.numpy())
        file.create_dataset("class_names", data=list(bank.names), dtype=text)
        file.create_dataset("prompts", data=list(bank.templates), dtype=text, shape=(len(bank.templates),))
        file.create_dataset("encoder", data=bank.encoder, dtype=text)


_READERS = {".npz": _read_npz, ".safetensors": _read_safetensors, ".h5": _read_h5, ".hdf5": _read_h5}
_WRITERS = {".npz": _write_npz, ".safetensors": _write_safetensors, ".h5": _write_h5, ".hdf5": _write_h5}
