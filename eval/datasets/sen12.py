"""SEN1-2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from eval.datasets.files import Files, PairFiles, images_in


class SEN12(PairFiles):
    """SEN1-2: 282,384 pairs of Sentinel-1 (VV) and Sentinel-2 (RGB), 256x256, 10 m, aligned to 1 to 2 px.

    Whose data:
        Schmitt, Hughes and Zhu, TU Munich and DLR; from all over the world, in four seasons.

    Licence:
        CC-BY 4.0 by its authors; contains modified Copernicus Sentinel data.

    Citation:
        Schmitt, Hughes, Zhu: The SEN1-2 dataset for deep learning in SAR-optical data fusion, ISPRS Annals 2018.

    Layout:
        ``ROIs1158_spring/s1_<scene>/ROIs1158_spring_s1_<scene>_p<patch>.png`` (SAR, grey) and the same with ``s2``
        (optical, RGB); likewise ``ROIs1868_summer``, ``ROIs1970_fall``, ``ROIs2017_winter``. There is no official
        split. The set is called ``sen12``, or ``sen12-<season>`` where the path is one season's folder; a pair
        ``ROIs1158_spring_<scene>_p<patch>``. Patches without a partner are left out.

    How to get it:
        ``rsync rsync://m1436631@dataserv.ub.tum.de/m1436631/`` (password m1436631), or
        dataserv.ub.tum.de/s/m1436631 in a browser.

    Args:
        path: the folder of the seasons, or one season's.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ()
    HOW: ClassVar[str] = (
        "SEN1-2: get it from rsync://m1436631@dataserv.ub.tum.de/m1436631/ (password m1436631) and unpack it so that"
        " {path}/ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.png and .../s2_1/ROIs1158_spring_s2_1_p30.png exist"
    )

    def __init__(self, path: Path) -> None:
        path = path.resolve()
        files = {}
        for sar_folder in self._scenes(path):
            season, scene = sar_folder.parent.name, sar_folder.name.removeprefix("s1_")
            optical = images_in(sar_folder.with_name(f"s2_{scene}"))
            for stem, sar in images_in(sar_folder).items():
                match = re.fullmatch(rf"(.*_)s1(_{re.escape(scene)}_p\d+)", stem)
                if match and (other := optical.get(f"{match[1]}s2{match[2]}")):
                    files[f"{season}{match[2]}"] = Files(other, sar)
        super().__init__(f"sen12-{path.name}" if path.name.startswith("ROIs") else "sen12", files)

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[SEN12]:
        """Open what lies at a path, if its layout is this set's."""
        return [found] if cls._scenes(path) and (found := cls(path)).names else []

    @staticmethod
    def _scenes(path: Path) -> list[Path]:
        pattern = "s1_*" if path.resolve().name.startswith("ROIs") else "ROIs*/s1_*"
        return sorted(path.glob(pattern))
