"""Any matcher of vismatch (github.com/gmberton/vismatch), asked for as ``vismatch:<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version

import numpy as np
import torch

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import MatcherUnavailable, Store, downloads, need

FEATURES = 2048
INSTALL = "pip install -c constraints.txt vismatch, in an environment of its own: it needs kornia < 0.8.3"

# Those whose pixel centres count from 0.5, as read in vismatch 1.4.0: what descends from LoFTR and its labels, and
# what turns [-1, 1] into pixels by size / 2 * (x + 1).
_LOFTR = "loftr eloftr se2loftr xoftr aspanformer matchformer topicfm topicfm-plus edm minima-loftr minima-xoftr"
_ROMA = "roma romav2 tiny-roma minima-roma minima-roma-tiny gim-dkm matchanything-roma matchanything-eloftr"
_DEDODE = "dedode dedode-kornia dedode-lightglue steerers affine-steerers"
HALF_PIXEL = frozenset(" ".join((_LOFTR, _ROMA, _DEDODE)).split())


class Vismatch:
    """One of vismatch's matchers with its defaults and at most 2048 points where it has a budget, seeded.

    Its weights come from its own caches, those of the Hugging Face hub and of torch.hub, or from the network where
    downloads are opted for. Half a pixel is taken off where the matcher counts from there.

    Args:
        store: says whether it may download.
        variant: the matcher's name, of ``vismatch.available_models``.
    """

    def __init__(self, store: Store, variant: str) -> None:
        try:
            from vismatch import available_models, get_matcher
        except ImportError as error:
            raise need("vismatch", INSTALL) from error
        _check(variant, available_models)
        store.refuse_untrained()
        try:
            with downloads(store.download):
                self._matcher = get_matcher(variant, device="cpu", max_num_keypoints=FEATURES)
        except MatcherUnavailable:
            raise
        except Exception as error:  # of 75 matchers, each fails in its own way
            raise MatcherUnavailable(
                f"vismatch cannot build it ({type(error).__name__}: {(str(error) or '-').splitlines()[0]})"
            ) from error
        self._matcher.eval()
        # Its own RANSAC is not asked for: all are judged by the shared estimator.
        self._matcher.skip_ransac = True
        self._offset = 0.5 if variant in HALF_PIXEL else 0.0
        self.name = f"{variant} (vismatch)"
        self.parameters = count(self._matcher)
        self.settings = f"vismatch {version('vismatch')}, {variant}, {FEATURES} features, offset {self._offset}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is the matcher's own, 1 for all where it has none."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = self._matcher(*(to_tensor(image, 3)[0] for image in (image0, image1)))
        points = [np.asarray(found[f"matched_kpts{k}"], np.float32).reshape(-1, 2) - self._offset for k in (0, 1)]
        confidence = found.get("matched_confidences")
        if confidence is None:
            confidence = np.ones(len(points[0]))
        found = Matches(points[0], points[1], np.asarray(confidence, np.float32).reshape(-1))
        return found.on_images(image0, image1)


def check(variant: str) -> None:
    """Raise ValueError where vismatch is installed and has no such matcher."""
    try:
        from vismatch import available_models
    except ImportError:
        return  # building it says how to install it
    _check(variant, available_models)


def _check(variant: str, available: Sequence[str]) -> None:
    if variant not in available:
        close = get_close_matches(variant, available, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"vismatch has no matcher {variant!r}: choose from {', '.join(available)}{meant}")


def create(store: Store, variant: str) -> Vismatch:
    """Build it."""
    return Vismatch(store, variant)
