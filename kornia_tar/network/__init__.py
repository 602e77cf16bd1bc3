"""The paper, readable top to bottom: MSFL → TAFE → CFDM (``msfl``, ``tafe``, ``cfdm``, ``fine``), joined in ``net``."""
