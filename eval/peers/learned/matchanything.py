"""MatchAnything (He et al., 2025): EfficientLoFTR trained across modalities, through transformers."""

from __future__ import annotations

from eval.peers.learned.eloftr import EfficientLoFTR
from eval.peers.store import Store


class MatchAnything(EfficientLoFTR):
    """EfficientLoFTR's network with the weights of huggingface.co/zju-community/matchanything_eloftr, at 832 pixels."""

    name = "MatchAnything"

    def __init__(self, store: Store, side: int = 832) -> None:
        super().__init__(store, "matchanything_eloftr", side)


def create(store: Store) -> MatchAnything:
    """Build it."""
    return MatchAnything(store)
