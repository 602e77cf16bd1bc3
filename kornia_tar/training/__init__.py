"""Training of TARNet: pairs, warps and photometry, losses, one plain loop. See ``kornia-tar train --help``."""
