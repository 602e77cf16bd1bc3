"""Configurations of dense matching, in the form of ``hloc.match_dense.confs``.

``max_error`` and ``cell_size`` (px) tell how hloc turns matches into keypoints. ``int(max_error)`` is the grid that
keypoints are rounded to: below 1 nothing is rounded.
"""

from __future__ import annotations

from typing import Any

_PREPROCESSING = {"grayscale": True, "resize_max": 1024, "dfactor": 8}

#: ``tar`` registers overhead pairs of an optical and a SAR image that may be turned by any angle and differ in scale,
#: and finds nothing in those that show different places. (For pairs of one kind set ``modality``.) ``tar_sfm`` is for
#: many views of one scene: its matches meet at cell centres, so that they join into tracks without being rounded.
#: ``tar_aachen`` keeps few, rounded keypoints, as ``loftr_aachen`` does, for scenes too large for the others.
confs: dict[str, dict[str, Any]] = {
    "tar": {
        "output": "matches-tar-guided",
        "model": {"name": "tar", "weights": "optical-sar", "guided": True, "rotations": 8, "modality": "cross"},
        "preprocessing": dict(_PREPROCESSING),
        "max_error": 0.5,
        "cell_size": 0.5,
    },
    "tar_sfm": {
        "output": "matches-tar-sfm",
        "model": {"name": "tar", "weights": "optical-sar", "repeatable": True},
        "preprocessing": dict(_PREPROCESSING),
        "max_error": 0.5,
        "cell_size": 0.5,
    },
    "tar_aachen": {
        "output": "matches-tar-aachen",
        "model": {"name": "tar", "weights": "optical-sar", "looks": 1},
        "preprocessing": dict(_PREPROCESSING),
        "max_error": 2,
        "cell_size": 8,
    },
}
