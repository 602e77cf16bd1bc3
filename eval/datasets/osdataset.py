"""OSdataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from eval.datasets.files import Files, PairFiles, images_in

_SIZES = "256", "512"


class OSDataset(PairFiles):
    """OSdataset: 10,692 pairs of 256x256, or 2,673 of 512x512, of Gaofen-3 spotlight SAR and Google Earth at 1 m.

    Whose data:
        Xiang, Tao, Wang, You and Han (Chinese Academy of Sciences); cities in China, France, India and the USA.
        Registered by the authors' own method and looked through by eye.

    Licence:
        CC-BY-NC by its authors.

    Citation:
        Xiang et al.: Automatic registration of optical and SAR images via improved phase congruency model, IEEE
        JSTARS 2020.

    Layout:
        ``<size>/<split>/opt<number>.png`` with ``sar<number>.png`` beside; size is 256 or 512, split is train, val or
        test (at 512 px: 2011, 238 and 424 pairs). The set is called ``osdataset-<size>-<split>``, as far as the
        folders' names say so; a pair is called by its number. Images without a partner are left out.

    How to get it:
        github.com/xym2009/OSdataset names the download (Baidu, with its code).

    Args:
        path: a folder of opt and sar images.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    HOW: ClassVar[str] = (
        "OSdataset: get it by the link in github.com/xym2009/OSdataset and unpack it so that"
        " {path}/512/test/opt1.png and {path}/512/test/sar1.png exist (or 256 for 512)"
    )

    def __init__(self, path: Path) -> None:
        images: dict[str, dict[str, Path]] = {"opt": {}, "sar": {}}
        for stem, file in images_in(path).items():
            if match := re.fullmatch(r"(opt|sar)_?(\d+)", stem.lower()):
                images[match[1]][match[2]] = file
        files = {number: Files(file, images["sar"][number]) for number, file in images["opt"].items()
                 if number in images["sar"]}  # fmt: skip
        folders = path.resolve().parts[-2:]
        super().__init__("-".join(["osdataset", *(part for part in folders if part in (*_SIZES, *self.SPLITS))]), files)

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[OSDataset]:
        """Open one split, by default test, of either size; a path to the split's folder itself will do."""
        part = split or "test"
        places = [path / part, *(path / size / part for size in _SIZES)]
        if split is None or path.name == split:
            places.append(path)
        return [found for place in places if place.is_dir() and (found := cls(place)).names]
