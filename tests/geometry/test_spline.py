"""SplineRaster: it holds polynomials, bends as much as they bend, and fits smooth functions."""

import numpy as np
import pytest

from kornia_tar.geometry import SplineRaster

SIZE = (120, 200)
RASTER = SplineRaster.over(SIZE, 25)


def grid(step: int = 7) -> np.ndarray:
    y, x = np.mgrid[0 : SIZE[0] : step, 0 : SIZE[1] : step]
    return np.stack([x.ravel(), y.ravel()], 1).astype(float)


def test_controls_are_no_further_apart_than_asked_and_surround_the_image():
    assert (RASTER.spacing <= 25).all()
    controls = RASTER.controls()
    assert len(controls) == RASTER.rows * RASTER.columns
    assert (controls.min(0) < 0).all() and (controls.max(0) > np.array(SIZE[::-1]) - 1).all()


def test_weights_sum_to_one_everywhere():
    _, weight = RASTER.weights(np.concatenate([grid(), [[-50, 3], [1e4, 1e4], [199, 119]]]))
    np.testing.assert_allclose(weight.sum(1), 1)
    assert (weight > -1e-12).all()


def test_the_controls_of_a_linear_function_are_its_values():
    linear = lambda p: np.stack([2 * p[:, 0] - p[:, 1] + 3, 0.1 * p[:, 1]], 1)  # noqa: E731
    np.testing.assert_allclose(RASTER(linear(RASTER.controls()), grid()), linear(grid()), atol=1e-9)


def test_a_cubic_is_held_exactly_and_a_wave_nearly():
    cubic = lambda p: (p[:, :1] / 50) ** 3 - (p[:, 1:] / 40) ** 2 * p[:, :1] / 50  # noqa: E731
    np.testing.assert_allclose(RASTER(RASTER.coefficients(cubic), grid()), cubic(grid()), atol=1e-6)
    wave = lambda p: 10 * np.sin(p @ [[2 * np.pi / 140], [0.01]])  # noqa: E731
    assert np.abs(RASTER(RASTER.coefficients(wave), grid()) - wave(grid())).max() < 0.1


def test_it_is_constant_outside():
    coefficients = np.random.default_rng(0).normal(size=(len(RASTER.controls()), 2))
    np.testing.assert_allclose(
        RASTER(coefficients, [[-9, 40], [400, 119]]), RASTER(coefficients, [[0, 40], [199, 119]])
    )


@pytest.mark.parametrize("wavelength", [150.0, 300.0])
def test_bending_is_the_integral_of_squared_curvature(wavelength):
    k, along = 2 * np.pi / wavelength, np.array([0.6, 0.8])
    c = RASTER.coefficients(lambda p: np.sin(k * p @ along)[:, None])[:, 0]
    y, x = np.mgrid[0 : SIZE[0] - 1 : 400j, 0 : SIZE[1] - 1 : 400j]
    squared = (k**4) * np.sin(k * (x * along[0] + y * along[1])) ** 2  # |Hessian|² = k⁴ sin² for a plane wave
    assert c @ RASTER.bending() @ c == pytest.approx(squared.mean() * (SIZE[0] - 1) * (SIZE[1] - 1), rel=0.05)


def test_planes_do_not_bend():
    bending = RASTER.bending()
    np.testing.assert_allclose(bending @ RASTER.controls(), 0, atol=1e-9)
    assert np.linalg.eigvalsh(bending).min() > -1e-12


def test_the_smallest_image_has_a_raster():
    raster = SplineRaster.over((32, 33), 32)
    assert raster.intervals == (1, 1)
    np.testing.assert_allclose(raster.weights([[0, 0], [32, 31]])[1].sum(1), 1)
