"""QXS-SAROPT."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from eval.datasets.files import Files, PairFiles, images_in

_OPTICAL, _SAR = "opt_256_oc_0.2", "sar_256_oc_0.2"


class QXSSAROPT(PairFiles):
    """QXS-SAROPT: 20,000 pairs of 256x256 of Gaofen-3 spotlight SAR and Google Earth at 1 m.

    Whose data:
        Huang, Xu, Qian, Shi, Zhang, Bao, Wang, Liu and Xiang (Qian Xuesen Laboratory); the ports of San Diego,
        Shanghai and Qingdao. Users report pairs that are not aligned (yaoxu008/QXS-SAROPT#7): expect a few px of
        error in what counts here as truth, and neighbouring patches that overlap.

    Licence:
        The repository states none but asks for the citation: use for experiments, do not redistribute.

    Citation:
        Huang et al.: The QXS-SAROPT dataset for deep learning in SAR-optical data fusion, arXiv 2103.08259, 2021.

    Layout:
        ``opt_256_oc_0.2/<number>.png`` and ``sar_256_oc_0.2/<number>.png``, at the path or in its ``QXSLAB_SAROPT``.
        There is no official split. The set is called ``qxs-saropt``, a pair by its number. Images without a partner
        are left out.

    How to get it:
        github.com/yaoxu008/QXS-SAROPT names the download.

    Args:
        path: the folder of the two.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ()
    HOW: ClassVar[str] = (
        "QXS-SAROPT: get it by the link in github.com/yaoxu008/QXS-SAROPT and unpack it so that"
        f" {{path}}/{_OPTICAL}/1.png and {{path}}/{_SAR}/1.png exist"
    )

    def __init__(self, path: Path) -> None:
        sar = images_in(path / _SAR)
        pairs = {stem: Files(file, sar[stem]) for stem, file in images_in(path / _OPTICAL).items() if stem in sar}
        super().__init__("qxs-saropt", pairs)

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[QXSSAROPT]:
        """Open what lies at a path, if its layout is this set's."""
        return [found for place in (path, path / "QXSLAB_SAROPT") if (found := cls(place)).names]
