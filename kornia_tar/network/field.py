"""Fields: from matches, many of them wrong, to a smooth map of one image's pixels into the other's.

A similarity that two matches propose and the others confirm, an affine map by robust least squares, and on a raster of
nodes what local affine maps add to it. Everything works on padded batches, decides nothing by chance, and does not mind
the order of the matches: exchanging the images exchanges the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kornia_tar.conventions import CELL
from kornia_tar.network.points import transform_affine, vector

VOTERS = 512  # most confident matches that judge proposals; all of them would cost memory


class Field(NamedTuple):
    """A smooth map of one image's pixels into the other's: an affine map, and what nodes add to it."""

    matrix: Tensor  # (B, 2, 3)
    residual: Tensor  # (B, 2, R, C) px, at nodes ``spacing`` px apart, bilinear between them
    trust: Tensor  # (B, 1, R, C), confidence of the matches around each node, summed; 0 where nothing is known
    spacing: int

    def sample(self, values: Tensor, points: Tensor) -> Tensor:
        """Interpolate node values (B, K, R, C) at points (B, N, 2) px; constant beyond the outer nodes: (B, N, K)."""
        extent = vector(points, values.shape[3], values.shape[2]) * self.spacing
        grid = (2 * (points + 0.5) / extent - 1)[:, None]  # (B, 1, N, 2)
        found = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found[:, :, 0].transpose(1, 2)

    def __call__(self, points: Tensor) -> Tensor:
        """Map (B, N, 2) px."""
        return transform_affine(self.matrix, points) + self.sample(self.residual, points)

    def scale(self) -> Tensor:
        """(B,) px of the other image per px of this one."""
        return determinant(self.matrix[:, :, :2]).abs().clamp_min(1e-6).sqrt()


def pad_matches(batch: Tensor, values: Sequence[Tensor], size: int, capacity: int) -> list[Tensor]:
    """Arrange lists of all pairs' matches as one zero-padded row a pair: (N, …) → (B, capacity, …).

    Args:
        batch: (N,) pair of each match, ascending.
        values: tensors that begin with N.
        size: number of pairs B.
        capacity: at least as large as the longest list.
    """
    batch = batch.contiguous()  # of thinned lists it is not, and torch warns
    slot = torch.arange(len(batch), device=batch.device) - torch.searchsorted(batch, batch)
    padded = [v.float().new_zeros(size, capacity, *v.shape[1:]) for v in values]
    return [p.index_put((batch, slot), v.float()) for p, v in zip(padded, values, strict=True)]


def propose_similarity(points0: Tensor, points1: Tensor, weight: Tensor, seeds: int, sigma: float = 6.0) -> Tensor:
    """Return the matrix alone of :func:`best_similarity`."""
    return best_similarity(points0, points1, weight, seeds, sigma)[0]


def best_similarity(
    points0: Tensor, points1: Tensor, weight: Tensor, seeds: int, sigma: float = 6.0
) -> tuple[Tensor, Tensor]:
    """Find the similarity that most confidence agrees with, of those through two of the most confident matches.

    Errors count as the geometric mean of both images' pixels, so the images may change places.

    Args:
        points0: (B, N, 2) px.
        points1: (B, N, 2) px.
        weight: (B, N), 0 where padded.
        seeds: how many matches propose.
        sigma: px, what still counts as agreement.

    Returns:
        (B, 2, 3) image0 → image1, the identity where no two matches propose anything; and (B,) the confidence that
        agrees with it, summed.
    """
    points0, points1, weight = points0.detach(), points1.detach(), weight.detach()
    weight, order = weight.topk(min(VOTERS, weight.shape[1]), dim=1)
    points0, points1 = (points.gather(1, order[..., None].expand(-1, -1, 2)) for points in (points0, points1))
    first, second = torch.triu_indices(seeds, seeds, 1, device=weight.device).clamp_max(weight.shape[1] - 1)
    run = points0[:, second] - points0[:, first]  # (B, P, 2)
    other = points1[:, second] - points1[:, first]
    length = run.norm(dim=-1)
    usable = torch.minimum(length, other.norm(dim=-1)) > 2 * CELL  # in both images, or exchanging them would matter
    usable &= (weight[:, first] > 0) & (weight[:, second] > 0)
    # A similarity is a product and a sum of complex numbers; a pair of reals for each, since few runtimes have those.
    conjugate = torch.stack([run[..., 0], -run[..., 1]], -1)
    turn = multiply(other, conjugate) / length.square().clamp_min(1e-6)[..., None]
    scale = turn.norm(dim=-1)
    usable &= (scale > 0.2) & (scale < 5)
    turn = torch.where(usable[..., None], turn, vector(turn, 1.0, 0.0))
    move = (points1[:, second] + points1[:, first] - multiply(turn, points0[:, second] + points0[:, first])) / 2
    a, t = turn[..., None, :], move[..., None, :]  # (B, P, 1, 2)
    (x, y), (u, v) = (points[:, None].unbind(-1) for points in (points0, points1))  # (B, 1, N)
    error = (a[..., 0] * x - a[..., 1] * y + (t[..., 0] - u)).square()
    error += (a[..., 1] * x + a[..., 0] * y + (t[..., 1] - v)).square()
    agreed = error.mul_(-0.5 / (sigma**2 * turn.norm(dim=-1)[..., None])).exp_()  # (B, P, N)
    score = (agreed @ weight[..., None])[..., 0] * usable  # (B, P)
    best = score.argmax(1, keepdim=True)
    agreement = score.gather(1, best)[:, 0]
    a, t = (value.gather(1, best[..., None].expand(-1, -1, 2))[:, 0] for value in (turn, move))  # (B, 2)
    matrix = torch.stack([a[:, 0], -a[:, 1], t[:, 0], a[:, 1], a[:, 0], t[:, 1]], -1).view(-1, 2, 3)
    return torch.where(agreement[:, None, None] > 0, matrix, torch.eye(2, 3, device=matrix.device)), agreement


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Multiply complex numbers, (…, 2) real and imaginary part."""
    real = a[..., 0] * b[..., 0] - a[..., 1] * b[..., 1]
    return torch.stack([real, a[..., 0] * b[..., 1] + a[..., 1] * b[..., 0]], -1)


def determinant(linear: Tensor) -> Tensor:
    """Determinants of (B, 2, 2)."""
    return linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]


def inverted(matrix: Tensor) -> Tensor:
    """Invert affine matrices (B, 2, 3)."""
    (a, b), (c, d) = (row.unbind(1) for row in matrix[:, :, :2].unbind(1))
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], 1)
    linear = adjugate / determinant(matrix[:, :, :2])[:, None, None]
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], 2)


def fit_field(
    points0: Tensor, points1: Tensor, weight: Tensor, start: Tensor, size: tuple[int, int], spacing: int = 16,
    reach: float = 40.0, ridge: float = 2.0,
) -> Field:  # fmt: skip
    """Fit a smooth field of local affine maps to matches, some of which are wrong.

    From the start, an affine map by iteratively reweighted least squares (Welsch's weights, narrowing); then at each
    node a local affine map by least squares under a Gaussian kernel, pulled towards the global one: parallax is
    followed where matches support it, and elsewhere nothing is invented. Differentiable in the points and weights
    through the last affine fit and the local ones.

    Args:
        points0: (B, N, 2) px in the image whose pixels are mapped.
        points1: (B, N, 2) px in the other image.
        weight: (B, N) confidence, 0 where padded.
        start: (B, 2, 3) to begin from, see :func:`propose_similarity`.
        size: (H, W) of the image whose pixels are mapped.
        spacing: px between nodes.
        reach: px, sigma of the kernel.
        ridge: matches' worth of pull towards the global affine map.

    Returns:
        the field; the start with no trust where there are no matches.
    """
    B, side = len(points0), max(size) / 2
    middle = vector(points0, size[1] - 1, size[0] - 1) / 2
    design = torch.cat([(points0 - middle) / side, torch.ones_like(points0[..., :1])], -1)  # (B, N, 3)
    to_middle = -(size[1] - 1) / 2 / side, -(size[0] - 1) / 2 / side
    unit = vector(points0, 1 / side, 0, 0, 0, 1 / side, 0, *to_middle, 1).view(3, 3)
    matrix = start
    for sigma in (8.0, 6.0, 5.0, 4.0, 4.0):
        matrix = matrix.detach()
        left = points1 - transform_affine(matrix, points0)  # (B, N, 2)
        scale = determinant(matrix[:, :, :2]).abs().clamp_min(0.04).sqrt()[:, None]
        inlier = weight * (-left.detach().square().sum(-1) / (2 * sigma**2 * scale)).exp()
        update = ridge_solve(design, left, inlier, 0.1 * torch.ones_like(design[0, 0]))  # (B, 3, 2)
        matrix = matrix + (unit @ update).transpose(1, 2)

    rows, columns = (-(-length // spacing) for length in size)
    across, down = (_moments(points0[..., axis], count, spacing, reach) for axis, count in enumerate((columns, rows)))
    left = points1 - transform_affine(matrix, points0)
    field = Field(matrix, left.new_zeros(B, 2, rows, columns), left.new_zeros(B, 1, rows, columns), spacing)
    for sigma in (10.0, 6.0):  # what one plane takes for wrong may be right where it stands
        astray = (points1 - field(points0)).detach().square().sum(-1)
        near = weight * (-astray / (2 * sigma**2 * scale)).exp()  # (B, N)
        residual, trust = _local_fits(across, down, left, near, ridge)
        field = field._replace(residual=residual, trust=trust)
    return field


def _moments(place: Tensor, count: int, spacing: int, reach: float) -> Tensor:
    """(B, N) coordinates → (B, 3, count, N): d⁰, d¹, d² of their distances d to nodes, under the kernel of one axis."""
    nodes = torch.arange(count, device=place.device, dtype=place.dtype) * spacing + (spacing - 1) / 2
    away = (place[:, None] - nodes[:, None]) / reach
    kernel = (-away.square() / 2).exp()
    return torch.stack([kernel, kernel * away, kernel * away.square()], 1)


def _local_fits(across: Tensor, down: Tensor, left: Tensor, weight: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Fit an affine map to the matches around every node, by least squares with a ridge.

    The Gaussian kernel is a product over both axes, so that all sums over matches are products of two small matrices.

    Args:
        across: (B, 3, C, N), see :func:`_moments`, of x.
        down: (B, 3, R, N), of y.
        left: (B, N, 2) px, what is fitted.
        weight: (B, N).
        ridge: matches' worth of pull towards 0.

    Returns:
        (B, 2, R, C) px, the fits at their nodes; (B, 1, R, C) the weight that they rest on.
    """
    B, _, columns, _ = across.shape
    worth = torch.cat([torch.ones_like(left[..., :1]), left], -1) * weight[..., None]  # (B, N, 3): 1, u, v
    heavy = down[:, None] * worth.transpose(1, 2)[:, :, None, None]  # (B, 3, 3, R, N): worth, power of dy
    sums = heavy.flatten(1, 3) @ across.flatten(1, 2).transpose(1, 2)  # (B, 3·3·R, 3·C)
    sums = sums.view(B, 3, 3, down.shape[2], 3, columns).permute(0, 3, 5, 1, 2, 4)  # (B, R, C, worth, dy, dx)
    s = sums[..., 0, :, :]
    rows = [(s[..., 0, 2], s[..., 1, 1], s[..., 0, 1]), (s[..., 1, 1], s[..., 2, 0], s[..., 1, 0]),
            (s[..., 0, 1], s[..., 1, 0], s[..., 0, 0])]  # fmt: skip
    normal = torch.stack([torch.stack(row, -1) for row in rows], -2)
    right = torch.stack([sums[..., 1:, 0, 1], sums[..., 1:, 1, 0], sums[..., 1:, 0, 0]], -2)  # (B, R, C, 3, 2)
    eye = torch.eye(3, device=normal.device, dtype=normal.dtype)
    fit = solve(normal + ridge * eye, right)[..., 2, :]
    return fit.permute(0, 3, 1, 2), s[..., 0, 0][:, None]


def ridge_solve(design: Tensor, target: Tensor, weight: Tensor, ridge: Tensor) -> Tensor:
    """Weighted least squares with a ridge: (…, N, 3), (…, N, 2), (…, N), (3,) → (…, 3, 2)."""
    weighted = (design * weight[..., None]).transpose(-1, -2)  # (…, 3, N)
    return solve(weighted @ design + ridge.diag(), weighted @ target)


def solve(normal: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric systems of three by cofactors: (…, 3, 3), (…, 3, K) → (…, 3, K).

    A batched factorisation of so small matrices takes longer, and few runtimes have one. In float64, for cofactors of
    matches that lie close together cancel.
    """
    given, wide = right.dtype, right.dtype if right.device.type == "mps" else torch.float64  # which that device lacks
    normal, right = normal.to(wide), right.to(wide)
    a, b, c = normal.unbind(-2)
    cofactors = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    return (cofactors @ right / (a * cofactors[..., 0, :]).sum(-1)[..., None, None]).to(given)


def resample(image: Tensor, mask: Tensor | None, field: Field, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sample an image into the frame of the other through a field.

    Where the image is finer than the frame, four samples a pixel are averaged, so that speckle does not alias.

    Args:
        image: (B, 1, H1, W1).
        mask: (B, 1, H1, W1), 1 = valid, or None.
        field: frame → image.
        size: (H, W) of the frame.

    Returns:
        the image (B, 1, H, W), 0 where it shows nothing, and its mask likewise.
    """
    y, x = torch.meshgrid(*(torch.arange(length, device=image.device, dtype=torch.float32) for length in size),
                          indexing="ij")  # fmt: skip
    pixels = torch.stack([x.flatten(), y.flatten()], -1).expand(len(image), -1, -1)
    extent = vector(pixels, image.shape[3], image.shape[2])
    grid = 2 * (field(pixels) + 0.5) / extent - 1  # (B, H·W, 2)
    valid = torch.ones_like(image) if mask is None else mask.to(image.dtype)
    source = torch.cat([image * valid, valid], 1).float()
    spread = 0.25 * (2 * (field.scale() - 1)).clamp(0, 1)  # px of the frame; 0 from equal scales on
    several = torch.compiler.is_exporting() or bool(spread.any())  # an exported graph cannot choose
    x, y = field.matrix[:, :, :2].unbind(2)  # (B, 2): where one pixel of the frame leads, across and down
    corners = [-x - y, x - y, y - x, x + y] if several else [torch.zeros_like(x)]
    samples = [
        F.grid_sample(source, (grid + (2 * spread[:, None] * corner / extent)[:, None]).view(-1, *size, 2),
                      mode="bilinear", padding_mode="zeros", align_corners=False)
        for corner in corners
    ]  # fmt: skip
    warped = torch.stack(samples).mean(0)
    inside = (warped[:, 1:] > 0.999).to(image.dtype)
    return warped[:, :1].to(image.dtype) * inside, inside
