"""What cells say of their places in the other image: probability maps over displacements, and tie points from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kornia_tar.geometry import FloatArray, Transform, transform_points
from kornia_tar.network.fine import PLACE_STEP
from kornia_tar.network.net import ImageFeatures, TARNet
from kornia_tar.network.second_look import OUTLIER_RATIO


class DisplacementMaps(NamedTuple):
    """What K cells of one image say about where they lie in the other, in pixels of one frame."""

    points: Tensor  # (K, 2) px, centre of the cell
    corner: Tensor  # (K, 2) px, the place that the map's first entry speaks of
    probability: Tensor  # (K, S, S) over places ``step`` px apart, rows are y
    step: float

    @classmethod
    def between(cls, net: TARNet, a: ImageFeatures, b: ImageFeatures) -> tuple[DisplacementMaps, DisplacementMaps]:
        """Ask a network what the cells of two images say that nearly lie on each other.

        Args:
            net: the network.
            a: image0, a batch of one.
            b: image1, a batch of one of the same size no more than some 8 px off.

        Returns:
            what image0's cells say of their places in image1, and image1's of theirs in image0.
        """
        centre, in1, in0 = net.displacement_maps(a, b)
        corner = centre - PLACE_STEP * (in1.shape[1] // 2)
        return cls(centre, corner, in1, PLACE_STEP), cls(centre, corner, in0, PLACE_STEP)

    def moved(self, by: Tensor) -> DisplacementMaps:
        """The same in a frame where everything lies ``by`` (2,) px further: from a tile to its image."""
        return self._replace(points=self.points + by, corner=self.corner + by)

    def scaled(self, matrix: FloatArray) -> DisplacementMaps:
        """The same in another frame, to which ``matrix``, (3, 3), leads: a similarity without rotation, or nearly."""
        to = np.asarray(matrix)
        points, corner = (
            torch.from_numpy(transform_points(to, part.cpu().numpy())).to(part) for part in (self.points, self.corner)
        )
        return self._replace(points=points, corner=corner, step=self.step * math.sqrt(float(to[0, 0] * to[1, 1])))

    def rows(self, index: Tensor) -> DisplacementMaps:
        """Some cells, copied to the CPU, where :func:`align` works."""
        points, corner, probability = (
            t.detach().cpu()[index].float() for t in (self.points, self.corner, self.probability)
        )
        return DisplacementMaps(points, corner, probability, self.step)

    @property
    def area(self) -> float:
        """Of a map, px²."""
        return (self.step * self.probability.shape[-1]) ** 2

    def density(self, places: Tensor, width: float = 1.0) -> Tensor:
        """(K,) probability per px² that cell k lies at ``places[k]``, (K, 2) px; 0 outside of its map.

        A cubic spline over the map, so that the tops of sums do not lock to the map's raster; with ``width`` > 1 a
        smoother one, whose tops are seen from further away.
        """
        at = (places - self.corner) / self.step  # (K, 2)
        raster = torch.arange(self.probability.shape[-1], dtype=at.dtype)
        x, y = (cubic((at[:, :, None] - raster) / width) / width).unbind(1)  # (K, S)
        return ((self.probability @ x[:, :, None]).squeeze(2) * y).sum(1) / self.step**2

    def log_likelihood_gain(self, places: Tensor, width: float = 1.0) -> Tensor:
        """(K,) nats that the cells' places ``places``, (K, 2) px, gain over knowing nothing: a summand of L each."""
        known = self.density(places, width) * self.area
        return torch.log((1 - OUTLIER_RATIO) * known + OUTLIER_RATIO)

    @torch.autocast("cpu", enabled=False)
    def derivatives(self, places: FloatArray, width: float = 1.0) -> tuple[FloatArray, FloatArray]:
        """Differentiate :meth:`log_likelihood_gain` by the places, (K, 2) px.

        Returns:
            the gradient, (K, 2) nats per px; the negative Hessian, (K, 3): by x twice, by x and y, by y twice.
        """
        scale = self.step * width
        raster = torch.arange(self.probability.shape[-1], dtype=self.corner.dtype)
        t = ((torch.from_numpy(places).to(self.corner) - self.corner) / self.step)[:, :, None] - raster
        t = t / width
        a = t.abs()
        far, near = (2 - a).clamp_min(0), (1 - a).clamp_min(0)  # the cubic B-spline and its derivatives
        spline = torch.stack([
            cubic(t), t.sign() * (4 * near * near - far * far) / 2 / scale,
            (far - 4 * near) / scale**2,
        ], 3)  # fmt: skip
        both = spline[:, 1].transpose(1, 2) @ (self.probability @ spline[:, 0])  # (K, order of y, order of x)
        known = (both * ((1 - OUTLIER_RATIO) * self.area / scale**2)).double().numpy()
        total = known[:, 0, 0] + OUTLIER_RATIO
        slope = np.stack([known[:, 0, 1], known[:, 1, 0]], 1) / total[:, None]
        xx, xy, yy = (known[:, k, 2 - k] / total for k in range(3))
        return slope, np.stack([slope[:, 0] ** 2 - xx, slope[:, 0] * slope[:, 1] - xy, slope[:, 1] ** 2 - yy], 1)


def cubic(t: Tensor) -> Tensor:
    """The cubic B-spline, a smooth bump of unit integral on [-2, 2]."""
    t = t.abs()
    far, near = (2 - t).clamp_min(0), (1 - t).clamp_min(0)
    return (far * far * far - 4 * near * near * near) / 6  # products, for powers are slow


def join(parts: Sequence[DisplacementMaps]) -> DisplacementMaps:
    """Several tiles' evidence, of equal step, in one."""
    return DisplacementMaps(
        torch.cat([part.points for part in parts]), torch.cat([part.corner for part in parts]),
        torch.cat([part.probability for part in parts]), parts[0].step,
    )  # fmt: skip


def tie_points(
    evidence: DisplacementMaps, transform: FloatArray | Transform, sigma: float, within: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each cell lies, given what it says and that ``transform`` is right to within ``sigma`` px.

    The mean of the posterior: the cell's map times a normal distribution around T x_k.

    Returns:
        places (K, 2) px; one-sigma errors per axis (K,) px; confidences (K,) in [0, 1], the posterior probability that
        the place is right to ``within`` px and the cell no outlier. A cell that tells nothing lies on the transform
        with a confidence of a half: the prior's own.
    """
    way = transform if isinstance(transform, Transform) else Transform(transform)
    expected = torch.from_numpy(way(evidence.points.double().numpy())).float()  # (K, 2)
    side = evidence.probability.shape[-1]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = evidence.corner[:, None] + evidence.step * torch.stack([x, y], -1).view(1, -1, 2)  # (K, S², 2)
    near = -0.5 * ((places - expected[:, None]) / sigma).square().sum(-1) - math.log(2 * math.pi * sigma**2)
    both = near + evidence.probability.flatten(1).clamp_min(1e-30).log()  # log of a density per px²
    total, weight = both.logsumexp(1).exp(), both.softmax(1)
    mean = (weight[..., None] * places).sum(1)
    offset = places - mean[:, None]
    std = ((weight * offset.square().sum(-1)).sum(1) / 2 + evidence.step**2 / 12).sqrt()
    close = (weight * (offset.norm(dim=-1) < within)).sum(1)
    known = (1 - OUTLIER_RATIO) * total * evidence.area
    return mean, std, close * known / (known + OUTLIER_RATIO)
