"""Points as tensors through matrices."""

from __future__ import annotations

import numpy as np
import torch

from kornia_tar import geometry
from kornia_tar.network.points import transform_affine, transform_points, vector


def test_tensors_go_where_arrays_go():
    rng = np.random.default_rng(0)
    matrices = np.eye(3) + rng.normal(0, [[0.2, 0.2, 20], [0.2, 0.2, 20], [1e-4, 1e-4, 0]], (4, 3, 3))
    points = rng.uniform(0, 255, (4, 30, 2))
    found = transform_points(torch.from_numpy(matrices), torch.from_numpy(points))
    assert found.dtype == torch.float32
    for matrix, row, there in zip(matrices, points, found, strict=True):
        np.testing.assert_allclose(there, geometry.transform_points(matrix, row), rtol=1e-4, atol=1e-2)
        one = transform_points(torch.from_numpy(matrix), torch.from_numpy(row))
        torch.testing.assert_close(one, there, rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = transform_points(torch.from_numpy(matrices), torch.from_numpy(points))
    torch.testing.assert_close(again, found, rtol=0, atol=0)


def test_affine_is_the_homography_without_perspective():
    matrix = torch.tensor([[[1.2, -0.1, 3.0], [0.2, 0.9, -4.0]]])
    points = 255 * torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([matrix, torch.tensor([[[0.0, 0, 1]]])], 1)
    torch.testing.assert_close(transform_affine(matrix, points), transform_points(whole, points), rtol=1e-5, atol=1e-4)


def test_behind_the_horizon_is_far_and_finite():
    beyond = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    there = transform_points(beyond, torch.tensor([[150.0, 10]]))
    assert there.isfinite().all() and there.norm() > 1e6


def test_a_vector_is_of_the_type_of_what_it_is_like():
    like = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert torch.equal(vector(like, 0.1, -1, 300), like.new_tensor([0.1, -1, 300]))
