"""Matches on disk."""

from __future__ import annotations

import numpy as np
import pytest

from kornia_tar.outputs.matches import read_matches, write_matches

rng = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["m.h5", "m.npz"])
def test_matches_round_trip(tmp_path, name):
    matches = {"keypoints0": rng.random((7, 2), np.float32), "confidence": rng.random(7), "empty": np.zeros((0, 2))}
    write_matches(tmp_path / name, matches | {"image0": "ü.png"})
    back = read_matches(tmp_path / name)
    assert "centres at integers" in back.pop("convention") and back.pop("image0") == "ü.png"
    assert back.keys() == matches.keys()
    for key, array in matches.items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)
    (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="not a file of matches"):
        read_matches(tmp_path / name)
