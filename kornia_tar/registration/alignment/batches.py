"""Encode the images of pairs that are registered side by side in batches, one thread a pair.

A pair asks for one image after the other, which leaves a GPU idle. Of several pairs, some always wait: while one batch
is computed, others ask, and what they ask for is the next batch. Nothing waits for a batch to become full.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from concurrent.futures import Future

import torch
from torch import Tensor

from kornia_tar.network.frames import ImageFeatures
from kornia_tar.network.net import Encode

MOST_PIXELS = 2**22  # of a batch, that its memory has a bound whatever the images

Kind = tuple[tuple[int, ...], bool, bool, torch.dtype, torch.device]


class Stopped(BaseException):
    """Ends the work of a thread that waits for features; no fault of a pair, which ``except Exception`` would take."""


class _Asked:
    """One image that a thread waits for."""

    def __init__(self, image: Tensor, modality: Tensor, mask: Tensor | None) -> None:
        self.image, self.modality, self.mask = image, modality, mask
        self.features: Future[ImageFeatures] = Future()


class EncodingBatches:
    """Stands before a network's ``encode``, and joins what threads ask for at once.

    Images of one size go together. Features differ from those of an image alone in the last digits.

    Attributes:
        sizes: how many images each batch held so far.
    """

    def __init__(self) -> None:
        self._waiting: dict[Kind, deque[_Asked]] = defaultdict(deque)
        self._order = threading.Lock()  # of the queues
        self._network = threading.Lock()  # one batch at a time
        self._stopped = False
        self.sizes: list[int] = []

    def stop(self) -> None:
        """Let every thread that asks from now on end by :class:`Stopped`."""
        self._stopped = True

    def __call__(
        self, encode: Encode, image: Tensor, modality: Tensor, mask: Tensor | None, words: bool
    ) -> ImageFeatures:
        """Encode one image, with those of other threads.

        Args:
            encode: the network's own.
            image: (1, 1, H, W).
            modality: (1, 2) weights.
            mask: (1, 1, H, W), 1 = valid, or None.
            words: see :meth:`kornia_tar.network.net.TARNet.encode`.

        Raises:
            Stopped: after :meth:`stop`. What ``encode`` raises, for each image of its batch.
        """
        asked = _Asked(image, modality, mask)
        kind = tuple(image.shape[2:]), mask is None, words, image.dtype, image.device
        with self._order:
            self._waiting[kind].append(asked)
        with self._network:
            if self._stopped:
                raise Stopped
            while not asked.features.done():
                self._answer(encode, kind, words)
        return asked.features.result()

    def _answer(self, encode: Encode, kind: Kind, words: bool) -> None:
        """Encode those that have waited longest for images of a kind, as many as the bound allows."""
        (height, width), *_ = kind
        most = max(1, MOST_PIXELS // (height * width))
        with self._order:
            queue = self._waiting[kind]
            batch = [queue.popleft() for _ in range(min(most, len(queue)))]
        self.sizes.append(len(batch))
        masks = [one.mask for one in batch if one.mask is not None]
        try:
            features = encode(
                torch.cat([one.image for one in batch]), torch.cat([one.modality for one in batch]),
                torch.cat(masks) if masks else None, None, words,
            )  # fmt: skip
        except BaseException as error:
            for one in batch:
                one.features.set_exception(error)
            return
        for k, one in enumerate(batch):
            one.features.set_result(features if len(batch) == 1 else _row(features, k))


def _row(features: ImageFeatures, k: int) -> ImageFeatures:
    """Copy one of a batch: a part of the batch's memory that is kept would keep all of it."""
    row = features.rows(slice(k, k + 1))
    return row._replace(**{name: t.clone() for name, t in row._asdict().items() if t is not None})
