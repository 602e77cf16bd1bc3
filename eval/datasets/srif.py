"""Multi-modal pairs of the SRIF paper, with truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from eval.datasets.base import Sample
from eval.datasets.files import images_in, read_matrix, safe_name
from eval.datasets.srif_truth import recover_truth
from eval.datasets.webdataset import load_image

_MODALITIES = {
    "srif-opt-sar": "sar",
    "srif-opt-ir": "infrared",
    "srif-opt-map": "map",
    "srif-opt-opt": "optical",
    "srif-opt-depth": "depth",
    "srif-day-night": "night",
}
# The published folders. Their names here differ from those above, since other pairs stand in them.
_PUBLISHED = {
    "Optical-SAR": "sar",
    "Optical-Infrared": "infrared",
    "Optical-Map": "map",
    "Optical-Optical": "optical",
    "Optical-Depth": "depth",
    "Nighttime": "night",
}


class SRIF:
    """Really rotated and scaled pairs of six kinds, with one matrix each; test only, never train.

    Whose data:
        SRIF of Li, Hu and Zhang (LJY-RS/SRIF), 200 pairs of each kind, rotated 0 to 90 degrees and scaled 0.5 to 2.
        Optical-SAR is Gaofen-3-like SAR at about 1 m, 256x256, against Google Earth, 155 to 512 pixels. The published
        files ``gt_*.txt`` of Optical-SAR belong to other images, so they are not read; its truth is recovered from
        the images (``srif_truth.recover_truth`` says how, and how well), good to about 1 degree and 1 to 2 px. The
        truth of Optical-Map is shifted vertically by 3 px throughout.

    Licence:
        The repository has no licence file: use for experiments, do not redistribute.

    Citation:
        Li, Hu, Zhang: Multimodal image matching: a scale-invariant algorithm and an open dataset, ISPRS Journal of
        Photogrammetry and Remote Sensing 204, 2023.

    Layout:
        As published: ``Optical-SAR/pair<number>_1.jpg`` (optical), ``pair<number>_2.jpg``, ``gt_<number>.txt`` (2x3,
        optical to other), and so in ``Optical-Infrared``, ``Optical-Map``, ``Optical-Optical``, ``Optical-Depth`` and
        ``Nighttime``, at the path or in its ``dataset``; the set is called ``srif-`` and the folder's name in lower
        case. Or with a repaired truth: ``<pair>.optical.<ext>``, ``<pair>.other.<ext>`` (or ``.sar.``) and
        ``truth.json`` with ``pairs: {<pair>: {"H": 3x3, ...}}``, H mapping optical to other; called by its folder.

    Convention:
        The published matrices are read as they are. They turn about (W/2, H/2), as OpenCV does with pixel centres at
        integers; were they meant from 1, as the authors' MATLAB demo reads them, they would be off by up to 2 px.

    How to get it:
        ``git clone https://github.com/LJY-RS/SRIF``.

    Args:
        path: the folder of one kind.

    Raises:
        ValueError: when ``truth.json`` cannot be read.
        FileNotFoundError: when a pair named there lacks an image.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ()
    HOW: ClassVar[str] = (
        "SRIF: git clone https://github.com/LJY-RS/SRIF {path}, so that {path}/dataset/Optical-SAR/pair1_1.jpg,"
        " pair1_2.jpg and gt_1.txt exist"
    )

    def __init__(self, path: Path) -> None:
        folder = path.resolve().name
        if (path / "truth.json").is_file():
            self.name = safe_name(folder)
            self.modality = _MODALITIES.get(folder, "other")
            self._truth: dict[str, Any] = self._read_truth(path / "truth.json")
            self._files = {
                name: (self._find(path, name, "optical"), self._find(path, name, "other", "sar"))
                for name in self._truth
            }
        else:
            self.name = safe_name(f"srif-{folder.lower()}")
            self.modality = _PUBLISHED.get(folder, "other")
            images = images_in(path)
            numbers = [match[1] for stem in images if (match := re.fullmatch(r"pair(\d+)_1", stem))]
            pairs = {f"pair{int(number):03}": number for number in numbers if f"pair{number}_2" in images}
            self._files = {name: (images[f"pair{n}_1"], images[f"pair{n}_2"]) for name, n in pairs.items()}
            self._truth = {name: path / f"gt_{number}.txt" for name, number in pairs.items()}
        self.names = sorted(self._files)

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[SRIF]:
        """Open the folder of one kind, or all kinds of the published set."""
        if (path / "truth.json").is_file() or (path / "pair1_1.jpg").is_file():
            return [cls(path)]
        places = [root / kind for root in (path, path / "dataset") for kind in _PUBLISHED]
        return [cls(place) for place in places if (place / "pair1_1.jpg").is_file()]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.names)

    def read(self, name: str) -> Sample:
        """Read one pair with its truth; ``meta`` holds what else is known of it, such as ``confidence``."""
        optical, other = (load_image(file, modes) for file, modes in zip(
            self._files[name], (("RGB", "L"), ("L",)), strict=True
        ))  # fmt: skip
        truth = self._truth[name]
        if not isinstance(truth, Path):
            meta = dict(truth)
            matrix = np.array(meta.pop("H"), dtype=np.float64).reshape(3, 3)
        elif self.modality == "sar":
            matrix, confidence = recover_truth(optical, other)
            meta = {"confidence": confidence}
        else:
            matrix, meta = read_matrix(truth), {}
        return Sample(name, optical, other, modality=self.modality, truth=matrix, meta=meta)

    @staticmethod
    def _read_truth(file: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(file.read_text())["pairs"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a truth file ({error}); it needs pairs with an H") from error

    @staticmethod
    def _find(path: Path, name: str, *parts: str) -> Path:
        for part in parts:
            for file in path.glob(f"{name}.{part}.*"):
                return file
        wanted = " or ".join(f"{name}.{part}.*" for part in parts)
        raise FileNotFoundError(f"{path}: truth.json names {name!r}, but there is no {wanted} beside it")
