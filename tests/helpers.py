"""What several test files share: a small network whose every part acts, and pictures with something on them."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kornia_tar import TARMatcher
from kornia_tar.network.cfdm import CFDMConfig
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.msfl import MSFLConfig
from kornia_tar.network.net import TARConfig, TARNet
from kornia_tar.network.tafe import TAFEConfig
from kornia_tar.raster import GeoProfile, write_image
from kornia_tar.raster.synthetic import demo_pair, draw_scene

SMALL = TARConfig(
    MSFLConfig(widths=(8, 16, 32, 32), blocks=(1, 1, 1, 1)),
    TAFEConfig(text_dim=16, classes=4),
    CFDMConfig(heads=2, layers=1),
)
SIDE = 96  # of the fake shards' images
ERROR_SCALE = Path(__file__).resolve().parents[1].parent / "shared"
SHIPPED = Path(__file__).resolve().parents[1] / "kornia_tar" / "weights" / "optical-sar.safetensors"

needs_weights = pytest.mark.skipif(not SHIPPED.is_file(), reason="no shipped weights in kornia_tar/weights")


def png_bomb() -> bytes:
    """A PNG of a few bytes whose header promises 900 megapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def picture(seed: int, height: int, width: int, batch: int = 1, channels: int = 1) -> Tensor:
    """(B, C, H, W) in [0, 1]: smooth noise at several scales."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(batch, channels, height, width)
    for step in (2, 4, 8, 16):
        cells = torch.rand(batch, channels, height // step + 2, width // step + 2, generator=generator)
        total += F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)
    return total / 4


def lively_net(config: TARConfig = SMALL, seed: int = 0) -> TARNet:
    """An untrained network in eval mode in which nothing is at its neutral start: gates, heads and norms all act."""
    torch.manual_seed(seed)
    net = TARNet(config)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "gate" in name or "fine_head.out" in name:
                parameter.normal_(0, 0.3)
    if config.tafe.classes:
        net.tafe.set_text(F.normalize(torch.randn(config.tafe.classes, config.tafe.text_dim), dim=1))
    net.train()
    with torch.no_grad():
        for k in range(4):
            image = picture(100 + k, 64, 64, batch=2)
            net(image, 1 - image, torch.eye(2), torch.eye(2).flip(0))
    return net.eval()


def small_matcher(seed: int = 0, **options) -> TARMatcher:
    """A :class:`TARMatcher` around :func:`lively_net` that keeps every match."""
    matcher = TARMatcher(pretrained=None, config=SMALL, **{"threshold": 0.0, **options})
    matcher.net = lively_net(seed=seed)
    return matcher.eval()


def paired(out: dict[str, Tensor]) -> Tensor:
    """(N, 6) rows that tell a match: batch index, keypoints of both images, confidence."""
    return torch.cat([out["batch_indexes"][:, None].float(), out["keypoints0"], out["keypoints1"],
                      out["confidence"][:, None]], 1)  # fmt: skip


def assert_same_matches(one: Tensor, two: Tensor, tolerance: float = 2e-3) -> None:
    """Rows of :func:`paired` are equal as sets."""
    assert len(one) == len(two) > 0
    distance = torch.cdist(one.double(), two.double(), p=float("inf"))
    assert distance.min(1).values.max() < tolerance
    assert len(distance.argmin(1).unique()) == len(one)


def encode(image: np.ndarray) -> bytes:
    """Lossless webp."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of ``members``."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


KEYS = {"keypoints0", "keypoints1", "confidence", "std", "batch_indexes", "lafs0", "lafs1"}


def pair(height0: int = 64, width0: int = 80, height1: int = 72, width1: int = 64, batch: int = 1) -> dict:
    return {"image0": picture(1, height0, width0, batch), "image1": picture(2, height1, width1, batch)}


def check_contract(out: dict, data: dict) -> None:
    """Types, shapes and ranges that hold for any input."""
    assert set(out) == KEYS
    count = len(out["confidence"])
    for k in (0, 1):
        points, lafs = out[f"keypoints{k}"], out[f"lafs{k}"]
        assert points.shape == (count, 2) and points.dtype == torch.float32
        assert lafs.shape == (1, count, 2, 3) and lafs.dtype == torch.float32
        torch.testing.assert_close(lafs[0, :, :, 2], points)
        height, width = data[f"image{k}"].shape[2:]
        assert (points >= -0.5).all() and (points <= torch.tensor([width - 0.5, height - 0.5])).all()
    assert out["confidence"].shape == out["std"].shape == out["batch_indexes"].shape == (count,)
    assert out["confidence"].dtype == out["std"].dtype == torch.float32
    assert out["batch_indexes"].dtype == torch.long
    assert ((out["confidence"] >= 0) & (out["confidence"] <= 1)).all()
    assert (out["std"] > 0).all()
    assert all(value.isfinite().all() for value in out.values())


def demo_middle(seed: int = 0, side: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The middle of a demo pair, which takes a fourth of the time: optical image, SAR image, true matrix."""
    optical, sar, truth = demo_pair(seed)
    start = (512 - side) // 2
    middle, move = slice(start, start + side), np.array([[1.0, 0, start], [0, 1, start], [0, 0, 1]])
    return optical[middle, middle].copy(), sar[middle, middle].copy(), np.linalg.inv(move) @ truth @ move


def untrained_weights(folder: Path) -> Path:
    """Write a checkpoint of random weights, without calibration."""
    torch.manual_seed(0)
    path = folder / "untrained.safetensors"
    save_checkpoint(path, TARNet(), {})
    return path


def georeferenced_pair(folder: Path, side: int, missing: int) -> tuple[Path, Path]:
    """Write optical ``o.tif`` and SAR ``s.tif``, ``side`` px of 10 m, drawn 12 and 8 px apart.

    The SAR file's georeference is 30 m too far east; its first ``missing`` rows and columns hold an undeclared -9999.
    """
    from rasterio.transform import from_origin

    utm, scene = "EPSG:32632", draw_scene(3, 256)
    write_image(folder / "o.tif", scene.optical[:side, :side], GeoProfile(utm, from_origin(5e5, 4.6e6, 10, 10)))
    decibels = scene.sar[8 : 8 + side, 12 : 12 + side].astype(np.float32) / 8 - 33
    decibels[:missing, :missing] = -9999
    write_image(folder / "s.tif", decibels, GeoProfile(utm, from_origin(5e5 + 120 + 30, 4.6e6 - 80, 10, 10)))
    return folder / "o.tif", folder / "s.tif"
