"""Multi-modal pairs of the SRIF paper, with truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eval.datasets import Sample
from eval.datasets.webdataset import load_image

_MODALITIES = {
    "srif-opt-sar": "sar",
    "srif-opt-ir": "infrared",
    "srif-opt-map": "map",
    "srif-opt-opt": "optical",
    "srif-opt-depth": "depth",
    "srif-day-night": "night",
}


class SRIF:
    """Really rotated and scaled pairs of six kinds, with one matrix each; test only, never train.

    Whose data:
        SRIF of Li, Hu and Zhang (LJY-RS/SRIF). ``srif-opt-sar``: 60 pairs of GF-3-like SAR at about 1 m, 256x256,
        against Google Earth, 155 to 512 pixels, rotated 0 to 90 degrees and scaled 0.5 to 2; the other kinds have 40.
        The truth of ``srif-opt-sar`` is recovered from the images (the published files belong to other images), good
        to about 1 degree and 1 to 2 px; that of ``srif-opt-map`` is shifted vertically by 3 px throughout.

    Licence:
        The repository has no licence file: use for experiments, do not redistribute.

    Citation:
        Li, Hu, Zhang: Multimodal image matching: a scale-invariant algorithm and an open dataset, ISPRS Journal of
        Photogrammetry and Remote Sensing 2023.

    Layout:
        ``<pair>.optical.<ext>``, ``<pair>.other.<ext>`` (or ``.sar.``), ``truth.json``
        with ``pairs: {<pair>: {"H": 3x3, ...}}``,
        H mapping optical to other.

    How to get it:
        The images are in github.com/LJY-RS/SRIF; write ``truth.json`` from its ``gt_*.txt``, except for optical-SAR,
        whose truth must be recovered.

    Args:
        path: the folder; its name is the set's.

    Raises:
        ValueError: when ``truth.json`` cannot be read.
        FileNotFoundError: when a pair named there lacks an image.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name
        try:
            self._truth = json.loads((path / "truth.json").read_text())["pairs"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path / 'truth.json'}: not a truth file ({error}); it needs pairs with an H") from error
        self.names = sorted(self._truth)
        self._files = {
            name: (self._find(path, name, "optical"), self._find(path, name, "other", "sar")) for name in self.names
        }

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.names)

    def read(self, name: str) -> Sample:
        """Read one pair with its truth; ``meta`` holds what else ``truth.json`` says, such as ``confidence``."""
        optical, other = self._files[name]
        entry = dict(self._truth[name])
        return Sample(
            name,
            load_image(optical, ("RGB", "L")),
            load_image(other, ("L",)),
            modality=_MODALITIES.get(self.name, "other"),
            truth=np.array(entry.pop("H"), dtype=np.float64).reshape(3, 3),
            meta=entry,
        )

    @staticmethod
    def _find(path: Path, name: str, *parts: str) -> Path:
        for part in parts:
            for file in path.glob(f"{name}.{part}.*"):
                return file
        wanted = " or ".join(f"{name}.{part}.*" for part in parts)
        raise FileNotFoundError(f"{path}: truth.json names {name!r}, but there is no {wanted} beside it")
