"""Optical-SAR pairs in WebDataset tars."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from eval.datasets.base import Sample
from eval.datasets.files import safe_name

_MEMBER = re.compile(r"(?P<name>[^/\\]+?)\.(?P<part>optical\.(?:webp|png|jpe?g)|sar\.(?:webp|png|jpe?g)|json)")
_MAX_BYTES = 64 << 20


class WebDataset:
    """Aligned optical-SAR pairs in one WebDataset tar.

    Whose data:
        Sentinel-1 / Sentinel-2 pairs at 10 m, gathered from public repositories: SEN1-2 through
        JessieZ96/SAR-to-Optical and others, OMBRIA (geodrak/OMBRIA), VolkovVl/Optical-SAR-dataset. ``val-000.tar``
        holds 565 pairs of 256x256 from places that the training shards leave out (121 from the SEN1-2 test list may
        overlap training scenes). Aligned to about 1 px, a few pairs 2 to 3 px off.

    Licence:
        Contains modified Copernicus Sentinel data, free with attribution. SEN1-2 is CC-BY by its authors; several of
        the repositories carry no licence file: use for experiments, do not redistribute.

    Citation:
        Schmitt, Hughes, Zhu: The SEN1-2 dataset for deep learning in SAR-optical data fusion, ISPRS Annals 2018;
        Drakonakis et al.: OmbriaNet, IEEE JSTARS 2022.

    Layout:
        ``<source>__<stem>.optical.webp`` (RGB or grey), ``.sar.webp`` (grey), optional ``.json`` (source, stem, size,
        gsd_m). PNG and JPEG are read too. The name of a pair is ``<source>__<stem>``, that of the set the file's stem.
        Of a folder of tars its splits are ``val-*.tar`` (the default), ``test-*.tar`` and ``train-*.tar``.

    How to get it:
        Pack the pairs of the sources above with ``tar`` in that layout.

    Args:
        path: the tar; read in place, nothing is unpacked to disk.

    Raises:
        ValueError: when the file is no readable tar or a pair lacks one of its images.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    HOW: ClassVar[str] = (
        "WebDataset tars of pairs: pack <name>.optical.webp with <name>.sar.webp by tar as {path}/val-000.tar, or give"
        " the path of one .tar"
    )

    def __init__(self, path: Path) -> None:
        self.name = safe_name(path.stem)
        self._path = path
        try:
            with tarfile.open(path, "r:") as tar:
                members = [member for member in tar if member.isfile()]
        except tarfile.TarError as error:
            raise ValueError(f"{path}: not a readable tar ({error})") from error
        self._members: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in members:
            if match := _MEMBER.fullmatch(member.name.removeprefix("./")):
                part = match["part"].split(".")[0]
                self._members.setdefault(match["name"], {})[part] = member
        for name, parts in self._members.items():
            if missing := {"optical", "sar"} - parts.keys():
                raise ValueError(f"{path}: pair {name!r} has no {' and no '.join(sorted(missing))} image")
        if not self._members:
            raise ValueError(f"{path}: holds no pair named <stem>.optical.webp with <stem>.sar.webp")
        self.names = sorted(self._members)

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[WebDataset]:
        """Open a tar, or those of a folder whose names begin with the split, by default ``val``."""
        if path.is_file() and path.suffix == ".tar":
            return [cls(path)]
        return [cls(tar) for tar in sorted(path.glob(f"{split or 'val'}-*.tar"))]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.names)

    def read(self, name: str) -> Sample:
        """Read one pair: optical (H, W) or (H, W, 3), SAR (H, W), both uint8, and the JSON beside them as ``meta``."""
        parts = self._members[name]
        meta = json.loads(self._bytes(parts["json"])) if "json" in parts else {}
        return Sample(name, self._image(parts["optical"], ("RGB", "L")), self._image(parts["sar"], ("L",)), meta=meta)

    def _image(self, member: tarfile.TarInfo, modes: tuple[str, ...]) -> NDArray[np.uint8]:
        try:
            return load_image(io.BytesIO(self._bytes(member)), modes)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self._path}: {member.name} is not a readable image ({error})") from error

    def _bytes(self, member: tarfile.TarInfo) -> bytes:
        # Members are regular files of bounded size, read from the place noted when the tar was scanned.
        if member.size > _MAX_BYTES:
            raise ValueError(f"{self._path}: {member.name} has {member.size} bytes, more than {_MAX_BYTES}")
        with self._path.open("rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)


def load_image(file: Path | io.BytesIO, modes: tuple[str, ...]) -> NDArray[np.uint8]:
    """Decode an 8-bit image, converted to the first of ``modes`` unless it already has one of them."""
    with Image.open(file) as image:
        return np.array(image if image.mode in modes else image.convert(modes[0]), dtype=np.uint8)
