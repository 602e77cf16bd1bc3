"""Registrar: two images in, one trustworthy transform out, or an honest "not registered".

1. Overview: both images reduced to a few hundred pixels, image1 tried at four rotations, best by inliers.
2. Refinement at full resolution: image1 warped into image0's frame by what is known so far, matched tile by tile,
   composed, fitted again. After the warp corresponding tiles lie on each other, so memory is bounded by the tile.
3. Backward: the same refinement with the images' roles exchanged. It sees other pixels through another resampling, so
   how far the two results disagree is a measurement of the error, not a repetition.
4. Gates. What fails one is reported as not registered, with the reason.

The paper publishes no registration procedure; this one is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.geometry import (
    Fit,
    FloatArray,
    TransformModel,
    compose,
    corner_error,
    decompose,
    fit_transform,
    invert,
    spread,
    transform_points,
    valid_mask,
    warp_image,
)
from kornia_tar.matcher import TARMatcher
from kornia_tar.msfl import MIN_SIDE

Mask = NDArray[np.bool_] | None


@dataclass(frozen=True)
class RegistrarConfig:
    """How to register, and what to trust.

    Lengths are pixels of image1 where nothing else is said.
    """

    model: TransformModel = "affine"
    threshold: float = 3.0  # of an inlier
    rotations: int = 4  # 1: nearly upright pairs; 4: any rotation
    overview: int = 384  # longest side of the first pass
    tile: int = 512  # side of the second pass's tiles, in image0
    refinements: int = 2
    min_inliers: int = 20
    min_inlier_ratio: float = 0.15
    min_spread: float = 0.3  # share of the overlap's cells, of a 4×4 grid over image0, with inliers in it
    max_scale: float = 4.0  # either way
    max_anisotropy: float = 1.6
    max_perspective: float = 0.3  # change of depth over half the image
    max_disagreement: float = 5.0  # of forward and backward, mean over the corners; like threshold, for equal scale

    def __post_init__(self) -> None:
        if self.rotations not in (1, 4):
            raise ValueError(f"rotations must be 1 or 4, got {self.rotations}")
        if min(self.overview, self.tile) < MIN_SIDE:
            raise ValueError(f"overview and tile must be at least {MIN_SIDE} px")


@dataclass(frozen=True)
class Correspondences:
    """N matches in full-resolution pixels of both images."""

    points0: FloatArray  # (N, 2)
    points1: FloatArray  # (N, 2)
    confidence: FloatArray  # (N,)
    std: FloatArray  # (N,) px

    def __len__(self) -> int:
        return len(self.points0)


@dataclass(frozen=True)
class Registration:
    """Outcome of :class:`Registrar`.

    ``matrix`` is the best estimate even where a gate failed; use it only when ``registered``.
    """

    registered: bool
    reasons: tuple[str, ...]  # what failed, in words; empty when registered
    matrix: FloatArray | None  # (3, 3), image0 → image1
    model: TransformModel
    matches: Correspondences
    inliers: NDArray[np.bool_]  # (N,)
    rotation_start: int  # degrees, of the overview's winner
    rmse: float  # px, residuals of the inliers
    corner_std: float  # px, from the fit's covariance: independent errors only
    disagreement: float  # px, forward against backward at the corners

    @property
    def error_estimate(self) -> float:
        """Estimated error at the corners, px: the larger of what the covariance and the backward pass say."""
        return max(self.corner_std, self.disagreement)

    def report(self) -> dict[str, Any]:
        """The outcome as plain values for JSON; lengths in pixels of image1."""
        parts = None if self.matrix is None else decompose(self.matrix)
        return {
            "registered": self.registered,
            "reasons": list(self.reasons),
            "model": self.model,
            "matrix": self.matrix,
            "rotation_degrees": parts and parts.rotation_degrees,
            "scale": parts and parts.scale,
            "matches": len(self.matches),
            "inliers": int(self.inliers.sum()),
            "rmse_px": self.rmse,
            "error_estimate_px": self.error_estimate,
            "corner_std_px": self.corner_std,
            "forward_backward_px": self.disagreement,
            "rotation_start_degrees": self.rotation_start,
        }


class Registrar:
    """Register image1 onto image0.

    Args:
        matcher: whose device and dtype are used.
        config: how, and what to trust.

    Example:
        >>> registrar = Registrar(TARMatcher(pretrained=None))
        >>> rng = np.random.default_rng(0)
        >>> outcome = registrar(rng.random((64, 64)).astype("float32"), rng.random((64, 64)).astype("float32"))
        >>> outcome.registered
        False
    """

    def __init__(self, matcher: TARMatcher, config: RegistrarConfig = RegistrarConfig()) -> None:
        self.matcher = matcher
        self.config = config

    @torch.no_grad()
    def __call__(
        self,
        image0: NDArray[Any],
        image1: NDArray[Any],
        mask0: Mask = None,
        mask1: Mask = None,
        modality0: str | None = "optical",
        modality1: str | None = "sar",
    ) -> Registration:
        """Find the transform.

        Args:
            image0: (H0, W0) or (H0, W0, 3), uint8 or float in [0, 1]; the reference.
            image1: (H1, W1) or (H1, W1, 3), likewise.
            mask0: (H0, W0) bool, True where valid.
            mask1: (H1, W1) bool.
            modality0: "optical", "sar", or None to infer it.
            modality1: likewise.

        Raises:
            TypeError, ValueError: an image or mask that does not fit, named.
        """
        first = _View.of(image0, mask0, modality0, "image0")
        second = _View.of(image1, mask1, modality1, "image1")
        start, matches, fit = self._overview(first, second)
        if fit is None:
            reason = f"no {self.config.model} transform fits the {len(matches)} matches"
            none = np.zeros(len(matches), bool)
            inf = float("inf")
            return Registration(False, (reason,), None, self.config.model, matches, none, start, inf, inf, inf)
        for _ in range(self.config.refinements):
            refined = self._refine(first, second, fit.matrix)
            refit = self._fit(refined, scale_at(fit.matrix, first.size))
            if refit is not None and refit.inliers.sum() >= self.config.min_inliers:
                matches, fit = refined, refit
        back = invert(fit.matrix)
        backward = self._fit(self._refine(second, first, back), scale_at(back, second.size))
        disagreement = (
            float("inf") if backward is None else corner_error(invert(backward.matrix), fit.matrix, first.size)
        )
        overlap = first.mask & valid_mask(second.mask, fit.matrix, first.size)
        reasons = self._gates(fit, matches, disagreement, overlap)
        return Registration(
            not reasons, reasons, fit.matrix, self.config.model, matches, fit.inliers, start, fit.rmse,
            fit.corner_std(first.size), disagreement,
        )  # fmt: skip

    def _fit(self, matches: Correspondences, scale: float) -> Fit | None:
        """Robust fit; the matcher's errors grow with ``scale`` where the second image is the finer one."""
        return fit_transform(
            matches.points0, matches.points1, model=self.config.model,
            threshold=self.config.threshold * max(1.0, scale), weights=1 / np.maximum(matches.std, 0.1) ** 2,
        )  # fmt: skip

    def _match(self, first: list[_View], second: list[_View]) -> list[Correspondences]:
        """Match views pairwise in one batch; all of a side have one size."""
        weight = next(self.matcher.parameters())
        data: dict[str, Any] = {}
        for k, views in enumerate((first, second)):
            data[f"image{k}"] = torch.stack([v.tensor() for v in views]).to(weight.device, weight.dtype)
            data[f"mask{k}"] = torch.stack([torch.from_numpy(v.mask) for v in views]).to(weight.device)
            if data[f"mask{k}"].all():
                del data[f"mask{k}"]
            if views[0].modality is not None:
                data[f"modality{k}"] = views[0].modality
        out = {k: v.cpu().double().numpy() for k, v in self.matcher(data).items() if not k.startswith("lafs")}
        rows = [out["batch_indexes"] == b for b in range(len(first))]
        return [Correspondences(*(out[k][r] for k in ("keypoints0", "keypoints1", "confidence", "std"))) for r in rows]

    def _overview(self, first: _View, second: _View) -> tuple[int, Correspondences, Fit | None]:
        """Best of the rotations on reduced images: its degrees, matches in full pixels, and fit."""
        small0, to_small0 = first.reduced(self.config.overview)
        small1, to_small1 = second.reduced(self.config.overview)
        small1 = small1.squared()
        turns = range(self.config.rotations)
        found = self._match([small0] * len(turns), [small1.turned(k) for k in turns])
        best: tuple[int, Correspondences, Fit | None] | None = None
        for k, m in zip(turns, found, strict=True):
            upright = turn_matrix(k, small1.size[0])  # turned pixels → small1's pixels
            scale = 1 / to_small1[0, 0]
            matches = Correspondences(
                transform_points(invert(to_small0), m.points0),
                transform_points(compose(upright, invert(to_small1)), m.points1),
                m.confidence,
                m.std * scale,
            )
            fit = self._fit(matches, scale)
            if best is None or _support(fit) > _support(best[2]):
                best = (90 * k, matches, fit)
        assert best is not None
        return best

    def _refine(self, first: _View, second: _View, matrix: FloatArray) -> Correspondences:
        """Match image0 with image1 warped onto it, tile by tile; points1 are in image1's own pixels."""
        warped = second.warped(matrix, first.size)
        parts = []
        for rows, columns in tiles(first.size, self.config.tile):
            tile0, tile1 = first.cut(rows, columns), warped.cut(rows, columns)
            if min(tile0.mask.mean(), tile1.mask.mean()) < 0.1:
                continue
            (m,) = self._match([tile0], [tile1])
            corner = np.array([columns.start, rows.start])
            parts.append(Correspondences(m.points0 + corner, m.points1 + corner, m.confidence, m.std))
        joined = [np.concatenate([getattr(p, f) for p in parts]) if parts else np.zeros((0, 2) if f[0] == "p" else 0)
                  for f in ("points0", "points1", "confidence", "std")]  # fmt: skip
        points0, points1, confidence, std = joined
        scale = scale_at(matrix, first.size)
        points1 = transform_points(matrix, points1)
        finite = np.isfinite(points1).all(axis=1)
        return Correspondences(points0[finite], points1[finite], confidence[finite], std[finite] * scale)

    def _gates(
        self, fit: Fit, matches: Correspondences, disagreement: float, overlap: NDArray[np.bool_]
    ) -> tuple[str, ...]:
        c, count, size = self.config, int(fit.inliers.sum()), (overlap.shape[0], overlap.shape[1])
        parts = decompose(fit.matrix, at=(size[1] / 2, size[0] / 2))
        allowed = c.max_disagreement * max(1.0, parts.scale)
        # A chip that shows a corner of the scene cannot cover all of it: only what both images show counts.
        shown = np.argwhere(overlap[:: max(1, size[0] // 64), :: max(1, size[1] // 64)])
        possible = spread(shown[:, ::-1] * (max(1, size[1] // 64), max(1, size[0] // 64)), size)
        covered = spread(matches.points0[fit.inliers], size) / max(possible, 1e-6)
        checks = (
            (count >= c.min_inliers, f"{count} inliers, need {c.min_inliers}"),
            (count >= c.min_inlier_ratio * len(matches),
             f"{count} of {len(matches)} matches are inliers, need {c.min_inlier_ratio:.0%}"),
            (covered >= c.min_spread, f"inliers cover {covered:.0%} of the overlap, need {c.min_spread:.0%}"),
            (1 / c.max_scale <= parts.scale <= c.max_scale, f"scale {parts.scale:.2f} is implausible"),
            (parts.anisotropy <= c.max_anisotropy, f"axes stretched by {parts.anisotropy:.2f} to one are implausible"),
            (not parts.mirrored, "the transform mirrors the image"),
            (parts.perspective * max(size) / 2 <= c.max_perspective, "the perspective is implausible"),
            (disagreement <= allowed,
             f"forward and backward disagree by {disagreement:.1f} px, allowed are {allowed:.1f}"),
        )  # fmt: skip
        return tuple(reason for passed, reason in checks if not passed)


@dataclass(frozen=True)
class _View:
    """An image on its way to the matcher: (H, W) float32 in [0, 1], its validity and modality."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    modality: str | None

    @classmethod
    def of(cls, image: NDArray[Any], mask: Mask, modality: str | None, name: str) -> _View:
        pixels = np.asarray(image)
        if pixels.dtype == np.uint8:
            pixels = pixels.astype(np.float32) / 255
        elif pixels.dtype.kind != "f":
            raise TypeError(f"{name} must be uint8 or float in [0, 1], got {pixels.dtype}")
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            pixels = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2GRAY)
        if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE:
            raise ValueError(
                f"{name} has shape {np.shape(image)}, need (H, W) or (H, W, 3) with sides of {MIN_SIDE} px"
            )
        valid = np.ones(pixels.shape, bool) if mask is None else np.asarray(mask, bool)
        if valid.shape != pixels.shape:
            raise ValueError(f"the mask of {name} has shape {valid.shape}, need {pixels.shape}")
        if not np.isfinite(pixels[valid]).all():
            raise ValueError(f"{name} holds NaN or Inf: mask them")
        return cls(np.where(valid, pixels, 0).astype(np.float32), valid, modality)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def tensor(self) -> torch.Tensor:
        return torch.from_numpy(self.image)[None]

    def reduced(self, side: int) -> tuple[_View, FloatArray]:
        """At most ``side`` pixels long, and the matrix from full to reduced pixels."""
        height, width = self.size
        factor = min(1.0, side / max(height, width))
        target = max(MIN_SIDE, round(width * factor)), max(MIN_SIDE, round(height * factor))
        sx, sy = target[0] / width, target[1] / height
        matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        if factor == 1 and target == (width, height):
            return self, matrix
        image = cv2.resize(self.image, target, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(self.mask.astype(np.float32), target, interpolation=cv2.INTER_AREA) > 0.99
        return _View(image.astype(np.float32), mask, self.modality), matrix

    def squared(self) -> _View:
        """Padded at the right or bottom to a square, so that its rotations have one size."""
        side = max(self.size)
        pad = ((0, side - self.size[0]), (0, side - self.size[1]))
        return _View(np.pad(self.image, pad), np.pad(self.mask, pad), self.modality)

    def turned(self, quarters: int) -> _View:
        """Turned counter-clockwise; see :func:`turn_matrix`."""
        turned = np.ascontiguousarray(np.rot90(self.image, quarters))
        return _View(turned, np.ascontiguousarray(np.rot90(self.mask, quarters)), self.modality)

    def warped(self, matrix: FloatArray, size: tuple[int, int]) -> _View:
        """In the frame that ``matrix`` leads from."""
        image, scale = self.image, scale_at(matrix, size)
        if scale > 1.5:  # bilinear sampling of a much finer image would alias its speckle
            image = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(scale**2 - 1)).astype(np.float32)
        return _View(warp_image(image, matrix, size), valid_mask(self.mask, matrix, size), self.modality)

    def cut(self, rows: slice, columns: slice) -> _View:
        part = np.ascontiguousarray(self.image[rows, columns])
        return _View(part, np.ascontiguousarray(self.mask[rows, columns]), self.modality)


def scale_at(matrix: FloatArray, size: tuple[int, int]) -> float:
    """Pixels of the target per pixel of the source, at the middle of a source of ``size`` (H, W)."""
    return decompose(matrix, at=(size[1] / 2, size[0] / 2)).scale


def turn_matrix(quarters: int, side: int) -> FloatArray:
    """Matrix from the pixels of ``np.rot90(image, quarters)`` to those of a square ``image``."""
    quarter = np.array([[0.0, -1, side - 1], [1, 0, 0], [0, 0, 1]])
    return np.linalg.matrix_power(quarter, quarters)


def tiles(size: tuple[int, int], side: int) -> list[tuple[slice, slice]]:
    """Cut (H, W) into equal overlapping-or-touching tiles of at most ``side``; none is a sliver."""

    def cuts(length: int) -> list[slice]:
        if length <= side:
            return [slice(0, length)]
        starts = np.linspace(0, length - side, -(-length // side)).round().astype(int)
        return [slice(int(s), int(s) + side) for s in starts]

    return [(rows, columns) for rows in cuts(size[0]) for columns in cuts(size[1])]


def _support(fit: Fit | None) -> int:
    return -1 if fit is None else int(fit.inliers.sum())
