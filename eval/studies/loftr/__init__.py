"""LoFTR's architecture trained from scratch on our data: half an hour of a CPU leaves it at the identity prior."""
