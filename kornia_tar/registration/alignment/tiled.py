"""The network's look at views: an image's features, and what two images' cells say of each other, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kornia_tar.conventions import CELL, MIN_SIDE, MODALITIES
from kornia_tar.geometry import FloatArray, Transform
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.network.net import Frame, ImageFeatures, Matches
from kornia_tar.raster.view import MaskedImage, as_floats, tiles
from kornia_tar.registration.alignment.evidence import DisplacementMaps, join
from kornia_tar.registration.alignment.journal import Journal, TileAnswer, network_name, tile_name
from kornia_tar.registration.alignment.known import KnownFrames

MANY_TILES = 16  # of an image, from which on its tiles' answers go into the journal


class TileEncoder:
    """Encode images with a matcher's network, whole or tile by tile.

    Args:
        matcher: whose network, device and dtype are used.
        tile: longest side of what :meth:`displacement_maps` shows the network at once, px; it bounds the memory.
        max_cells: of both images together, that speak; more are drawn from evenly.
        journal: keeps what tiles said, of images of many; None for nothing.
        known: images that were encoded before; None for none.
    """

    def __init__(
        self, matcher: TARMatcher, tile: int, max_cells: int, journal: Journal | None = None,
        known: KnownFrames | None = None,
    ) -> None:  # fmt: skip
        self._matcher = matcher
        self._tile, self._max_cells = tile, max_cells
        self._journal = journal
        self._known = KnownFrames() if known is None else known
        self._known.trust(matcher.net)

    def with_modality(self, view: MaskedImage, side: int) -> MaskedImage:
        """Return the image with its modality set; infer it, from at most ``side`` px, where it was not given."""
        if view.modality is not None:
            return view
        small, _ = view.reduced(side)
        weights = self._matcher.infer_modality(*self._tensors(small))
        return replace(view, modality=MODALITIES[int(weights[0].argmax())])

    @property
    def looks_twice(self) -> bool:
        """Whether the weights have a second look."""
        return self._matcher.net.second_look is not None

    def frame(self, view: MaskedImage, again: bool = True) -> Frame:
        """Encode a whole image, if it was not encoded before; ``again``: it may be asked for once more, so keep it."""
        known = self._known.get(view) if again else None
        if known is None:
            known = self._matcher.encode(*self._tensors(view), view.modality, words=False)
            if again:
                self._known.keep(view, known)
        return known

    def encode(self, view: MaskedImage, again: bool = True) -> ImageFeatures:
        """Compute the features of a whole image; ``again`` as in :meth:`frame`."""
        return self.frame(view, again).features

    def to_match(self, view: MaskedImage) -> ImageFeatures:
        """Compute the features of a whole image that :meth:`match` is asked about several times."""
        frame = self.frame(view)
        if frame.features.tokens is None:
            frame = frame._replace(features=self.within(frame.features))
            self._known.keep(view, frame)
        return frame.features

    def within(self, features: ImageFeatures) -> ImageFeatures:
        """Do once what :meth:`match` does of one image alone."""
        return self._matcher.net.look_within(features)

    def look_again(self, frame0: Frame, frame1: Frame, matches: Matches) -> Matches:
        """Match two images once more, every cell of both, after a warp by the field of their matches."""
        return self._matcher.net.look_again(frame0, frame1, matches)

    def match(self, features0: ImageFeatures, features1: ImageFeatures) -> Matches:
        """Match two encoded images, one look."""
        return self._matcher.net.match(features0, features1)

    def displacement_maps(
        self,
        first: MaskedImage,
        second: MaskedImage,
        transform: FloatArray | Transform,
        least: int,
    ) -> tuple[DisplacementMaps, DisplacementMaps] | None:
        """Map what each cell says of its place after image1 is warped by ``transform``, in image0's frame.

        Args:
            first: image0.
            second: image1.
            transform: (3, 3), or with a field, image0 → image1, right to within some 8 px of image0.
            least: cells of either image that must show both.

        Returns:
            what image0's cells say, and image1's; None where fewer than ``least`` show both, of small images half of
            all.
        """
        parts: list[TileAnswer] = []
        cuts, generator = _shown_tiles(first, self._tile), torch.Generator().manual_seed(0)
        quota = -(-self._max_cells // (2 * len(cuts)))
        down, across = (_territories([cut[axis] for cut in cuts]) for axis in (0, 1))
        journal = self._journal if len(cuts) >= MANY_TILES else None
        for number, (rows, columns) in enumerate(cuts):
            if journal is not None:
                journal.progress(number, len(cuts))
            tile0, tile1 = first.cut(rows, columns), second.warped(transform, first.size, (rows, columns))
            if not (tile0.mask & tile1.mask).any():
                continue
            corner, territory = (rows.start, columns.start), (across[columns.start], down[rows.start])
            name, answer = "", None
            if journal is not None:
                name = tile_name(self._network, tile0, tile1, corner, territory, quota, number)
                answer = TileAnswer.from_arrays(journal.load(name) or {})
            if answer is not None:
                torch.randperm(answer.own, generator=generator)  # as if it had been asked now
                parts.append(answer)
                continue
            features0 = self.encode(tile0, again=first.image.size <= self._known.pixels)
            pair = DisplacementMaps.between(self._matcher.net, features0, self.encode(tile1, again=False))
            by = torch.tensor([columns.start, rows.start], dtype=torch.float32)
            own = _within(pair[0].points.cpu() + by, *territory)
            some = own[torch.randperm(len(own), generator=generator)[:quota]].sort().values
            parts.append(TileAnswer(len(own), pair[0].rows(some).moved(by), pair[1].rows(some).moved(by)))
            if journal is not None:
                journal.save(name, parts[-1].to_arrays())
        if sum(len(part.in1.points) for part in parts) < min(least, first.image.size / CELL**2 / 2):
            return None
        return join([part.in1 for part in parts]), join([part.in0 for part in parts])

    @cached_property
    def _network(self) -> str:
        return network_name(self._matcher.net)

    def compare(self, features0: ImageFeatures, features1: ImageFeatures) -> tuple[DisplacementMaps, DisplacementMaps]:
        """Map what each cell of two whole images in one frame says of its place, on the CPU."""
        in1, in0 = DisplacementMaps.between(self._matcher.net, features0, features1)
        everything = torch.arange(len(in1.points))
        return in1.rows(everything), in0.rows(everything)

    def confidence(self, features0: ImageFeatures, features1: ImageFeatures) -> Tensor:
        """Ask the second look how sure each cell is that two images in one frame lie on each other within 3 px.

        The look was trained on true pairs and on images of different places, and has seen no transform fitted to its
        own answers: it is a witness of its own.

        Returns:
            (K,) probabilities, of the valid cells of both.
        """
        return self._matcher.net.cell_confidence(features0, features1).float().cpu()

    def _tensors(self, view: MaskedImage) -> tuple[Tensor, Tensor | None]:
        """Image and mask as the matcher takes them."""
        weight = next(self._matcher.parameters())
        image = torch.from_numpy(as_floats(view.image))[None, None].to(weight.device, weight.dtype)
        return image, None if view.mask.all() else torch.from_numpy(view.mask)[None].to(weight.device)


def _shown_tiles(view: MaskedImage, side: int) -> list[tuple[slice, slice]]:
    """Tiles over the part of an image that shows something, so that a wide margin costs nothing."""
    bounds = []
    for axis, length in ((1, view.size[0]), (0, view.size[1])):
        shown = np.flatnonzero(view.mask.any(axis=axis))
        low, high = (int(shown[0]), int(shown[-1]) + 1) if len(shown) else (0, length)
        low = max(0, min(low, length - MIN_SIDE))
        bounds.append((low, max(high, low + MIN_SIDE)))
    (top, bottom), (left, right) = bounds
    return [
        (slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop))
        for rows, columns in tiles((bottom - top, right - left), side)
    ]


def _territories(cuts: Sequence[slice]) -> dict[int, tuple[float, float]]:
    """The part of an axis that each tile speaks for, by its start: overlaps are cut in the middle.

    Cells that are counted twice would make chance look like evidence.
    """
    spans = sorted({(cut.start, cut.stop) for cut in cuts})
    edges = [-math.inf, *((one[1] + next_[0]) / 2 for one, next_ in pairwise(spans)), math.inf]
    return {start: part for (start, _), part in zip(spans, pairwise(edges), strict=True)}


def _within(points: Tensor, x: tuple[float, float], y: tuple[float, float]) -> Tensor:
    """Indices of (K, 2) points in half-open intervals."""
    low, high = torch.tensor([x[0], y[0]]), torch.tensor([x[1], y[1]])
    return ((points >= low) & (points < high)).all(1).nonzero().flatten()
