"""Training pairs: WebDataset shards, held as one uint8 tensor.

Shards are tars whose members ``<source>__<stem>.optical.webp``, ``.sar.webp`` and ``.json`` stand together, both images
of a pair aligned. Every image gets the 2–98 percentile stretch that the evaluation protocol gives it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from kornia_tar.raster.stretch import percentile_stretch

MAX_MEMBER_BYTES = 32 * 2**20

# SEN1-2's folders and RSSCN7's classes as file names carry them, and the class name that they stand for.
SCENES = {
    "agriculture": "farmland", "forest": "forest", "gorge": "mountain", "resident": "residential", "river": "river",
    "aGrass": "meadow", "bField": "farmland", "cIndustry": "industrial", "dRiverLake": "river", "eForest": "forest",
    "fResident": "residential", "gParking": "parking",
}  # fmt: skip


def label_held_out(name: str) -> bool:
    """Whether training must not know this image's scene: kept to test the land-cover map.

    A third of RSSCN7's: it numbers a class's images 001 to 400, a hundred for each of four scales; all four of a number
    stay together. And a quarter of WHU-RS19's, two of eight by the number within the class (8k, 8k + 1): its
    numbers have gaps, and this leaves 7 to 13 images of each class, multiples of four as few as 4.
    """
    source, _, stem = name.partition("__")
    number = stem.rpartition("_")[2]
    if source == "whurs19":
        return number.isdigit() and int(number) % 8 < 2
    return source == "rsscn7" and number[1:].isdigit() and int(number[1:]) % 100 % 3 == 0


@dataclass(frozen=True)
class Pairs:
    """Aligned optical–SAR pairs in memory."""

    optical: Tensor  # (N, 3, S, S) uint8; grey images have three equal channels
    sar: Tensor  # (N, 1, S, S) uint8
    names: tuple[str, ...]
    weights: Tensor  # (N,) how often each is drawn, relative
    scene: Tensor  # (N,) index of the scene's name in the text bank, -1 where the data do not say
    has_sar: Tensor  # (N,) bool; False: an optical image alone, whose SAR partner is drawn from it
    classes: tuple[str, ...] = ()  # N class names as the shards' JSON has them, "" for none; or none for all

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Pairs:
        """The same pairs on another device."""
        return Pairs(self.optical.to(device), self.sar.to(device), self.names, self.weights.to(device),
                     self.scene.to(device), self.has_sar.to(device), self.classes)  # fmt: skip

    def __add__(self, other: Pairs) -> Pairs:
        """Both sets in one."""
        a, b = ((p.optical, p.sar, p.weights, p.scene, p.has_sar) for p in (self, other))
        optical, sar, weights, scene, has_sar = (torch.cat(both) for both in zip(a, b, strict=True))
        classes = [p.classes or ("",) * len(p) for p in (self, other)]
        return Pairs(optical, sar, self.names + other.names, weights, scene, has_sar, classes[0] + classes[1])

    def first(self, limit: int | None) -> Pairs:
        """The first ``limit`` pairs; all where it is None."""
        part = slice(0, limit)
        return Pairs(self.optical[part], self.sar[part], self.names[part], self.weights[part], self.scene[part],
                     self.has_sar[part], self.classes[part])  # fmt: skip

    def with_scenes(self, class_names: Sequence[str]) -> Pairs:
        """Tell which of ``class_names`` each pair shows, where its JSON or its file name says so."""
        index = {name: k for k, name in enumerate(class_names)}
        told = self.classes or ("",) * len(self)
        by_name = [next((SCENES[word] for word in SCENES if f"__{word}_" in name), "") for name in self.names]
        shown = ["" if label_held_out(name) else c or n for name, c, n in zip(self.names, told, by_name, strict=True)]
        return replace(self, scene=torch.tensor([index.get(name, -1) for name in shown], device=self.scene.device))


def find_shards(folder: str | Path, pattern: str = "train-*.tar") -> list[Path]:
    """Shards in ``folder``, sorted; FileNotFoundError that says what was looked for when there is none."""
    shards = sorted(Path(folder).glob(pattern))
    if not shards:
        raise FileNotFoundError(f"no {pattern} in {folder}: name the folder that holds the shards with --data")
    return shards


def read_pairs(shards: Iterable[Path], size: int = 256, limit: int | None = None, progress: bool = True) -> Pairs:
    """Decode all pairs of ``size`` × ``size``.

    Args:
        shards: tar files.
        size: side in pixels; a pair of another size is an error.
        limit: at most so many pairs, or None for all.
        progress: show a bar.

    Raises:
        ValueError: a member that is no image, of another size, or without its partner.
    """
    optical: list[np.ndarray] = []
    sar: list[np.ndarray] = []
    names: list[str] = []
    for shard in shards:
        waiting: dict[str, dict[str, np.ndarray]] = {}
        with _open(shard) as (tar, members):
            for member in tqdm(members, desc=f"reading {shard.name}", disable=not progress, leave=False):
                stem, _, kind = Path(member.name).name.partition(".")
                if kind not in ("optical.webp", "sar.webp") or not member.isfile():
                    continue
                if limit is not None and len(names) >= limit:
                    break
                waiting.setdefault(stem, {})[kind[:-5]] = _decode(tar, member, shard, size)
                if len(waiting[stem]) == 2:
                    pair = waiting.pop(stem)
                    optical.append(pair["optical"])
                    sar.append(pair["sar"][:, :, :1])
                    names.append(stem)
        if waiting and (limit is None or len(names) < limit):
            raise ValueError(f"{shard}: {sorted(waiting)[0]} has no partner image")
    if not names:
        raise ValueError("the shards hold no pair of .optical.webp and .sar.webp")
    return Pairs(
        torch.from_numpy(np.stack(optical)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(sar)).permute(0, 3, 1, 2).contiguous(),
        tuple(names),
        torch.tensor([_weight(name) for name in names]),
        torch.full((len(names),), -1),
        torch.ones(len(names), dtype=torch.bool),
    )


def read_optical(
    shards: Iterable[Path],
    size: int = 256,
    progress: bool = True,
    views: int = 0,
    seed: int = 0,
    limit: int | None = None,
) -> Pairs:
    """Decode optical images without a SAR partner, each at two scales of ``size`` × ``size``, one after the other.

    The first is the middle square shrunk, the second the middle at the image's own resolution; of an image that has
    hardly more than ``size`` pixels the first alone. They bring other ground sampling distances than the pairs have;
    each is drawn a quarter as often as a pair. What their JSON names as ``class`` becomes ``Pairs.classes``.

    Args:
        shards: tar files.
        size: side in pixels of what is returned.
        progress: show a bar.
        views: instead of the two scales so many squares of each image, ``size`` px and more on a side, drawn evenly
            with one of the eight turns and mirrorings, and shrunk. They are to teach words: images whose class is held
            out are left out.
        seed: of the drawing.
        limit: at most so many images, or None for all.

    Raises:
        ValueError: a member that is no image, or smaller than ``size``; JSON that is none.
    """
    images: list[np.ndarray] = []
    names: list[str] = []
    classes: dict[str, str] = {}
    rng = np.random.default_rng(seed)
    for shard in shards:
        with _open(shard) as (tar, members):
            for member in tqdm(members, desc=f"reading {shard.name}", disable=not progress, leave=False):
                stem, _, kind = Path(member.name).name.partition(".")
                if kind == "json" and member.isfile():
                    classes[stem] = _read_class(tar, member, shard)
                if kind != "optical.webp" or not member.isfile() or (limit is not None and len(set(names)) >= limit):
                    continue
                image = _decode(tar, member, shard)
                side = min(image.shape[:2])
                if side < size:
                    raise ValueError(f"{shard}: {member.name} has a side of {side} px, need {size} or more")
                if views:
                    drawn = [_draw_view(image, size, rng) for _ in range(views)]
                else:
                    whole = cv2.resize(_middle(image, side), (size, size), interpolation=cv2.INTER_AREA)
                    drawn = [whole, _middle(image, size)] if side >= 1.2 * size else [whole]
                if views and label_held_out(stem):
                    continue
                images += drawn
                names += [stem] * len(drawn)
    if not names:
        raise ValueError("the shards hold no .optical.webp")
    optical = torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image in images]))
    N = len(names)
    return Pairs(optical, torch.zeros_like(optical[:, :1]), tuple(names), torch.full((N,), 0.25), torch.full((N,), -1),
                 torch.zeros(N, dtype=torch.bool), tuple(classes.get(name, "") for name in names))  # fmt: skip


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return image[top : top + side, left : left + side]


def _draw_view(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    side = int(rng.integers(size, min(image.shape[:2]), endpoint=True))
    top, left = (int(rng.integers(0, n - side, endpoint=True)) for n in image.shape[:2])
    view = cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    view = np.rot90(view, int(rng.integers(4)))
    return np.ascontiguousarray(view[:, ::-1] if rng.random() < 0.5 else view)


def _read_class(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> str:
    file = tar.extractfile(member)
    assert file is not None
    try:
        told = json.loads(file.read(MAX_MEMBER_BYTES))
    except ValueError as error:
        raise ValueError(f"{shard}: {member.name} is not JSON ({error})") from None
    name = told.get("class", "") if isinstance(told, dict) else ""
    return name if isinstance(name, str) else ""


@contextmanager
def _open(shard: Path) -> Iterator[tuple[tarfile.TarFile, list[tarfile.TarInfo]]]:
    try:
        with tarfile.open(shard) as tar:
            yield tar, tar.getmembers()
    except (tarfile.TarError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{shard}: not a whole tar archive ({reason}); copy it again") from None


def _weight(name: str) -> float:
    # OMBRIA's "after" images show a flood that the optical image of another day does not: draw them rarely.
    return 0.3 if name.startswith("ombria") and name.endswith("after") else 1.0


def _decode(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, size: int | None = None) -> np.ndarray:
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{shard}: {member.name} has {member.size} bytes, more than {MAX_MEMBER_BYTES}")
    file = tar.extractfile(member)
    assert file is not None
    try:
        with Image.open(io.BytesIO(file.read())) as image:  # told its size before it is decoded
            if size is not None and image.size != (size, size):
                raise ValueError(f"{shard}: {member.name} is {image.width}×{image.height}, need {size}×{size}")
            return percentile_stretch(np.asarray(image.convert("RGB")))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{shard}: {member.name} is not a readable image ({error})") from None
