"""Anyone's folder of pairs."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import ClassVar

from eval.datasets.files import IMAGES, Files, PairFiles

_OPTICAL = "optical", "opt"
_OTHERS = {"sar": "sar", "infrared": "infrared", "ir": "infrared", "map": "map", "depth": "depth", "night": "night",
           "other": "other"}  # fmt: skip


class Pairs(PairFiles):
    """A plain folder of pairs, with or without truth.

    Whose data, licence, citation:
        Yours.

    Layout:
        A part of a pair lies either in a folder of its own, ``<part>/<stem>.<ext>``, or beside the others,
        ``<stem>.<part>.<ext>``. The parts:

        - ``optical`` (or ``opt``), any common image format, 8 or 16 bits, or GeoTIFF (which needs rasterio);
        - ``sar``, or one of ``infrared`` (``ir``), ``map``, ``depth``, ``night``, ``other``; one kind a folder;
        - ``truth``, optional, ``.txt``: six or nine numbers, the matrix that maps optical to other;
        - ``tie_points``, optional, ``.csv`` with the header ``x0,y0,x1,y1``, x0 and y0 in the optical image.

        Without truth and tie points the images count as aligned. Both count pixels with centres at integers, x before
        y, from the top left. The set is called by its folder, a pair by its stem. Images without a partner are left
        out.

    How to get it:
        Put your images there.

    Args:
        path: the folder.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ()
    HOW: ClassVar[str] = (
        "a folder of pairs: put your images there as {path}/optical/<name>.png with {path}/sar/<name>.png, or as"
        " {path}/<name>.optical.png with {path}/<name>.sar.png; the other image may also be infrared (ir), map, depth,"
        " night or other. Where you know how they lie, add {path}/truth/<name>.txt, 6 or 9 numbers of the matrix that"
        " maps optical to other, or {path}/tie_points/<name>.csv with the header x0,y0,x1,y1, x0 and y0 in the optical"
        " image; without them a pair counts as aligned"
    )

    def __init__(self, path: Path) -> None:
        optical = self._part(path, *_OPTICAL)
        kinds = {kind: images for kind in _OTHERS if (images := self._part(path, kind))}
        if len(kinds) > 1:
            raise ValueError(f"{path}: holds {' and '.join(kinds)} images; keep one kind beside the optical ones")
        kind, other = next(iter(kinds.items()), ("sar", {}))
        truth = self._part(path, "truth", suffixes=frozenset({".txt"}))
        points = self._part(path, "tie_points", suffixes=frozenset({".csv"}))
        files = {
            stem: Files(file, other[stem], truth.get(stem), points.get(stem))
            for stem, file in optical.items()
            if stem in other
        }
        if files:
            stems = optical.keys() | other.keys()
            self._refuse_strays(path, "truth", truth, stems, ".txt")
            self._refuse_strays(path, "tie_points", points, stems, ".csv")
        super().__init__(path.resolve().name, files, _OTHERS[kind])

    @classmethod
    def seen(cls, path: Path) -> str:
        """Say in one line which parts of pairs lie at a path that holds no whole pair; empty where none do."""
        parts = {"optical": cls._part(path, *_OPTICAL)} | {kind: cls._part(path, kind) for kind in _OTHERS}
        found = {part: stems for part, stems in parts.items() if stems}
        if not found:
            return ""
        listed = " and ".join(f"{len(stems)} {part} (first {min(stems)!r})" for part, stems in found.items())
        return f"found {listed} images, but no name that is both optical and another"

    @staticmethod
    def _refuse_strays(path: Path, part: str, known: dict[str, Path], stems: Set[str], suffix: str) -> None:
        """Raise ValueError where truth would be overlooked: a pair without it counts as aligned."""
        lying = [*path.glob(f"{part}/*"), *path.glob(f"*.{part}.*")]
        if wrong := sorted(file.name for file in lying if file.suffix.lower() != suffix and file.name[0] != "."):
            raise ValueError(
                f"{path}: {wrong[0]} is no {part} file: they are called <name>{suffix}, not in another format"
            )
        if strays := sorted(known.keys() - stems):
            raise ValueError(
                f"{path}: the {part} file of {strays[0]!r} belongs to no image; give it the name of its optical image,"
                f" such as {min(stems)!r}"
            )

    @classmethod
    def find(cls, path: Path, split: str | None = None) -> list[Pairs]:
        """Open what lies at a path, if its layout is this one."""
        return [found] if (found := cls(path)).names else []

    @staticmethod
    def _part(path: Path, *parts: str, suffixes: frozenset[str] = IMAGES) -> dict[str, Path]:
        """Return the files of a part, by stem."""
        found: dict[str, Path] = {}
        for part in parts:
            beside = {file.name.removesuffix(f".{part}{file.suffix}"): file for file in path.glob(f"*.{part}.*")}
            within = {file.stem: file for file in path.glob(f"{part}/*")}
            found |= {stem: file for stem, file in (beside | within).items() if file.suffix.lower() in suffixes}
        return found
