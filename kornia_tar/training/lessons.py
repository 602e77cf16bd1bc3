"""What teaches the land-cover head: what it reads of each image, encoded once, and what is known of its words.

Three kinds of images: scenes whose class is known (RSSCN7's, WHU-RS19's, SEN1-2's folders), aligned pairs, whose maps
must say the same, and flooded pairs whose water is drawn pixel by pixel (OMBRIA's *after* images, Copernicus EMS).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from kornia_tar.conventions import CELL, MODALITIES
from kornia_tar.files import replacing
from kornia_tar.network.msfl import standardise
from kornia_tar.network.net import TARNet, modality_weights
from kornia_tar.network.tafe import BRIGHTNESS, read_ground
from kornia_tar.raster.stretch import percentile_stretch, to_grey
from kornia_tar.training.data import Pairs

AT_ONCE = 8  # images that are encoded together
VIEWS = 8  # of each image alone: other ground, turns and resolutions, for the features know them apart
MOST = 4000  # aligned pairs


@dataclass(frozen=True)
class Lessons:
    """Encoded images, as :func:`kornia_tar.network.tafe.read_ground` gives them; C planes of h×w cells, half precision.

    Attributes:
        scenes: (N, C, h, w) of optical images of one known class.
        scene_classes: N classes.
        optical: (M, C, h, w) of aligned pairs.
        sar: (M, C, h, w), the same ground.
        pair_classes: M classes, "" where none is known.
        flooded_optical: (L, C, h, w) of pairs taken after a flood.
        flooded_sar: (L, C, h, w).
        flooded: (L, h, w) share of each cell that is drawn as flooded.
    """

    scenes: Tensor
    scene_classes: tuple[str, ...]
    optical: Tensor
    sar: Tensor
    pair_classes: tuple[str, ...]
    flooded_optical: Tensor
    flooded_sar: Tensor
    flooded: Tensor

    def save(self, path: Path, features_of: str) -> None:
        """Keep them in a file, with the name of what they are made from; see :func:`name_features`."""
        told = {"features_of": features_of, "scenes": json.dumps(self.scene_classes),
                "pairs": json.dumps(self.pair_classes)}  # fmt: skip
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        with replacing(path) as temporary:
            save_file(tensors, temporary, told)

    @classmethod
    def load(cls, path: Path, features_of: str) -> Lessons:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: no such file, or one whose features are of other weights, data or settings.
        """
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in TENSORS}
            classes = [tuple(json.loads(told[key])) for key in ("scenes", "pairs")]
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: holds no encoded images ({error}); delete it") from None
        if told.get("features_of") != features_of:
            raise ValueError(f"{path}: holds features of other weights or data; delete it, or give another file")
        return cls(scene_classes=classes[0], pair_classes=classes[1], **tensors)


TENSORS = ("scenes", "optical", "sar", "flooded_optical", "flooded_sar", "flooded")


def name_features(net: TARNet, *made_from: object) -> str:
    """Name by a hash what lessons depend on: part of a network, and what else they are made from, by its ``repr``."""
    told = hashlib.sha256(repr((VIEWS, MOST, "edges", BRIGHTNESS, *made_from)).encode())
    for key, value in net.msfl.state_dict().items():
        if not key.startswith(("top2", "merge2", "modality")):  # which feed the fine features, or the modality's guess
            told.update(key.encode())
            told.update(value.detach().cpu().half().numpy().tobytes())
    return told.hexdigest()


def event_held_out(name: str) -> bool:
    """Whether a flood is kept to test the map: OMBRIA's own test images, and its events of 2021.

    The names of the test images do not tell their events, which may be some of the training's: other places, perhaps
    the same flood. Of the events of 2021 our data hold no image taken after the flood.
    """
    return name.startswith("ombria") and name.partition("__")[2].startswith(("2021", "test_"))


def prepare_lessons(
    net: TARNet,
    pairs: Pairs,
    alone: Pairs | None,
    masks: dict[str, Tensor],
    names: Sequence[str],
    most: int = MOST,
    bf16: bool = False,
) -> Lessons:
    """Encode all images.

    Args:
        net: whose MSFL is used as it is; in eval mode.
        pairs: aligned pairs.
        alone: optical images, or None.
        masks: by name of a pair the flooded pixels, (S, S) bool; see :func:`read_floods`.
        names: the words.
        most: aligned pairs, flooded ones aside, spread evenly: minutes count.
        bf16: encode in bfloat16, in two thirds of the time where the device computes it natively.

    Raises:
        ValueError: no image shows a scene of a known word.
    """
    allowed = torch.tensor([not event_held_out(name) for name in pairs.names])
    after = torch.tensor([name.startswith("ombria") and name.endswith("after") for name in pairs.names])
    drawn = torch.tensor([name in masks for name in pairs.names])
    usual, flood = (allowed & ~after).nonzero().flatten(), (allowed & after & drawn).nonzero().flatten()
    usual = usual[torch.linspace(0, len(usual) - 1, min(most, len(usual))).round().long()]
    told = (*names, "")  # index -1
    pair_classes = tuple(told[k] for k in pairs.with_scenes(names).scene[usual])
    scenes, scene_classes = torch.zeros(0, net.config.msfl.widths[2] + BRIGHTNESS, 1, 1).half(), tuple[str, ...]()
    if alone is not None:
        word = alone.with_scenes(names).scene
        known = (word >= 0).nonzero().flatten()
        scenes = encode_images(net, alone.optical, known, "optical", "scenes", bf16)
        scene_classes = tuple(told[k] for k in word[known])
    if not scene_classes and not any(pair_classes):
        raise ValueError(f"no image's class is one of the text's words: {', '.join(names)}")
    shares = [F.avg_pool2d(masks[pairs.names[int(k)]][None].float(), CELL)[0] for k in flood]
    rows = pairs.optical.shape[-1] // CELL
    return Lessons(
        scenes, scene_classes,
        encode_images(net, pairs.optical, usual, "optical", "pairs, optical", bf16),
        encode_images(net, pairs.sar, usual, "sar", "pairs, SAR", bf16), pair_classes,
        encode_images(net, pairs.optical, flood, "optical", "floods, optical", bf16),
        encode_images(net, pairs.sar, flood, "sar", "floods, SAR", bf16),
        torch.stack(shares) if shares else torch.zeros(0, rows, rows),
    )  # fmt: skip


@torch.inference_mode()
def encode_images(net: TARNet, images: Tensor, index: Tensor, modality: str, what: str, bf16: bool = False) -> Tensor:
    """What the head reads of some of N images (N, C, S, S) uint8, in grey and stretched: (n, C8 + 6, S/8, S/8) half.

    Grey as :func:`kornia_tar.raster.to_grey8` makes it of 8-bit bands, so that training sees what use will see.
    """
    assert modality in MODALITIES
    device = net.tafe.query.weight.device
    rows = images.shape[-1] // CELL
    found = torch.empty(len(index), net.config.msfl.widths[2] + BRIGHTNESS, rows, rows, dtype=torch.float16)
    for start in tqdm(range(0, len(index), AT_ONCE), desc=f"encoding {what}", leave=False, disable=not len(index)):
        part = index[start : start + AT_ONCE]
        grey = [percentile_stretch(to_grey(image.permute(1, 2, 0).numpy())) for image in images[part]]
        x = torch.from_numpy(np.stack(grey))[:, None].to(device).float() / 255
        weights = modality_weights([modality] * len(part)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found[start : start + len(part)] = read_ground(net.msfl, standardise(x), weights).half().cpu()
    return found


def read_floods(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Read the masks ``<name>.flood.png`` of a tar, 255 where flooded, of the named pairs: (S, S) bool.

    Raises:
        ValueError: no readable tar, or a mask that is no image.
    """
    wanted, found = set(names), dict[str, Tensor]()
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                stem, _, kind = Path(member.name).name.partition(".")
                if kind != "flood.png" or stem not in wanted or not member.isfile():
                    continue
                file = tar.extractfile(member)
                assert file is not None
                with Image.open(io.BytesIO(file.read())) as image:
                    found[stem] = torch.from_numpy(np.asarray(image.convert("L")) > 127)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: not a whole tar archive ({error}); copy it again") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: holds a mask that is not a readable image ({error})") from None
    return found
