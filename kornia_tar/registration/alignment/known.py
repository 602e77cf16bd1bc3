"""Features of the images that were looked at last, so that a search does not encode an image again and again.

A search sees each image at several sizes and turns, an alignment and the testimony see image0 once more, and one base
image may be registered with many others: what is known of a picture is found by what it shows.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from torch import nn

from kornia_tar.network.frames import Frame, Steering
from kornia_tar.raster.view import MaskedImage

KNOWN_PIXELS = 2**22  # of all images together, some 200 MB of features


class KnownFrames:
    """Encoded images by what they show; those that were not asked for longest are forgotten first.

    Threads may share it.

    Args:
        pixels: of all images that are kept; a larger one is not. None for ``KNOWN_PIXELS``.
    """

    def __init__(self, pixels: int | None = None) -> None:
        self.pixels = KNOWN_PIXELS if pixels is None else pixels
        self._lock = Lock()
        self._frames: OrderedDict[bytes, Frame] = OrderedDict()
        self._held = 0
        self._network: tuple[tuple[tuple[int, int], ...], Steering | None] | None = None

    def __reduce__(self) -> tuple[type[KnownFrames], tuple[int]]:
        return KnownFrames, (self.pixels,)  # a copy, as in another process, begins anew

    def trust(self, net: nn.Module) -> None:
        """Forget everything where the network, or what steers it, is not as it was when this was last asked."""
        state = tuple(
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in (*net.parameters(), *net.buffers())
        )
        steering = getattr(net, "steering", None)
        with self._lock:
            if self._network is None or self._network[0] != state or self._network[1] is not steering:
                self._frames.clear()
                self._held, self._network = 0, (state, steering)

    def get(self, view: MaskedImage) -> Frame | None:
        """Return what is known of an image, or None."""
        with self._lock:
            frame = self._frames.get(view.digest)
            if frame is not None:
                self._frames.move_to_end(view.digest)
            return frame

    def keep(self, view: MaskedImage, frame: Frame) -> None:
        """Keep what the network made of an image, in place of what was known of it."""
        if view.image.size > self.pixels:
            return
        with self._lock:
            if view.digest not in self._frames:
                self._held += view.image.size
            self._frames[view.digest] = frame
            self._frames.move_to_end(view.digest)
            while self._held > self.pixels:
                _, forgotten = self._frames.popitem(last=False)
                self._held -= forgotten.image.numel()
