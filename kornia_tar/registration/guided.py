"""GuidedMatcher: TARMatcher's contract, with a registration inside.

Where both images are seen from above and flat enough for one transform, the search over rotations and scales and the
vote of all cells find ground that a single pass does not, and an honest "no match" where there is none. Elsewhere (one
scene from many sides, strong relief) take :class:`kornia_tar.TARMatcher`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kornia_tar.conventions import MODALITIES
from kornia_tar.geometry import PointMatches
from kornia_tar.matching.inputs import BatchImage
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.network.frames import Frame, Matches
from kornia_tar.network.net import TARConfig
from kornia_tar.registration.config import RegistrarConfig
from kornia_tar.registration.registrar import Registrar


class GuidedMatcher(TARMatcher):
    """A drop-in for :class:`kornia_tar.TARMatcher` whose matches are a :class:`kornia_tar.Registrar`'s tie points.

    A pair that the registrar refuses has no matches. Exchanging the images exchanges the matches: the larger image is
    the reference, of two alike the brighter one, whichever place it has. ``std`` is in pixels of the other image. There
    are no gradients.

    Two keys more than TARMatcher's say what the registrar does of each of the B pairs: ``probability`` (B,), that its
    transform is right to 10 px, and ``reasons``, a list of B tuples of words, empty where it accepts the pair.

    Args:
        pretrained: as TARMatcher's.
        config: as TARMatcher's.
        threshold: as TARMatcher's.
        max_keypoints: as TARMatcher's.
        registrar: how the pair is registered.
        ignore: as TARMatcher's.
        prefer: as TARMatcher's.

    Example:
        >>> matcher = GuidedMatcher(pretrained=None)
        >>> out = matcher({"image0": torch.rand(1, 1, 64, 64), "image1": torch.rand(1, 1, 64, 64)})
        >>> len(out["keypoints0"]), len(out["reasons"])
        (0, 1)
    """

    def __init__(
        self,
        pretrained: str | Path | None = "optical-sar",
        config: TARConfig | None = None,
        *,
        threshold: float = 0.1,
        max_keypoints: int | None = None,
        registrar: RegistrarConfig = RegistrarConfig(),
        ignore: Sequence[str] = (),
        prefer: Sequence[str] = (),
    ) -> None:
        super().__init__(
            pretrained, config, threshold=threshold, max_keypoints=max_keypoints, ignore=ignore, prefer=prefer
        )
        self.registrar = registrar

    @torch.no_grad()
    def _match(self, given0: BatchImage | Frame, given1: BatchImage | Frame) -> tuple[Matches, dict[str, Any]]:
        """The tie points of all pairs that register, and of every pair its probability and why it is refused."""
        told = [self._register(_one(given0, b), _one(given1, b)) for b in range(len(given0.image))]
        parts, probabilities, reasons = zip(*told, strict=True)
        batch = torch.cat([torch.full((len(p.confidence),), b) for b, p in enumerate(parts)])
        joined = (torch.cat([getattr(p, field) for p in parts]) for field in Matches._fields[:4])
        *found, probability = (t.to(given0.image.device) for t in (*joined, batch, torch.tensor(probabilities)))
        return Matches(*found), {"probability": probability, "reasons": list(reasons)}

    def _register(self, first: BatchImage, second: BatchImage) -> tuple[Matches, float, tuple[str, ...]]:
        """The tie points of one pair, none where it is refused; its probability, and the reasons of the refusal."""
        if _leads(second.image, first.image):
            found, probability, reasons = self._register(second, first)
            found = found._replace(points0=found.points1, points1=found.points0)
            return found, probability, tuple(_exchanged(reason) for reason in reasons)
        (image0, mask0, name0), (image1, mask1, name1) = _plain(first), _plain(second)
        outcome = Registrar(self, self.registrar)(image0, image1, mask0, mask1, name0, name1)
        m = outcome.matches if outcome.registered else PointMatches.empty()
        columns = (m.points0, m.points1, m.confidence, m.stated_std, np.zeros(len(m)))
        return Matches(*(torch.from_numpy(c).float() for c in columns)), outcome.probability, outcome.reasons


def _one(side: BatchImage | Frame, b: int) -> BatchImage:
    """The ``b``-th pair's, a batch of one."""
    mask, modality = (None if t is None else t[b : b + 1] for t in (side.mask, side.modality))
    return BatchImage(side.image[b : b + 1], mask, modality)


def _exchanged(words: str) -> str:
    """Call each image by the other's name."""
    return re.sub("image([01])", lambda found: f"image{1 - int(found[1])}", words)


def _leads(a: Tensor, b: Tensor) -> bool:
    """Whether image ``a`` must be the reference, whichever place it has."""
    keys = [(t.numel(), tuple(t.shape), float(t.double().mean())) for t in (a.cpu(), b.cpu())]
    if keys[0] != keys[1]:
        return keys[0] > keys[1]
    return a.float().cpu().numpy().tobytes() > b.float().cpu().numpy().tobytes()


def _plain(side: BatchImage) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, str | None]:
    """Image, mask and modality as the registrar takes them."""
    image = side.image[0, 0].float().cpu().numpy()
    mask = None if side.mask is None else side.mask[0, 0].bool().cpu().numpy()
    return image, mask, None if side.modality is None else MODALITIES[int(side.modality[0].argmax())]
