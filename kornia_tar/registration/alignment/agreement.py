"""Whether the cells' agreement comes from the ground all over the overlap, or from a few that tell very much."""

from __future__ import annotations

import math

from torch import Tensor

TELLING = 0.2  # share of the cells, those that gain most, that the others must do without
BLOCKS = 6  # on a side, over the overlap
LEAST = 4  # cells of an occupied block


def trimmed_gain(gains: Tensor) -> float:
    """Average what the cells gain without the fifth that gains most.

    Args:
        gains: (K,) nats of each cell.

    Returns:
        nats per remaining cell; nan without any.
    """
    kept = gains.sort().values[: len(gains) - math.floor(TELLING * len(gains))]
    return float(kept.mean())


def block_agreement(points: Tensor, gains: Tensor) -> float:
    """Measure the share of the blocks of the overlap whose cells together gain.

    Args:
        points: (K, 2) px, the cells' centres in one frame; their bounding box is cut into 6×6 blocks.
        gains: (K,) nats of each cell.

    Returns:
        share in [0, 1] of the blocks with four cells or more; nan without such a block.
    """
    if not len(points):
        return math.nan
    low, high = points.amin(0), points.amax(0)
    column, row = ((points - low) / (high - low + 1) * BLOCKS).long().unbind(1)
    block = row * BLOCKS + column
    sums, count = gains.new_zeros(BLOCKS**2), gains.new_zeros(BLOCKS**2)
    sums.index_add_(0, block, gains)
    count.index_add_(0, block, gains.new_ones(len(gains)))
    occupied = count >= LEAST
    return float((sums[occupied] > 0).float().mean())
