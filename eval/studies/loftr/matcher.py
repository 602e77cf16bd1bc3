"""LoFTR's architecture, trained from scratch on our data (:mod:`eval.studies.loftr.training`)."""

from __future__ import annotations

import json
from typing import Any

import kornia
from safetensors import SafetensorError, safe_open

from eval.peers.base import count
from eval.peers.learned.loftr import LoFTR, build
from eval.peers.store import MatcherUnavailable, Store, load_strictly

FILE, FORMAT = "loftr.safetensors", "loftr-ours-1"
HOW = "train it: python -m eval study loftr --data ../shared/data --minutes 30 -o runs/loftr, then --weights runs/loftr"


class OurLoFTR(LoFTR):
    """The network with weights that ``python -m eval study loftr`` wrote; the row's name tells their minutes.

    Args:
        store: with ``loftr.safetensors``.
        threshold: smallest confidence of a coarse match; LoFTR's own is 0.2.
    """

    name = "LoFTR architecture, our data"
    offset = 0.0

    def __init__(self, store: Store, threshold: float = 0.2) -> None:
        self._net = build(threshold)
        if store.untrained:
            store.random = True
        else:
            info = self._read(store)
            self.name += f", {round(info['minutes'])} minutes"
        self._net.eval()
        self.parameters = count(self._net)
        self.settings = f"kornia {kornia.__version__}, our data, threshold {threshold:g}, {store.settings}"

    def _read(self, store: Store) -> dict[str, Any]:
        path = store.trained(FILE, HOW)
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise MatcherUnavailable(f"weights cannot be read ({FILE}: {error})") from error
        if meta.get("format") != FORMAT:
            raise MatcherUnavailable(f"{FILE} is of the format {meta.get('format')!r}, need {FORMAT!r}; {HOW}")
        load_strictly(self._net, state)
        info: dict[str, Any] = json.loads(meta["info"])
        return info


def create(store: Store) -> OurLoFTR:
    """Build it."""
    return OurLoFTR(store)
