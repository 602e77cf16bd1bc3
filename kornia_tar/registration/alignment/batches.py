"""Encode the images of pairs that are registered side by side in batches, one thread a pair.

A pair asks for one image after the other, which leaves a GPU idle. Of several pairs, some always wait: while one batch
is computed, others ask, and what they ask for is the next batch. Nothing waits for a batch to become full.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from kornia_tar.network.frames import ImageFeatures
from kornia_tar.network.net import Encode

MOST_PIXELS = 2**22  # of a batch, that its memory has a bound whatever the images

Kind = tuple[tuple[int, ...], bool, bool, torch.dtype, torch.device]


class Stopped(BaseException):
    """Ends the work of a thread that is to stop; no fault of a pair, which ``except Exception`` would take."""


_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Let what this thread encodes in here end by :class:`Stopped` once ``stop`` is set."""
    before = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(before)


def check_stop() -> None:
    """Raise :class:`Stopped` where this thread is to stop."""
    stop = _STOP.get()
    if stop is not None and stop.is_set():
        raise Stopped


class _Asked:
    """One image that a thread waits for, and then its features, or what went wrong."""

    def __init__(self, image: Tensor, modality: Tensor, mask: Tensor | None) -> None:
        self.image, self.modality, self.mask = image, modality, mask
        self.features: ImageFeatures | None = None
        self.error: BaseException | None = None

    @property
    def answered(self) -> bool:
        return self.features is not None or self.error is not None


class EncodingBatches:
    """Stands before a network's ``encode``, and joins what threads ask for at once.

    Images of one size go together. Features differ from those of an image alone in the last digits. A copy of a network
    has none: it encodes for itself.

    Attributes:
        sizes: how many batches of how many images there were.
    """

    def __init__(self) -> None:
        self._waiting: dict[Kind, deque[_Asked]] = defaultdict(deque)
        self._order = threading.Lock()  # of the queues
        self._network = threading.Lock()  # one batch at a time
        self.sizes: Counter[int] = Counter()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

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
            Stopped: see :func:`stoppable`. What ``encode`` raises of this image alone.
        """
        check_stop()
        asked = _Asked(image, modality, mask)
        kind = tuple(image.shape[2:]), mask is None, words, image.dtype, image.device
        with self._order:
            self._waiting[kind].append(asked)
        with self._network:
            while not asked.answered:
                self._answer(encode, kind, words)
        features, error = asked.features, asked.error
        del asked  # or the error would keep its own traceback alive, and all tensors of it
        if features is None:
            assert error is not None
            try:
                raise error
            finally:
                del error
        check_stop()
        return features

    def _answer(self, encode: Encode, kind: Kind, words: bool) -> None:
        """Encode those that have waited longest for images of a kind, as many as the bound allows."""
        (height, width), *_ = kind
        most = max(1, MOST_PIXELS // (height * width))
        with self._order:
            queue = self._waiting[kind]
            batch = [queue.popleft() for _ in range(min(most, len(queue)))]
        if _answered(encode, batch, words):
            self.sizes[len(batch)] += 1
            return
        for one in batch:  # each that can be encoded alone, is: memory may not do for all
            _answered(encode, [one], words)
            self.sizes[1] += 1


def _answered(encode: Encode, batch: list[_Asked], words: bool) -> bool:
    """Answer a batch, a single image by its error, too. Returns whether all are answered."""
    rows = _rows(encode, batch, words)
    if isinstance(rows, BaseException):
        if len(batch) > 1:
            return False
        batch[0].error = rows
        return True
    for one, row in zip(batch, rows, strict=True):
        one.features = row
    return True


def _rows(encode: Encode, batch: list[_Asked], words: bool) -> list[ImageFeatures] | BaseException:
    """Encode a batch; returns the features of each image, or what went wrong, which then holds no image's answer."""
    masks = [one.mask for one in batch if one.mask is not None]
    images, modality = torch.cat([one.image for one in batch]), torch.cat([one.modality for one in batch])
    del batch
    try:
        features = encode(images, modality, torch.cat(masks) if masks else None, None, words)
        return [features] if len(images) == 1 else [_row(features, k) for k in range(len(images))]
    except BaseException as error:
        return error


def _row(features: ImageFeatures, k: int) -> ImageFeatures:
    """Copy one of a batch: a part of the batch's memory that is kept would keep all of it."""
    row = features.rows(slice(k, k + 1))
    return row._replace(**{name: t.clone() for name, t in row._asdict().items() if t is not None})
