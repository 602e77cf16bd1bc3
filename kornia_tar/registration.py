"""Registrar: two images in, one trustworthy transform out, or an honest "not registered".

1. Overview: both images reduced to a few hundred pixels, image1 tried at four rotations and, where that is not enough,
   at other scales and at the diagonals. A robust similarity through the matches of each start gives candidates.
2. Alignment: image1 warped into image0's frame by what is known so far; then all cells of both images vote for the
   small transform that remains (:mod:`kornia_tar.likelihood`). First the candidates at overview size, of which the most
   likely wins; then the winner at doubling sizes up to the full one, tile by tile, which bounds the network's memory.
3. Gates. What fails one is reported as not registered, with the reason.

The paper publishes no registration procedure; this one is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.cfdm import CELL
from kornia_tar.geometry import (
    FloatArray,
    TransformModel,
    compose,
    decompose,
    fit_least_squares,
    fit_transform,
    image_corners,
    invert,
    transform_points,
)
from kornia_tar.likelihood import Alignment, Evidence, align, join, tie_points
from kornia_tar.matcher import TARMatcher
from kornia_tar.msfl import MIN_SIDE, MODALITIES
from kornia_tar.net import Described
from kornia_tar.view import Mask, View, scale_at, tiles

FINER = 1.25  # image1's pixels for one of image0's, from which image1's frame is the one to align in
SHARED = 2.5  # see Registration.error_estimate
KNOWN_PIXELS = 2**22  # of image0, up to which its features are kept from pass to pass


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
    candidates: int = 3  # of one scale's rotations, that are compared at half the overview's size
    sure_gain: float = 0.15  # nats per cell: no further start is tried
    overview: int = 384  # longest side of the first pass
    tile: int = 512  # side of the tiles at full resolution, in image0
    refinements: int = 2
    max_cells: int = 20_000  # that vote, of both images, drawn evenly
    threshold: float = 3.0  # of an inlier
    prior: float = 2.5  # px of the coarser image, how far the ground may depart from the model: steers the tie points
    min_gain: float = 0.1  # nats per cell over knowing nothing
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
        if min(self.overview, self.tile) < MIN_SIDE:
            raise ValueError(f"overview and tile must be at least {MIN_SIDE} px")
        if min(self.candidates, self.refinements, self.min_cells, self.max_cells) < 1:
            raise ValueError("candidates, refinements, min_cells and max_cells must be at least 1")


@dataclass(frozen=True)
class Correspondences:
    """N tie points in full-resolution pixels of both images, one for each cell of either that both show."""

    points0: FloatArray  # (N, 2)
    points1: FloatArray  # (N, 2)
    confidence: FloatArray  # (N,)
    std: FloatArray  # (N,) px

    def __len__(self) -> int:
        return len(self.points0)

    def swapped(self) -> Correspondences:
        """With the images' roles exchanged."""
        return replace(self, points0=self.points1, points1=self.points0)

    def inside(self, size0: tuple[int, int], size1: tuple[int, int]) -> Correspondences:
        """Those whose two ends lie on images of these sizes (H, W)."""
        kept = np.ones(len(self), bool)
        for points, (height, width) in ((self.points0, size0), (self.points1, size1)):
            kept &= ((points >= -0.5) & (points <= (width - 0.5, height - 0.5))).all(axis=1)
        return Correspondences(self.points0[kept], self.points1[kept], self.confidence[kept], self.std[kept])

    @classmethod
    def none(cls) -> Correspondences:
        """No tie points."""
        return cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))


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
    scale_start: float
    gain: float  # nats per cell that the transform gains over knowing nothing
    rmse: float  # px, residuals of the inliers; small by nature, for tie points lean towards the transform
    corner_std: float  # px at the corners, from how much blocks of the image agree
    disagreement: float  # px at the corners, between what either image's cells say alone

    @property
    def error_estimate(self) -> float:
        """Estimated error at the corners, px: the larger of the two, each of which sees what the other does not.

        Neither sees an error that all cells share; ``SHARED`` makes up for it in the mean of the validation pairs.
        """
        return SHARED * max(self.corner_std, self.disagreement)

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
            "gain_nats_per_cell": self.gain,
            "matches": len(self.matches),
            "inliers": int(self.inliers.sum()),
            "rmse_px": self.rmse,
            "error_estimate_px": self.error_estimate,
            "corner_std_px": self.corner_std,
            "disagreement_px": self.disagreement,
            "rotation_start_degrees": self.rotation_start,
            "scale_start": self.scale_start,
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
        first = self._told(View.of(image0, mask0, modality0, "image0"))
        second = self._told(View.of(image1, mask1, modality1, "image1"))
        start = self._overview(first, second)
        if start is None:
            return self._failed(None, "no start has matches that agree, or ground enough in common")
        corners = image_corners(first.size)
        if scale_at(start.matrix, first.size) > FINER:  # in the finer image's frame the same ground has more cells
            there = transform_points(start.matrix, corners)
            refined = self._refined(second, first, invert(start.matrix), there)
            refined = refined and (refined[0], invert(refined[1]), refined[2].swapped())
            unit = 1.0
        else:
            refined = self._refined(first, second, start.matrix, corners)
            unit = scale_at(start.matrix, first.size)
        if refined is None:
            return self._failed(start, "the images show hardly any ground in common")
        found, matrix, matches = refined
        matches = matches.inside(first.size, second.size)
        residuals = np.linalg.norm(transform_points(matrix, matches.points0) - matches.points1, axis=1)
        scale = max(1.0, scale_at(matrix, first.size))
        inliers = (residuals < self.config.threshold * scale) & (matches.confidence >= 0.5)
        rmse = float(np.sqrt(np.mean(residuals[inliers] ** 2))) if inliers.any() else math.inf
        std, disagreement = found.std * unit, found.disagreement * unit
        reasons = self._gates(matrix, found.gain, SHARED * max(std, disagreement), first.size)
        fit = self.matcher.calibration.tie_points.of(first.modality, second.modality)
        matches = replace(matches, confidence=fit.confidence(matches.confidence), std=fit.std(matches.std * unit))
        return Registration(
            not reasons, reasons, matrix, self.config.model, matches, inliers,
            start.rotation, start.scale, found.gain, rmse, std, disagreement,
        )  # fmt: skip

    def _refined(
        self, first: View, second: View, matrix: FloatArray, judge: FloatArray
    ) -> tuple[Alignment, FloatArray, Correspondences] | None:
        """Align in ``first``'s frame and pixels, up to its full size; None where there is no ground in common."""
        model, side = self.config.model, 2 * self.config.overview
        while side < max(first.size):  # the cells see a few pixels: an overview's error must not outgrow them
            small, to_small = first.reduced(side)
            pair = self._evidence(small, second, compose(invert(to_small), matrix), {})
            if pair is None:
                return None
            step = align(*pair, model, small.size).matrix
            matrix = compose(compose(compose(to_small, step), invert(to_small)), matrix)
            side *= 2
        if model == "similarity":  # reduced images have whole sides, so their frames are a little stretched
            corners = image_corners(first.size)
            nearest = fit_least_squares(corners, transform_points(matrix, corners), model)
            matrix = matrix if nearest is None else nearest
        known: dict[tuple[int, int], Described] = {}
        for left in reversed(range(self.config.refinements)):
            pair = self._evidence(first, second, matrix, known)
            if pair is None:
                return None
            found = align(*pair, model, first.size, judge=None if left else judge)
            if not left:
                matches = self._tie_points(pair, found, matrix)
            matrix = compose(found.matrix, matrix)
        return found, matrix, matches

    def _failed(self, start: _Start | None, reason: str) -> Registration:
        rotation, scale = (0, 1.0) if start is None else (start.rotation, start.scale)
        inf, nothing = math.inf, Correspondences.none()
        return Registration(
            False, (reason,), start and start.matrix, self.config.model, nothing, np.zeros(0, bool), rotation, scale,
            -inf, inf, inf, inf,
        )  # fmt: skip

    def _overview(self, first: View, second: View) -> _Start | None:
        """The most likely of all starts, on reduced images; its matrix is in full pixels."""
        small0, to_small0 = first.reduced(self.config.overview)
        small1, to_small1 = second.reduced(self.config.overview)
        model: TransformModel = "similarity" if self.config.model == "similarity" else "affine"
        full: dict[tuple[int, int], Described] = {}
        half: dict[tuple[int, int], Described] = {}
        best: tuple[float, float, _Start] | None = None
        for scale, rotations in self._searches():
            tried = [
                self._nearer(small0, small1, start, half) for start in self._starts(small0, small1, scale, rotations)
            ]
            if not tried:
                continue
            _, start = max(tried, key=lambda one: one[0])
            pair = self._evidence(small0, small1, start.matrix, full)
            if pair is None:
                continue
            found = align(*pair, model, small0.size)
            # A small overlap may fit by chance.
            total = found.gain * found.cells if found.gain > 0 else found.gain
            if best is None or total > best[0]:
                matrix = compose(compose(to_small0, compose(found.matrix, start.matrix)), invert(to_small1))
                best = total, found.gain, start._replace(matrix=matrix)
            if best is not None and best[1] >= self.config.sure_gain:
                break
        return None if best is None else best[2]

    def _nearer(
        self, first: View, second: View, start: _Start, known: dict[tuple[int, int], Described]
    ) -> tuple[float, _Start]:
        """A start aligned at half the size, and what it gains there.

        A cell sees some 8 px around it: at half the size twice as far, as starts may be off.
        """
        half, to_half = first.reduced(max(first.size) // 2)
        pair = self._evidence(half, second, compose(invert(to_half), start.matrix), known, self.config.min_cells // 4)
        if pair is None:
            return -math.inf, start
        found = align(*pair, "similarity", half.size)
        step = compose(compose(to_half, found.matrix), invert(to_half))
        return found.gain, start._replace(matrix=compose(step, start.matrix))

    def _searches(self) -> list[tuple[float, range]]:
        """Scales and rotations (degrees) to start from, the likeliest and cheapest first."""
        quarters = range(0, 360, 90) if self.config.rotations >= 4 else range(1)
        searches = [(scale, quarters) for scale in self.config.scales]
        if self.config.rotations == 8:
            searches += [(scale, range(45, 360, 90)) for scale in self.config.scales]
        return searches

    def _starts(self, first: View, second: View, scale: float, rotations: range) -> list[_Start]:
        """Fits to the matches at each rotation, those with the most inliers first; the finer image is shrunk."""
        side0, side1 = max(first.size) * min(1.0, scale), max(second.size) * min(1.0, 1 / scale)
        if min(*first.size, *second.size) * min(scale, 1 / scale) < MIN_SIDE:
            return []
        shrunk0, to_shrunk0 = first.reduced(round(side0))
        shrunk1, to_shrunk1 = second.reduced(round(side1))
        described0, found = self._describe(shrunk0), []
        for degrees in rotations:
            turned, upright = shrunk1.turned(degrees)
            matches = self.matcher.net.match(described0, self._describe(turned))
            keep = matches.confidence >= self.config.start_confidence
            points0, points1 = (t[keep].cpu().double().numpy() for t in (matches.points0, matches.points1))
            points1 = transform_points(upright, points1)
            fit = fit_transform(points0, points1, model="similarity", threshold=self.config.start_threshold)
            if fit is None or self._implausible(fit.matrix, shrunk0.size):
                continue
            matrix = compose(compose(to_shrunk0, fit.matrix), invert(to_shrunk1))
            found.append(_Start(int(fit.inliers.sum()), degrees, scale, matrix))
        found.sort(key=lambda start: -start.support)
        return found[: self.config.candidates]

    def _told(self, view: View) -> View:
        """With its modality inferred once and for all, where it is not told."""
        if view.modality is not None:
            return view
        small, _ = view.reduced(self.config.overview)
        weights = self.matcher.infer_modality(*self._tensors(small))
        return replace(view, modality=MODALITIES[int(weights[0].argmax())])

    def _tensors(self, view: View) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Image and mask as the matcher takes them."""
        weight = next(self.matcher.parameters())
        image = torch.from_numpy(view.image)[None, None].to(weight.device, weight.dtype)
        return image, None if view.mask.all() else torch.from_numpy(view.mask)[None].to(weight.device)

    def _describe(self, view: View) -> Described:
        return self.matcher.describe(*self._tensors(view), view.modality)

    def _evidence(
        self, first: View, second: View, matrix: FloatArray, known: dict[tuple[int, int], Described],
        least: int | None = None,
    ) -> tuple[Evidence, Evidence] | None:  # fmt: skip
        """What the cells say after image1 is warped by ``matrix``, in image0's frame.

        None where fewer than ``least`` (``min_cells``) show both. ``known`` holds the features of image0's tiles, by
        their corners.
        """
        warped = second.warped(matrix, first.size)
        parts: list[tuple[Evidence, Evidence]] = []
        cuts, generator = tiles(first.size, self.config.tile), torch.Generator().manual_seed(0)
        quota = -(-self.config.max_cells // (2 * len(cuts)))
        for rows, columns in cuts:
            tile0, tile1 = first.cut(rows, columns), warped.cut(rows, columns)
            if not (tile0.mask & tile1.mask).any():
                continue
            corner = rows.start, columns.start
            described0 = known[corner] if corner in known else self._describe(tile0)
            if first.image.size <= KNOWN_PIXELS:
                known[corner] = described0
            pair = self.matcher.net.evidence(described0, self._describe(tile1))
            by = torch.tensor([columns.start, rows.start], dtype=torch.float32)
            some = torch.randperm(len(pair[0].points), generator=generator)[:quota].sort().values
            parts.append((pair[0].rows(some).moved(by), pair[1].rows(some).moved(by)))
        least = self.config.min_cells if least is None else least
        if sum(len(in1.points) for in1, _ in parts) < min(least, first.image.size / CELL**2 / 2):
            return None
        in1, in0 = (join(side) for side in zip(*parts, strict=True))
        return in1, in0

    def _tie_points(self, pair: tuple[Evidence, Evidence], found: Alignment, before: FloatArray) -> Correspondences:
        """One tie point of each cell of both images; ``before`` is the matrix that image1 was warped by."""
        in1, in0 = pair
        places1, std1, confidence1 = tie_points(in1, found.matrix, self.config.prior)
        places0, std0, confidence0 = tie_points(in0, invert(found.matrix), self.config.prior)
        return Correspondences(
            torch.cat([in1.points, places0]).double().numpy(),
            transform_points(before, torch.cat([places1, in0.points]).double().numpy()),
            torch.cat([confidence1, confidence0]).double().numpy(),
            torch.cat([std1, std0]).double().numpy(),
        )

    def _gates(self, matrix: FloatArray, gain: float, error: float, size: tuple[int, int]) -> tuple[str, ...]:
        c = self.config
        allowed = c.max_error * max(1.0, scale_at(matrix, size))
        checks = (
            (gain >= c.min_gain, f"the images agree by {gain:.3f} nats a cell, need {c.min_gain}"),
            (error <= allowed, f"the estimated error is {error:.1f} px, allowed are {allowed:.1f}"),
        )
        return tuple(reason for passed, reason in checks if not passed) + self._implausible(matrix, size)

    def _implausible(self, matrix: FloatArray, size: tuple[int, int]) -> tuple[str, ...]:
        """What no pair of overhead images does to each other."""
        c, parts = self.config, decompose(matrix, at=(size[1] / 2, size[0] / 2))
        checks = (
            (1 / c.max_scale <= parts.scale <= c.max_scale, f"scale {parts.scale:.2f} is implausible"),
            (parts.anisotropy <= c.max_anisotropy, f"axes stretched by {parts.anisotropy:.2f} to one are implausible"),
            (not parts.mirrored, "the transform mirrors the image"),
            (parts.perspective * max(size) / 2 <= c.max_perspective, "the perspective is implausible"),
        )  # fmt: skip
        return tuple(reason for passed, reason in checks if not passed)


class _Start(NamedTuple):
    """Where an alignment begins."""

    support: int  # matches that agree
    rotation: int  # degrees
    scale: float
    matrix: FloatArray  # (3, 3), image0 → image1
