"""HeldOut: by how much a transform is off where it was not fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kornia_tar.geometry import FloatArray, Transform

FEWEST = 4  # check points that make a figure


@dataclass(frozen=True)
class HeldOut:
    """Errors at check points that the transform was not fitted to: blocks of cells, of a raster over image0.

    Each block is held out, the transform's model fitted to the others, and the block's cells say together, by their
    displacement maps alone, by how much that fit is off. So the figures hold the transform's error and the block's own,
    some 0.5 to 2 px where cells tell little, and what optical and SAR images show at different places. They see no
    error that all cells share. A single cell is 2 to 5 px off, and would say nothing of a better transform.

    Attributes:
        points: blocks whose cells agree on a place.
        rmse_px: root mean square of their errors, px of image1.
        ce90_px: the error that 90 % of them do not exceed, px of image1.
        rmse_px_image0: as ``rmse_px``, px of image0.
        ce90_px_image0: as ``ce90_px``, px of image0.
        blocks: (R, R, 2) px of image1, (x, y) of the fit minus what the cells say, in rows from the top; nan where they
            agree on nothing. Over the common area, where georeferences led the search.
        places: (R, R, 2) px of image0, (x, y) of the blocks' middles.
    """

    points: int
    rmse_px: float
    ce90_px: float
    rmse_px_image0: float
    ce90_px_image0: float
    blocks: FloatArray
    places: FloatArray

    def at(self, points: FloatArray) -> FloatArray:
        """Give points (N, 2), px of image0, what their blocks say, (N, 2) px of image1.

        nan where a block agrees on nothing, and outside of all blocks.
        """
        side = len(self.blocks)
        row, column = np.mgrid[:side, :side].reshape(2, -1)
        # The blocks' middles are a raster, wherever the search has put it: a linear map tells its columns and rows.
        known = np.c_[self.places.reshape(-1, 2), np.ones(side**2)]
        to_raster, *_ = np.linalg.lstsq(known, np.c_[column, row], rcond=None)
        index = np.rint(np.c_[points, np.ones(len(points))] @ to_raster).astype(int)
        inside = ((index >= 0) & (index < side)).all(axis=1)
        column, row = index.clip(0, side - 1).T
        return np.where(inside[:, None], self.blocks[row, column], np.nan)

    def report(self) -> dict[str, Any]:
        """Plain values for JSON; None for a block that says nothing."""
        rows = [[None if np.isnan(v).any() else v.round(3).tolist() for v in row] for row in self.blocks]
        return {
            "points": self.points, "rmse_px": self.rmse_px, "ce90_px": self.ce90_px,
            "rmse_px_image0": self.rmse_px_image0, "ce90_px_image0": self.ce90_px_image0, "blocks_px": rows,
            "places_px": self.places.round(1).tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class CheckPoints:
    """Held-out points in the frame that a transform was fitted in, either image's.

    Attributes:
        points: (N, 2) px.
        residual: (N, 2) px of the frame, by which the fit leads too far.
    """

    points: FloatArray
    residual: FloatArray

    def summed_up(self, transform: Transform, size: tuple[int, int], swapped: bool, blocks: int) -> HeldOut | None:
        """Measure them in both images; None where they are too few.

        Args:
            transform: image0 → image1.
            size: (H, W) of image0.
            swapped: whether the frame is image1's, and the fit led to image0.
            blocks: along a side.
        """
        if len(self.points) < FEWEST:
            return None
        if swapped:  # a fit that leads too far from image1 leads not far enough to it
            at, error1 = transform.inverse_points(self.points), -self.residual
            error0 = transform.inverse_points(self.points + error1) - at
        else:
            at, error0 = self.points, self.residual
            error1 = transform(at + error0) - transform(at)
        raster = np.full((blocks, blocks, 2), np.nan)
        column, row = np.floor((at + 0.5) / size[::-1] * blocks).clip(0, blocks - 1).astype(int).T
        raster[row, column] = error1
        y, x = np.mgrid[:blocks, :blocks]
        places = (np.stack([x, y], -1) + 0.5) / blocks * size[::-1] - 0.5
        return HeldOut(len(at), *_spread(error1), *_spread(error0), raster, places)


def _spread(errors: FloatArray) -> tuple[float, float]:
    """Root mean square and 90 % quantile of the lengths of (N, 2) errors."""
    length = np.linalg.norm(errors, axis=1)
    return float(np.sqrt(np.mean(length**2))), float(np.quantile(length, 0.9))
