"""Template of a peer: copy it to a name without the underscore, and it is in the benchmark under that name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.peers.base import Image, Matches, count, to_tensor
from eval.peers.store import Store

CELL = 16  # px
THRESHOLD = 0.8  # least cosine similarity of a match

# Where the authors put their weights; see Toy.__init__.
# FILE = "toy/toy.pth"
# URL = "https://github.com/authors/toy/releases/download/v1/toy.pth"


class Toy:
    """A complete matcher that runs without weights: patches of 16 px, one fixed convolution, mutual nearest neighbours.

    Args:
        store: the place to take weights from.
    """

    name = "toy"  # how the tables call it

    def __init__(self, store: Store) -> None:
        torch.manual_seed(0)
        self._net = nn.Conv2d(1, 64, CELL, stride=CELL, bias=False).eval()
        # With trained weights, one line finds them, loads them strictly, and hashes them into ``store.settings``:
        # store.load(self._net, FILE, URL)
        self.parameters = count(self._net)
        # All that the matches depend on beside the images; cached matches are used again only where it is the same.
        self.settings = f"cells of {CELL} px, cosine {THRESHOLD:g}, {store.settings}"

    @torch.inference_mode()
    def match(self, image0: Image, image1: Image, **hints: str) -> Matches:
        """Match; the confidence is the cosine similarity of two cells."""
        (points0, features0), (points1, features1) = (self._describe(image) for image in (image0, image1))
        similarity = features0 @ features1.T  # (N0, N1)
        best, index = similarity.max(dim=1)
        mutual = similarity.argmax(dim=0)[index] == torch.arange(len(index))
        kept = mutual & (best >= THRESHOLD)
        return Matches.of(points0[kept], points1[index[kept]], best[kept])

    def _describe(self, image: Image) -> tuple[Tensor, Tensor]:
        """Return cell centres (N, 2) x, y, pixel centres at integers, and unit descriptors (N, 64)."""
        features = self._net(to_tensor(image, channels=1) - 0.5)[0]  # (64, rows, columns)
        rows, columns = features.shape[1:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        points = torch.stack([x, y], dim=-1).reshape(-1, 2) * CELL + (CELL - 1) / 2
        return points, F.normalize(features.flatten(1).T, dim=1)


def create(store: Store) -> Toy:
    """Build it; where it cannot run here, raise ``MatcherUnavailable`` with the reason, as ``store.load`` does."""
    return Toy(store)
