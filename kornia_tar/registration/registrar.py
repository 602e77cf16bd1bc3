"""Registrar: two images in, one trustworthy transform out, or an honest "not registered".

1. Search (``search/pose.py``): both images reduced to a few hundred pixels, image1 tried at four rotations and, where
   that is not enough, at other scales and at the diagonals. The pose on which the cells agree most goes on. What comes
   of it may be refused because one image shows a small part of the other: its place is searched then
   (``search/chip.py``), and only what both show goes on (``search/common_ground.py``).
2. Alignment: image1 warped into image0's frame by what is known so far; then all cells of both images vote for the
   small transform that remains (``alignment/fit.py``); at doubling sizes up to the full one, tile by tile, which
   bounds the network's memory (``alignment/tiled.py``), and small images magnified at last.
   For relief (``local.py``) they vote for a smooth field on top of it; where the model is left to them, cells that are
   held out choose it.
3. Acceptance (``acceptance.py``): what fails a check is reported as not registered, with the reason. What is in doubt
   is asked again with both images turned (``second_opinion.py``).

The paper publishes no registration procedure; this one is ours.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kornia_tar.conventions import CELL
from kornia_tar.geometry import (
    FloatArray,
    PointMatches,
    TransformModel,
    corner_error,
    image_corners,
    invert,
    transform_points,
)
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.raster.graphics import without_shared_graphics
from kornia_tar.raster.view import Mask, MaskedImage, scale_at, stretch_at
from kornia_tar.registration.acceptance import (
    RIGHT,
    Check,
    Witnesses,
    failed,
    probability_of_place,
    probability_right,
    unlike,
)
from kornia_tar.registration.alignment.batches import EncodingBatches, stoppable
from kornia_tar.registration.alignment.evidence import tie_points
from kornia_tar.registration.alignment.journal import Journal
from kornia_tar.registration.alignment.known import KnownFrames
from kornia_tar.registration.alignment.smooth import block_count
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.config import RegistrarConfig
from kornia_tar.registration.local import Refined, Relief
from kornia_tar.registration.plane import PlaneAlignment
from kornia_tar.registration.result import Registration, estimated_error
from kornia_tar.registration.search.chip import find_chip
from kornia_tar.registration.search.common_ground import CommonGround
from kornia_tar.registration.search.pose import PoseCandidate, find_pose
from kornia_tar.registration.second_opinion import ask_again, in_doubt
from kornia_tar.registration.testimony import hear

FINER = 1.25  # image1's pixels for one of image0's, from which image1's frame is the one to align in


WITHIN = 3.0  # px, of a tie point's confidence


NO_POSE = (
    "no rotation and scale of the search gave a transform that enough matches and cells support; check that the images "
    "overlap, or resample one if their ground sampling distances differ by more than 3"
)


class Registrar:
    """Register image1 onto image0.

    Args:
        matcher: whose device and dtype are used.
        config: how, and what to trust.
        journal: keeps what the tiles of large images said, so that a run that was interrupted goes on where it was, and
            is told the progress; None for neither.
        known: images that were encoded before, which are not encoded again; by default those of this registrar.

    Example:
        >>> registrar = Registrar(TARMatcher(pretrained=None))
        >>> rng = np.random.default_rng(0)
        >>> outcome = registrar(rng.random((64, 64)).astype("float32"), rng.random((64, 64)).astype("float32"))
        >>> outcome.registered
        False
    """

    def __init__(
        self,
        matcher: TARMatcher,
        config: RegistrarConfig = RegistrarConfig(),
        journal: Journal | None = None,
        known: KnownFrames | None = None,
    ) -> None:
        self.matcher = matcher
        self.config = config
        self.journal = journal
        self._known = KnownFrames() if known is None else known

    def with_journal(self, journal: Journal) -> Registrar:
        """Return the same registrar, which keeps what the tiles of large images said in this journal."""
        return Registrar(self.matcher, self.config, journal, self._known)

    def with_config(self, config: RegistrarConfig) -> Registrar:
        """Return a registrar that works by another config, and knows the same images."""
        return Registrar(self.matcher, config, self.journal, self._known)

    def in_batches(self) -> None:
        """Encode in batches, from now on, what threads ask for that call this registrar at once; see :meth:`many`."""
        if self.matcher.net.batches is None:
            self.matcher.net.batches = EncodingBatches()

    def many(self, pairs: Iterable[Mapping[str, Any]], at_once: int = 8) -> Iterator[Registration]:
        """Register pairs side by side, their images encoded in batches: for a GPU, which a single pair does not fill.

        On a CPU it gains nothing; on Apple's GPUs torch does not bear threads.

        Args:
            pairs: of each the arguments of :meth:`__call__` by name; read as the work goes on.
            at_once: how many pairs, each a thread.

        Yields:
            the outcomes in the order of the pairs, those of :meth:`__call__` but for the last digits.

        Raises:
            ValueError: ``at_once`` is less than 1. What :meth:`__call__` raises, where that pair's turn comes.
        """
        if at_once < 1:
            raise ValueError(f"at_once must be at least 1, got {at_once}")
        self.in_batches()
        stop, threads, running = threading.Event(), ThreadPoolExecutor(at_once), deque[Future[Registration]]()

        def register(pair: Mapping[str, Any]) -> Registration:
            with stoppable(stop):
                return self(**pair)

        try:
            for pair in pairs:
                running.append(threads.submit(register, pair))
                if len(running) >= 2 * at_once:  # one that takes long must not keep the others from going on
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)

    @property
    def _encoder(self) -> TileEncoder:
        alignment = self.config.alignment
        return TileEncoder(self.matcher, alignment.tile, alignment.max_cells, self.journal, self._known)

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
        views = self._views(image0, image1, mask0, mask1, modality0, modality1)
        if isinstance(views, str):
            return self._failed(None, views)
        outcome, rules = self._found(*views), self.config.acceptance
        if not in_doubt(outcome, rules):
            return outcome
        return ask_again(outcome, *views, self._found, rules, self.matcher.calibration.registration)

    @torch.no_grad()
    def judge(
        self,
        image0: NDArray[Any],
        image1: NDArray[Any],
        matrix: ArrayLike,
        mask0: Mask = None,
        mask1: Mask = None,
        modality0: str | None = "optical",
        modality1: str | None = "sar",
    ) -> Registration:
        """Say whether a transform that was found elsewhere can be trusted, by the decision of :meth:`__call__`.

        No pose is searched: the images are aligned from the transform, and the outcome is judged as any other. It is
        refused, too, where the alignment left the transform by more than ``RIGHT`` px of the coarser image.

        Args:
            image0: as in :meth:`__call__`, and so on.
            image1: likewise.
            matrix: (3, 3), image0 → image1.
            mask0: likewise.
            mask1: likewise.
            modality0: likewise.
            modality1: likewise.

        Returns:
            the alignment's own transform, and its probability.

        Raises:
            TypeError, ValueError: an image, a mask or a matrix that does not fit, named.
        """
        views = self._views(image0, image1, mask0, mask1, modality0, modality1)
        given = np.asarray(matrix, np.float64)
        if given.shape != (3, 3) or not np.isfinite(given).all() or abs(np.linalg.det(given)) < 1e-12:
            raise ValueError(f"matrix must be (3, 3), finite and invertible, got {given.tolist()}")
        if isinstance(views, str):
            return self._failed(None, views)
        size, limits = views[0].size, self.config.acceptance.limits
        start = PoseCandidate(0.0, 0, scale_at(given, size), given)
        if broken := limits.violations(given, size):
            return self._failed(start, "; ".join(broken))
        outcome = self._register(*views, start, settle=False)
        if outcome.transform is None:
            return outcome
        apart = corner_error(outcome.transform.matrix, given, size) / max(1.0, start.scale)
        far = unlike(apart, RIGHT, ".0f")
        reason = f"the cells lead {far} px of the coarser image away from it, at most {RIGHT:g} are allowed"
        return outcome.also(
            Check(
                "apart",
                "px of the coarser image from the given transform to the cells'",
                apart,
                apart <= RIGHT,
                reason,
                most=RIGHT,
            )
        )

    def _found(self, first: MaskedImage, second: MaskedImage) -> Registration:
        """Search, align and decide; where that is refused, again as if one image showed a part of the other."""
        start = find_pose(first, second, self._encoder, self.config)
        hopeless = self._hopeless(start)
        outcome = self._failed(start, hopeless) if start is None or hopeless else self._register(first, second, start)
        if outcome.registered or not self._encoder.looks_twice or self._placed(outcome):
            return outcome
        chip = find_chip(first, second, self._encoder, self.config)
        if chip is None or chip.agreement < self.config.search.chip_agreement:
            return outcome
        ground = CommonGround.of(first, second, chip.matrix)
        inward = chip._replace(matrix=ground.inward(chip.matrix))
        other = ground.outward(self._register(ground.first, ground.second, inward))
        return other if other.probability > outcome.probability else outcome

    def _views(
        self, image0: NDArray[Any], image1: NDArray[Any], mask0: Mask, mask1: Mask,
        modality0: str | None, modality1: str | None,
    ) -> tuple[MaskedImage, MaskedImage] | str:  # fmt: skip
        """Both images as they are looked at; or why nothing can be found in them."""
        first, second = (
            MaskedImage.of(image0, mask0, modality0, "image0"),
            MaskedImage.of(image1, mask1, modality1, "image1"),
        )
        if self.config.mask_graphics:
            first, second = without_shared_graphics(first, second)
        first, second = (self._encoder.with_modality(view, self.config.search.side) for view in (first, second))
        for name, view in (("image0", first), ("image1", second)):
            if view.flat:  # features of nothing but the frame would agree with each other
                return f"{name} is flat: all its valid pixels are alike"
        return first, second

    def _placed(self, outcome: Registration) -> bool:
        """Whether only the corners are in doubt, and not the place: no other one is worth a search."""
        failing = {check.name for check in outcome.checks if not check.passed}
        place = probability_of_place(outcome.witnesses, self.matcher.calibration.registration)
        doubted = {"probability", "estimated_error"}
        return bool(failing) and failing <= doubted and place >= self.config.acceptance.min_probability

    def _hopeless(self, start: PoseCandidate | None) -> str:
        """Say why nothing is worth aligning from a pose; nothing where it is.

        The alignment's decision would be the same, at three times the search's time.
        """
        if start is None:
            return NO_POSE
        least = self.config.search.hopeless_agreement
        if not self._encoder.looks_twice or start.agreement >= least:
            return ""
        sure = unlike(start.agreement, least, ".0%")
        alike = "" if self.config.search.told_scale else ", at ground sampling distances that differ by 3 times at most"
        return (
            f"they have nothing in common that is found: of the best place cells are sure by {sure}, at "
            f"least {least:.0%} are required; check that the images show the same ground{alike}"
        )

    def _register(
        self, first: MaskedImage, second: MaskedImage, start: PoseCandidate, settle: bool = True
    ) -> Registration:
        """Align from a pose, and decide."""
        corners = image_corners(first.size)
        swapped = scale_at(start.matrix, first.size) > FINER
        if swapped:  # in the finer image's frame the same ground has more cells
            there = transform_points(start.matrix, corners)
            refined, unit = self._refined(second, first, invert(start.matrix), there, settle), 1.0
        else:
            refined = self._refined(first, second, start.matrix, corners, settle)
            unit = scale_at(start.matrix, first.size)
        if refined is None:
            least = math.ceil(min(self.config.alignment.min_cells, first.image.size / CELL**2 / 2))
            reason = f"fewer than {least} cells of 8×8 px are seen in both images; crop to the common area"
            return self._failed(start, reason)
        found, transform, own = refined.found, refined.transform, second if swapped else first
        testimony = hear(own, first if swapped else second, transform, self._encoder, self.config.alignment.tile)
        matches = self._tie_points(refined, own)
        if swapped:
            transform, matches = transform.inverse(first.size), matches.swapped()
        matrix, matches = transform.matrix, matches.inside(first.size, second.size)
        residuals = np.linalg.norm(transform(matches.points0) - matches.points1, axis=1)
        scale, rules = max(1.0, scale_at(matrix, first.size)), self.config.acceptance
        inliers = (residuals < rules.inlier_threshold * scale) & (matches.confidence >= rules.inlier_confidence)
        rmse = float(np.sqrt(np.mean(residuals[inliers] ** 2))) if inliers.any() else math.inf
        std, disagreement = found.std * unit, found.disagreement * unit
        error = estimated_error(std, disagreement) / scale
        witnesses = Witnesses(
            found.log_likelihood_gain, found.cells, error, *testimony,
            stretch=stretch_at(matrix, first.size), finer=scale,
        )  # fmt: skip
        probability = probability_right(witnesses, self.matcher.calibration.registration)
        checks = rules.checks(matrix, first.size, probability, witnesses)
        refused = failed(checks)
        fit = self.matcher.calibration.tie_points.of(first.modality, second.modality)
        matches = replace(
            matches, confidence=fit.confidence(matches.confidence), std=fit.std(matches.stated_std * unit)
        )
        return Registration(
            not refused, refused, matrix, refined.model, matches, inliers,
            start.rotation, start.scale, rmse, std, disagreement, probability, witnesses, transform.field,
            refined.check.summed_up(transform, first.size, swapped, block_count(first.size)), checks,
        )  # fmt: skip

    def _refined(
        self, first: MaskedImage, second: MaskedImage, matrix: FloatArray, check_points: FloatArray, settle: bool
    ) -> Refined | None:
        """Align in ``first``'s frame and pixels, up to its full size and beyond; None without ground in common."""
        model = self.config.model
        plane = PlaneAlignment(first, second, self._encoder, self.config.alignment)
        family: TransformModel = "affine" if model == "spline" or model == "auto" else model
        matrix = plane.settled(matrix, family) if settle else matrix
        if model != "spline" and model != "auto":
            return plane.refine(matrix, model, check_points)
        relief = Relief(first, second, self._encoder, self.config.search.side, self.config.alignment.min_cells)
        by_plane = partial(plane.refine, check_points=check_points)
        return relief.refine(matrix, plane.magnification(), by_plane, auto=model == "auto")

    def _failed(self, start: PoseCandidate | None, reason: str) -> Registration:
        rotation, scale = (0, 1.0) if start is None else (start.rotation, start.scale)
        inf, nothing, model = math.inf, PointMatches.empty(), self.config.model
        if start is not None:  # what the search fits
            model = "similarity" if model == "similarity" else "affine"
        return Registration(
            False, (reason,), start and start.matrix, model, nothing, np.zeros(0, bool), rotation, scale,
            inf, inf, inf, 0.0, Witnesses.none(),
        )  # fmt: skip

    def _tie_points(self, refined: Refined, first: MaskedImage) -> PointMatches:
        """One tie point of each cell of both images, near the transform that was found in ``first``'s frame."""
        (in1, in0), before = refined.pair, refined.before
        rest = refined.transform.then_back(before, first.size)
        places1, std1, confidence1 = tie_points(in1, rest, self.config.alignment.relief, WITHIN)
        places0, std0, confidence0 = tie_points(in0, rest.inverse(first.size), self.config.alignment.relief, WITHIN)
        return PointMatches(
            torch.cat([in1.points, places0]).double().numpy(),
            before(torch.cat([places1, in0.points]).double().numpy()),
            torch.cat([confidence1, confidence0]).double().numpy(),
            torch.cat([std1, std0]).double().numpy(),
        )
