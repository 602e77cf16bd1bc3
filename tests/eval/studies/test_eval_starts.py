"""Votes of maps for turn, scale and shift."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eval.studies.text.starts import Planes, start_error, vote, whiten
from kornia_tar.conventions import CELL
from kornia_tar.geometry import transform_points


def words(shape: tuple[int, int], matrix: np.ndarray) -> Planes:
    """Draw the map of three words on a made-up ground; its cells see image0's pixels through ``matrix``."""
    rows, columns = np.meshgrid(*(CELL * np.arange(side) + CELL / 2 - 0.5 for side in shape), indexing="ij")
    x, y = transform_points(np.linalg.inv(matrix), np.stack([columns, rows], -1).reshape(-1, 2)).T.reshape(2, *shape)
    waves = [np.sin(x / 17 + y / 41), np.cos(x / 23 - y / 29 + 1), np.sin(y / 13 + x / 71)]
    inside = (np.abs(x - 127.5) < 128) & (np.abs(y - 127.5) < 128)
    planes = F.softmax(2 * torch.from_numpy(np.stack(waves)).float(), 0)
    return Planes(planes, torch.from_numpy(inside))


@pytest.mark.parametrize(("turn", "scale", "shift"), [(0, 1, (24, -16)), (30, 1, (0, 0)), (195, 2**0.5, (10, 40))])
def test_the_best_vote_is_where_the_maps_agree(turn, scale, shift):
    c, s = scale * np.cos(np.radians(turn)), scale * np.sin(np.radians(turn))
    middle = np.array([127.5, 127.5])
    truth = np.eye(3)
    truth[:2, :2] = [[c, -s], [s, c]]
    truth[:2, 2] = middle + shift - truth[:2, :2] @ middle
    votes = vote(*whiten((words((32, 32), np.eye(3)), words((32, 32), truth)), words=True))
    assert [score for score, _ in votes] == sorted((score for score, _ in votes), reverse=True)
    assert start_error(votes[0][1], truth, (256, 256), (256, 256)) < CELL
