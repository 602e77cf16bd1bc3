"""How the registrar searches, aligns, and what it accepts: a config for each, composed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.registration.acceptance import AcceptanceConfig

#: A plane transform; "spline": an affine one and a smooth field; "auto": the simplest of them that the cells allow.
RegistrationModel = Literal["similarity", "affine", "homography", "spline", "auto"]


@dataclass(frozen=True)
class SearchConfig:
    """Which poses are tried on small images; lengths are pixels of those."""

    rotations: int = 8  # 1: nearly upright pairs; 4: any rotation; 8: the diagonals too, where the four leave doubt
    scales: tuple[float, ...] = (1.0, 1.4, 0.7)  # of the small images, image1's pixels for one of image0's, in turn
    wide_scales: tuple[float, ...] = (2.0, 0.5, 2.8, 0.36)  # where those fail, and of images that show unlike ground
    told_scale: float | None = None  # full pixels of image1 for one of image0's, where it is known: no other is tried
    side: int = 384  # longest side of the small images
    first_side: int = 256  # longest side of what the first looks see, which cost most
    min_confidence: float = 0.1  # of the matches that a pose is fitted to, as the network states it
    inlier_threshold: float = 6.0  # wide, for a similarity knows neither shear nor perspective
    candidates: int = 2  # of one scale's rotations, that the second look is asked about at half the size
    likely_agreement: float = 0.3  # of half the size, from which the full size is asked at once
    late_candidates: int = 2  # others, at most, that it is asked about when all poses are tried
    sure_agreement: float = 0.6  # mean confidence of the second look: no further pose is tried
    chip_agreement: float = 0.15  # below it a chip's place is not aligned; the right ones of 10 pairs had 0.23 and more
    # Asked again of its own matches the second look comes to believe in chance. Before that a third of the best poses
    # of different places lie below 0.1, and right ones not below 0.13 (maps), 0.43 (`hard`) and 0.66 (optical-SAR).
    hopeless_agreement: float = 0.08  # below it no pose is confirmed, and nothing aligned from it
    near: float = math.inf  # px of image0: images of one grid, which lie on each other to within this

    def __post_init__(self) -> None:
        if self.rotations not in (1, 4, 8):
            raise ValueError(f"rotations must be 1, 4 or 8, got {self.rotations}")
        if not self.scales or min(self.scales + self.wide_scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {self.scales + self.wide_scales}")
        if self.told_scale is not None and not 0 < self.told_scale < math.inf:
            raise ValueError(f"told_scale must be a positive number, got {self.told_scale}")
        if self.side < MIN_SIDE:
            raise ValueError(f"side must be at least {MIN_SIDE} px, got {self.side}")
        if self.candidates < 1 or self.late_candidates < 1:
            told = f"{self.candidates} and {self.late_candidates}"
            raise ValueError(f"candidates and late_candidates must be at least 1, got {told}")


@dataclass(frozen=True)
class AlignmentConfig:
    """How all cells vote for the transform; lengths are pixels of the frame aligned in."""

    tile: int = 512  # side of the tiles at full resolution; it bounds the memory
    refinements: int = 1  # alignments at full size, after those at the size of one tile
    magnify: float = 2.0  # of the one after them: cells of fewer pixels of ground, and more of them
    min_cells: int = 60  # that both images show; of small images half of all
    max_cells: int = 20_000  # that vote, of both images, drawn evenly
    relief: float = 2.5  # px, sigma, how far the ground may leave the model: steers the tie points

    def __post_init__(self) -> None:
        if self.tile < MIN_SIDE:
            raise ValueError(f"tile must be at least {MIN_SIDE} px, got {self.tile}")
        if self.magnify < 1:
            raise ValueError(f"magnify must be at least 1, got {self.magnify}")
        for name in ("refinements", "min_cells", "max_cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class RegistrarConfig:
    """How to register, and what to accept."""

    model: RegistrationModel = "affine"
    search: SearchConfig = field(default_factory=SearchConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    acceptance: AcceptanceConfig = field(default_factory=AcceptanceConfig)
    mask_graphics: bool = True  # take out what is drawn on both images at the same pixels; only the ground counts

    def __post_init__(self) -> None:
        if self.model not in (known := get_args(RegistrationModel)):
            raise ValueError(f"model is {self.model!r}; it must be one of {', '.join(known)}")
