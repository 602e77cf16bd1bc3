"""Toy pictures and archives for the eval tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def texture(seed: int, size: int = 256, channels: int = 1) -> np.ndarray:
    """A smooth random picture with corners enough for SIFT."""
    noise = np.random.default_rng(seed).uniform(0, 255, (size, size, channels)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5).reshape(size, size, channels)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) * (255 / (high - low))).astype(np.uint8).squeeze()


def write_tar(path: Path, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, (optical, sar) in pairs.items():
            for part, image in (("optical.webp", optical), ("sar.webp", sar)):
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "webp", lossless=True)
                add(tar, f"{name}.{part}", buffer.getvalue())
            add(tar, f"{name}.json", json.dumps({"stem": name}).encode())
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
