"""L(T), which ``align`` climbs, as a function of a few parameters θ: with a prior, and derivatives in closed form."""

from __future__ import annotations

import numpy as np
import torch

from kornia_tar.geometry import FloatArray, TransformModel
from kornia_tar.registration.alignment.evidence import DisplacementMaps

# Beyond the overlap, a stretch or a perspective that cells barely determine moves corners far. How strong the prior is
# was chosen on val-000: so many nats because neighbours say the same, up to some 100 cells as if they were one.
PRIOR_WEIGHT = 100.0  # nats
STRETCH, PERSPECTIVE = 0.02, 0.06  # half of log-stretch, and change of depth over half the image, which are usual
DIFFERENCE = 1e-4  # of θ, by which the prior is differentiated
NEAREST = 1e-6  # depth of points that a homography would send behind the camera: they land far away


class Frame:
    """The parameters θ of transforms near the identity of a frame, in units of half its size, and their prior.

    Overhead images are hardly stretched one axis against the other, and have little perspective; where they are, as
    pixels of degrees, they are by much. So the prior is Cauchy's: near a similarity it pulls, and lets go further away.

    Args:
        model: "similarity", "affine" or "homography".
        size: (H, W) of the frame, px.
        before: (3, 3), what follows on the transform; None for no prior.
        cells: how many vote, whose gains the prior stands against.
    """

    def __init__(self, model: TransformModel, size: tuple[int, int], before: FloatArray | None, cells: int) -> None:
        self.half, (height, width) = max(size) / 2, size
        rows = [[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, self.half]]
        self._to_unit = np.array(rows) / self.half
        self._to_pixel = np.linalg.inv(self._to_unit)
        entries = np.eye(9)
        self._basis = entries[: 6 if model == "affine" else 8]  # (P, 9)
        if model == "similarity":
            self._basis = np.stack([entries[0] + entries[4], entries[3] - entries[1], entries[2], entries[5]])
        self._weight = PRIOR_WEIGHT / max(cells, 1)
        self._whole = None if before is None else before @ self._to_pixel

    @property
    def identity(self) -> FloatArray:
        """(P,) θ of the identity."""
        return np.zeros(len(self._basis))

    def matrix(self, theta: FloatArray) -> FloatArray:
        """(3, 3), pixels to pixels, of (P,) θ."""
        return np.asarray(self._to_pixel @ self._in_units(theta) @ self._to_unit, np.float64)

    def places(self, theta: FloatArray, points: FloatArray) -> FloatArray:
        """(N, 2) px of image1 where (N, 2) px of image0 lie; finite behind the horizon, too."""
        lifted = _in_front(_lifted(points) @ self.matrix(theta).T)
        return np.asarray(lifted[:, :2] / lifted[:, 2:], np.float64)

    def directions(self) -> FloatArray:
        """(P, 3, 3), the derivatives of :meth:`matrix` by θ."""
        return np.asarray(self._to_pixel @ self._basis.reshape(-1, 3, 3) @ self._to_unit, np.float64)

    def doubt(self, theta: FloatArray) -> FloatArray:
        """Nats per cell that the prior takes from the whole transform for what it is beside a similarity.

        Args:
            theta: (…, P), one or many.
        """
        if self._whole is None:
            return np.zeros(theta.shape[:-1])
        whole = self._whole @ self._in_units(theta)
        whole = whole / whole[..., 2:, 2:]
        linear = whole[..., :2, :2] - whole[..., :2, 2:] * whole[..., 2:, :2]  # at the middle
        a, b, c, d = np.moveaxis(linear.reshape(*linear.shape[:-2], 4), -1, 0)
        round_part = np.maximum((a + d) ** 2 + (c - b) ** 2, 1e-12)  # a mirror has none
        stretch = ((a - d) ** 2 + (b + c) ** 2) / round_part
        perspective = (whole[..., 2, :2] ** 2).sum(-1)
        return self._weight * (np.log1p(stretch / STRETCH**2) + np.log1p(perspective / PERSPECTIVE**2))

    def doubt_derivatives(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient (P,) and Hessian (P, P) of :meth:`doubt`, by differences."""
        count, step = len(theta), DIFFERENCE * np.eye(len(theta))
        if self._whole is None:
            return np.zeros(count), np.zeros((count, count))
        around = np.concatenate([step, -step, (step[:, None] + step).reshape(-1, count), np.zeros((1, count))])
        doubt = self.doubt(theta + around)
        up, down, both, here = doubt[:count], doubt[count : 2 * count], doubt[2 * count : -1], doubt[-1]
        hessian = (both.reshape(count, count) - up[:, None] - up + here) / DIFFERENCE**2
        return (up - down) / (2 * DIFFERENCE), (hessian + hessian.T) / 2

    def _in_units(self, theta: FloatArray) -> FloatArray:
        return np.asarray(np.eye(3) + (theta @ self._basis).reshape(*theta.shape[:-1], 3, 3), np.float64)


class Likelihood:
    """L(T) per cell of some cells' evidence, less the prior's doubt, as a function of a frame's θ.

    Args:
        frame: whose θ.
        evidence: the cells.
        ahead: how many of them are image0's, the first ones.
        width: of the splines over their maps.
    """

    def __init__(self, frame: Frame, evidence: DisplacementMaps, ahead: int, width: float = 1.0) -> None:
        self._frame, self._ahead, self._width = frame, ahead, width
        self._evidence = evidence._replace(corner=evidence.corner.double(), probability=evidence.probability.double())
        self._points = _lifted(evidence.points.double().numpy())
        self._directions = frame.directions()

    def __len__(self) -> int:
        return len(self._points)

    def __call__(self, theta: FloatArray) -> float:
        """Nats per cell at (P,) θ."""
        return float(self.gains(theta).mean() - self._frame.doubt(theta))

    def gains(self, theta: FloatArray) -> FloatArray:
        """(K,) nats that each cell gains over knowing nothing."""
        lifted = self._through(theta)[0]
        places = torch.from_numpy(lifted[:, :2] / lifted[:, 2:])
        return self._evidence.log_likelihood_gain(places, self._width).numpy()

    def derivatives(self, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Differentiate at (P,) θ.

        Returns:
            (K, P) gradients of the cells' gains; the gradient (P,) and the negative Hessian (P, P) of L per cell less
            the doubt, in which the cells' places count as linear in θ.
        """
        lifted, back = self._through(theta)
        ahead = self._ahead
        moved = np.concatenate([
            self._points[:ahead] @ self._directions.transpose(0, 2, 1),
            lifted[ahead:] @ (-back @ self._directions).transpose(0, 2, 1),
        ], 1)  # (P, K, 3)  # fmt: skip
        by_x, by_y = _projected(lifted, moved)
        slope, information = self._evidence.derivatives(lifted[:, :2] / lifted[:, 2:], self._width)
        xx, xy, yy = information.T
        cells = by_x * slope[:, 0] + by_y * slope[:, 1]
        curve = (by_x * xx + by_y * xy) @ by_x.T + (by_x * xy + by_y * yy) @ by_y.T
        doubt = self._frame.doubt_derivatives(theta)
        return cells.T, cells.mean(1) - doubt[0], curve / len(slope) + doubt[1]

    def jacobian(self, theta: FloatArray, points: FloatArray) -> FloatArray:
        """(N, 2, P), by how much (N, 2) points of image0 move in image1 with θ, px."""
        lifted = _in_front(_lifted(points) @ self._frame.matrix(theta).T)
        by_x, by_y = _projected(lifted, _lifted(points) @ self._directions.transpose(0, 2, 1))
        return np.stack([by_x.T, by_y.T], 1)

    def _through(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(K, 3) the cells' points through the matrix, of image1's cells through its inverse, and (3, 3) that."""
        matrix = self._frame.matrix(theta)
        back = np.asarray(np.linalg.inv(matrix), np.float64)
        points = np.concatenate([self._points[: self._ahead] @ matrix.T, self._points[self._ahead :] @ back.T])
        return _in_front(points), back


def _lifted(points: FloatArray) -> FloatArray:
    return np.concatenate([points, np.ones((len(points), 1))], 1)


def _in_front(lifted: FloatArray) -> FloatArray:
    lifted[:, 2] = np.maximum(lifted[:, 2], NEAREST)
    return lifted


def _projected(lifted: FloatArray, moved: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(P, N) by how much x and y move, of (N, 3) homogeneous points that move by (P, N, 3)."""
    x, y = ((moved[..., i] - lifted[:, i] / lifted[:, 2] * moved[..., 2]) / lifted[:, 2] for i in (0, 1))
    return x, y
