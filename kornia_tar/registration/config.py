"""How the registrar looks, and what it trusts."""

from __future__ import annotations

from dataclasses import dataclass

from kornia_tar.conventions import MIN_SIDE
from kornia_tar.geometry import FloatArray, TransformModel, decompose


@dataclass(frozen=True)
class RegistrarConfig:
    """How to register, and what to trust.

    Lengths are pixels of image1 where nothing else is said.
    """

    model: TransformModel = "affine"
    start_confidence: float = 0.1  # least, of the matches that a start is fitted to
    start_threshold: float = 6.0  # of an inlier to a start, wide, for a start knows neither shear nor perspective
    rotations: int = 8  # 1: nearly upright pairs; 4: any rotation; 8: the diagonals too, where the four leave doubt
    scales: tuple[float, ...] = (1.0, 1.4, 0.7)  # starts, image1's pixels for one of image0's; tried in turn
    candidates: int = 3  # of one scale's rotations, that are compared at half the search's size
    sure_gain: float = 0.15  # nats per cell: no further start is tried
    search_side: int = 384  # longest side of the first pass
    tile: int = 512  # side of the tiles at full resolution, in image0
    refinements: int = 2  # alignments at full size
    magnify: float = 2.0  # of the one after them: cells of fewer pixels of ground, and more of them
    max_cells: int = 20_000  # that vote, of both images, drawn evenly
    threshold: float = 3.0  # of an inlier
    prior: float = 2.5  # px of the frame aligned in, how far the ground may leave the model: steers the tie points
    min_gain: float = 0.1  # nats per cell over knowing nothing
    min_evidence: float = 150.0  # nats of all cells together: small crops of different places reached 92
    min_cells: int = 60  # that both images show; of small images half of all
    max_scale: float = 4.0  # either way
    max_anisotropy: float = 1.6
    max_perspective: float = 0.3  # change of depth over half the image
    max_error: float = 5.0  # px of the estimated error; like threshold, for equal scale

    def __post_init__(self) -> None:
        if self.rotations not in (1, 4, 8):
            raise ValueError(f"rotations must be 1, 4 or 8, got {self.rotations}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {self.scales}")
        if min(self.search_side, self.tile) < MIN_SIDE:
            raise ValueError(f"search_side and tile must be at least {MIN_SIDE} px")
        if self.magnify < 1:
            raise ValueError(f"magnify must be at least 1, got {self.magnify}")
        if min(self.candidates, self.refinements, self.min_cells, self.max_cells) < 1:
            raise ValueError("candidates, refinements, min_cells and max_cells must be at least 1")

    def implausible(self, matrix: FloatArray, size: tuple[int, int]) -> tuple[str, ...]:
        """What no pair of overhead images does to each other, in words: of (3, 3), image0 of ``size`` → image1."""
        parts = decompose(matrix, at=(size[1] / 2, size[0] / 2))
        checks = (
            (1 / self.max_scale <= parts.scale <= self.max_scale, f"scale {parts.scale:.2f} is implausible"),
            (
                parts.anisotropy <= self.max_anisotropy,
                f"axes stretched by {parts.anisotropy:.2f} to one are implausible",
            ),
            (not parts.mirrored, "the transform mirrors the image"),
            (parts.perspective * max(size) / 2 <= self.max_perspective, "the perspective is implausible"),
        )
        return tuple(reason for passed, reason in checks if not passed)
