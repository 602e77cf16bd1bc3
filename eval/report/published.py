"""Figures that others published on optical-SAR and other cross-modal matching, as plain data with their citations.

They are context, not rivals: every one was measured on other pairs, other deformations and another estimator, and the
same method moves by factors between two papers. Reports keep them in tables of their own, each marked ``MARK``.
"""

from __future__ import annotations

from dataclasses import dataclass

MARK = "published, other protocol"
_SECOND_HAND = "Figures taken from notes of others about the paper, not checked in the paper itself."


@dataclass(frozen=True)
class Published:
    """One table of published figures.

    Args:
        title: what was measured on what.
        source: who published it, and where.
        protocol: pairs, deformation, estimator, failures, as far as known.
        columns: heads of the figures, with units.
        rows: per method its name and one figure per column, None where none was given.
        note: what to keep in mind.
    """

    title: str
    source: str
    protocol: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    note: str = ""

    @property
    def cells(self) -> list[list[str]]:
        """Per row the method and its figures, each column with as many decimals as its most exact figure has."""
        given = [
            [value for value in column if value is not None] for column in zip(*(v for _, v in self.rows), strict=True)
        ]
        decimals = [
            max((len(repr(value).partition(".")[2].rstrip("0")) for value in column), default=0) for column in given
        ]
        return [
            [method, *("–" if value is None else f"{value:.{n}f}" for value, n in zip(values, decimals, strict=True))]
            for method, values in self.rows
        ]


TAR = (
    "TAR's own result tables (arXiv 2605.12064, TGRS 2026) were not reachable, so none of its rows stands here. Known "
    "is its protocol: 1,000 test pairs each of SEN1-2 and OSdataset, 256 × 256; rotation ±35°, scale 0.7 to 1.3, "
    "translation 10 % of the side; RMSE over the matched points of a pair, and CMR, the share of pairs whose RMSE is "
    "below 1, 3 or 5 px. Whether the deformations are stored and how failures count is not stated."
)

TABLES = (
    Published(
        title="OSdataset, trained dense matchers (CRFT)",
        source="CRFT, arXiv 2604.05689",
        protocol="424 test pairs; rotation ±45°, scale 0.9 to 1.1, shift up to 30 px; end-point error of dense flow",
        columns=("AEPE, px", "CMR@3, %", "CMR@1, %", "CMR@0.7, %"),
        rows=(
            ("CRFT", (0.65, 99.0, 95.1, 89.9)),
            ("XoFTR + flow", (1.13, 96.2, 57.6, 41.7)),
            ("GDROS", (1.34, 91.1, 49.2, 35.5)),
            ("ADRNet", (1.67, 90.1, 35.0, 20.6)),
            ("RAFT", (3.51, 69.6, 15.9, 8.7)),
            ("GMFlow", (11.91, 17.0, 0.0, 0.0)),
            ("RIFT2", (23.61, 22.9, 0.0, 0.0)),
        ),
        note=f"{_SECOND_HAND} CRFT's public configuration resizes to 64 px, so its pixels may be small pixels.",
    ),
    Published(
        title="OSdataset, trained dense matchers (RBE-Flow)",
        source="RBE-Flow, arXiv 2606.30492, ECCV 2026",
        protocol="rotation ±30°, scale 0.9 to 1.1, shift up to 15 px; end-point error of dense flow",
        columns=("AEPE, px", "CMR@1, %"),
        rows=(
            ("RBE-Flow", (0.77, 78.5)),
            ("ADRNet", (1.41, 50.5)),
            ("GDROS", (1.51, 48.8)),
            ("RAFT", (2.89, 14.0)),
            ("GMFlow", (5.13, 2.1)),
            ("XoFTR", (5.41, 0.0)),
            ("HOWP", (20.39, 0.3)),
            ("RIFT2", (29.83, 0.7)),
            ("LNIFT", (46.98, 0.3)),
        ),
        note=_SECOND_HAND,
    ),
    Published(
        title="WHU-OPT-SAR, trained dense matchers (RBE-Flow)",
        source="RBE-Flow, arXiv 2606.30492, ECCV 2026",
        protocol="rotation ±30°, scale 0.9 to 1.1, shift up to 15 px; end-point error of dense flow",
        columns=("AEPE, px", "CMR@1, %"),
        rows=(
            ("RBE-Flow", (0.53, 91.0)),
            ("ADRNet", (1.43, 52.9)),
            ("RAFT", (2.07, 25.4)),
            ("GDROS", (2.87, 28.7)),
            ("RIFT2", (214.0, 0.0)),
        ),
        note=_SECOND_HAND,
    ),
    Published(
        title="SpaceNet 9, zero-shot matchers (RSIM)",
        source="RSIM, arXiv 2604.10217, CVPR 2026 Image Matching Workshop, table 2",
        protocol="3 labelled scenes, real displacement; affine RANSAC 3 px; error at tie points; failures left out; "
        "each matcher with the normalisation that suits it best; RTX 3090",
        columns=("mean error, px", "S@5, %", "S@10, %"),
        rows=(
            ("RoMa", (3.0, 78.9, 94.2)),
            ("XoFTR", (3.0, 78.4, 90.5)),
            ("RoMa + LoFTR", (3.3, 75.9, 90.1)),
            ("MatchAnything-ELoFTR", (3.4, 71.2, 93.3)),
            ("MINIMA-RoMa", (3.4, 66.6, 79.6)),
            ("RoMa v2", (3.6, 69.2, 90.2)),
            ("MINIMA-XoFTR", (3.8, 64.6, 77.3)),
            ("GIM-DKM", (4.1, 57.6, 85.6)),
            ("SuperPoint-LightGlue", (4.4, 65.4, 77.6)),
            ("ALIKED-LightGlue", (4.5, 62.2, 84.8)),
            ("MASt3R", (4.5, 60.9, 80.9)),
            ("DeDoDe-LightGlue", (4.5, 58.8, 85.5)),
            ("DISK-LightGlue", (4.6, 52.2, 82.6)),
            ("LoFTR", (5.1, 54.4, 81.0)),
        ),
    ),
    Published(
        title="Visible-SAR landmarks (MatchAnything)",
        source="MatchAnything, arXiv 2501.07556",
        protocol="1,209 pairs, real displacement; affine RANSAC 3 px; error at independent landmarks",
        columns=("SR@10, %",),
        rows=(("MatchAnything-RoMa", (93.3,)), ("MatchAnything-ELoFTR", (72.5,))),
        note=_SECOND_HAND,
    ),
    Published(
        title="Remote sensing of MMIM, several modalities (MINIMA)",
        source="MINIMA, arXiv 2412.19412, CVPR 2025",
        protocol="real displacement; homography RANSAC 3 px; corner error; only 6 of the pairs are optical-SAR",
        columns=("AUC@3, %", "AUC@5, %", "AUC@10, %"),
        rows=(
            ("MINIMA-RoMa", (32.55, 44.68, 64.38)),
            ("RoMa", (29.24, 40.50, 57.84)),
            ("XoFTR", (27.35, 39.58, 56.63)),
        ),
        note=_SECOND_HAND,
    ),
    Published(
        title="MultiResSAR",
        source="MultiResSAR, arXiv 2502.01002",
        protocol="more than 10,000 optical-SAR pairs of several resolutions, real displacement",
        columns=("success, %",),
        rows=(("RIFT", (66.51,)), ("XoFTR", (40.58,))),
        note="From the abstract: the best hand-crafted and the best learned method; most fail on sub-metre data.",
    ),
)
