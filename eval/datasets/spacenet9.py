"""SpaceNet 9."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from eval.datasets.files import Files, PairFiles, images_in


class SpaceNet9(PairFiles):
    """SpaceNet 9: large scenes of Maxar optical and Umbra SAR at 0.3 to 0.5 m, with tie points set by hand.

    Whose data:
        The SpaceNet 9 challenge (Maxar, Oak Ridge National Laboratory, DLR, IEEE GRSS), places hit by earthquakes:
        three scenes to train with, with tie points, two of the public test without; each below 13,000 px a side.
        There is no matrix, since terrain and buildings lean: ``truth`` is None, ``tie_points`` are what to score by.

    Licence:
        See spacenet.ai; the optical images come from the Maxar Open Data Program, the SAR images from Umbra, each
        with terms of its own. Check them before you redistribute.

    Citation:
        Hänsch et al.: Introducing SpaceNet 9, cross-modal satellite imagery registration for natural disaster
        responses, IGARSS 2024, doi 10.1109/IGARSS53475.2024.10640611.

    Layout:
        ``train/<area>_optical_train_<number>.tif``, ``..._sar_train_...tif``, ``..._tiepoints_train_...csv`` with the
        columns sar_row, sar_col, optical_row, optical_col; ``publictest/<area>_optical_publictest.tif`` and sar.
        The set is called ``spacenet9-<split>``, a pair ``<area>_train_<number>`` or ``<area>_publictest``.

    Convention:
        The tie points are whole (row, column) indices from 0 of the pixels that the annotators marked; such an index
        is the pixel's centre in our frame, so (column, row) is taken as (x, y) unchanged. The organisers do not say
        more, which leaves half a pixel of doubt, far below what a hand can place.

    How to get it:
        spacenet-dataset.s3.us-east-1.amazonaws.com/spacenet/SN9_cross-modal/train.zip and testpublic.zip.

    Args:
        path: the folder of one split.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "publictest")
    HOW: ClassVar[str] = (
        "SpaceNet 9: get https://spacenet-dataset.s3.us-east-1.amazonaws.com/spacenet/SN9_cross-modal/train.zip and"
        " unpack it so that {path}/train/02_optical_train_01.tif, 02_sar_train_01.tif, 02_tiepoints_train_01.csv exist"
    )

    def __init__(self, path: Path) -> None:
        images = images_in(path)
        files = {}
        for stem, optical in images.items():
            if "_optical_" in stem and (sar := images.get(stem.replace("_optical_", "_sar_"))):
                points = path / f"{stem.replace('_optical_', '_tiepoints_')}.csv"
                name = stem.replace("_optical_", "_")
                files[name] = Files(optical, sar, tie_points=points if points.is_file() else None)
        split = "-publictest" if any("publictest" in name for name in files) else "-train"
        super().__init__(f"spacenet9{split}", files, columns=("optical_col", "optical_row", "sar_col", "sar_row"))

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[SpaceNet9]:
        """Open one split, by default train, which has tie points; a path to the split's folder itself will do."""
        places = [path / (split or "train")]
        if split is None or path.name == split:
            places.append(path)
        return [found for place in places if (found := cls(place)).names]
