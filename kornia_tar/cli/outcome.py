"""What a registration says at its end."""

from __future__ import annotations

import sys
from pathlib import Path

from kornia_tar.registration.result import Registration

NOT_REGISTERED = 2


def tell(outcome: Registration, out: Path, seconds: float) -> int:
    """Say in one line how a registration ended; returns the exit code."""
    count = f"{int(outcome.inliers.sum())} inliers of {len(outcome.matches)} matches, {seconds:.1f} s"
    if outcome.registered:
        print(f"registered: estimated error {outcome.error_estimate:.2f} px, {count}; see {out / 'quicklook.png'}")
        return 0
    print(f"not registered: {'; '.join(outcome.reasons)} ({count}); see {out / 'quicklook.png'}", file=sys.stderr)
    return NOT_REGISTERED
