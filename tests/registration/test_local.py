"""Relief: all cells find a field, held-out cells choose the model, and say how far it is off."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import demo_middle, needs_weights, small_matcher

from kornia_tar import Registrar, RegistrarConfig, SearchConfig, TARMatcher
from kornia_tar.files import write_json
from kornia_tar.geometry import (
    SplineRaster,
    Transform,
    compose,
    fit_least_squares,
    invert,
    transform_points,
    warp_image,
)
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.evidence import DisplacementMaps, tie_points
from kornia_tar.registration.alignment.smooth import FOLDS, WIDTHS, Family, FieldFit, Look, plane
from kornia_tar.registration.held_out import CheckPoints
from kornia_tar.registration.local import check_plane, choose, raster_over

SIZE = (384, 384)
STEP, SIDE = 2.0, 9
SMOOTH = Family(None, 1e2)
AFFINE = np.array([[1.012, -0.008, 1.5], [0.01, 0.99, -1.0], [0, 0, 1]])

CENTRE = np.array([[1, 0, 191.5], [0, 1, 191.5], [0, 0, 1]])
TILTED = CENTRE @ np.array([[1, 0, 1.0], [0, 1, 0], [7e-5, -5e-5, 1]]) @ invert(CENTRE)
QUICK = SearchConfig(rotations=1, scales=(1.0,), side=96)

Shift = Callable[[np.ndarray], np.ndarray]


def relief(points: np.ndarray) -> np.ndarray:
    x, y = points.T
    return np.stack([4 * np.sin(x / 45 + y / 90), 2.5 * np.cos(y / 50)], 1)


def still(points: np.ndarray) -> np.ndarray:
    return np.zeros_like(points)


def of(matrix: np.ndarray) -> Shift:
    return lambda points: transform_points(matrix, points) - points


def maps(place: np.ndarray, points: np.ndarray, spread: np.ndarray) -> DisplacementMaps:
    """Cells at (K, 2) points whose maps are bumps at (K, 2) places."""
    at = torch.from_numpy(points).float()
    corner = at - STEP * (SIDE // 2)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    places = corner[:, None] + STEP * torch.stack([x, y], -1).view(1, -1, 2)
    offset = (places - torch.from_numpy(place).float()[:, None]) / torch.from_numpy(spread).float()[:, None]
    return DisplacementMaps(at, corner, (-0.5 * offset.square().sum(-1)).softmax(1).view(-1, SIDE, SIDE), STEP)


def look(
    shift: Shift, noise: float = 1.0, wrong: float = 0.3, sigma: tuple[float, float] = (1.5, 1.5), seed: int = 0
) -> Look:
    """What cells say when image0's pixel x lies at x + shift(x): ``noise`` px off, a share of them ``wrong``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[3.5 : SIZE[0] : 8, 3.5 : SIZE[1] : 8]
    points, raster = np.stack([x.ravel(), y.ravel()], 1), raster_over(SIZE)
    back = points - shift(points)
    for _ in range(8):
        back = points - shift(back)
    said = []
    for place in (points + shift(points), back):
        place = place + rng.normal(0, noise, place.shape)
        lost = rng.random(len(place)) < wrong
        place[lost] = points[lost] + rng.uniform(-8, 8, (lost.sum(), 2))
        spread = np.tile(np.array(sigma), (len(place), 1))
        spread[rng.random(len(place)) < 0.5] = sigma[::-1]
        said.append(maps(place, points, spread))
    return Look(*said, np.zeros((len(raster.controls()), 2)))


def fitted(seen: Look) -> FieldFit:
    return FieldFit(seen, raster_over(SIZE))


def rmse(raster: SplineRaster, field: np.ndarray, truth: Shift) -> float:
    y, x = np.mgrid[8 : SIZE[0] - 8 : 8, 8 : SIZE[1] - 8 : 8]
    points = np.stack([x.ravel(), y.ravel()], 1).astype(float)
    return float(np.sqrt(np.square(raster(field, points) - truth(points)).sum(1).mean()))


def test_the_field_is_found_though_cells_are_noisy_and_some_wrong():
    fit = fitted(look(relief))
    assert rmse(fit.raster, fit.zero, relief) > 3
    assert rmse(fit.raster, fit.climb(fit.zero, SMOOTH), relief) < 0.6


def test_inference_mode_and_autocast_change_nothing():
    fit = fitted(look(relief))
    expected = fit.climb(fit.zero, SMOOTH)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(fit.climb(fit.zero, SMOOTH), expected)


def test_edges_that_pin_one_direction_each_pin_the_field_together():
    fit = fitted(look(relief, noise=0, wrong=0, sigma=(0.8, 50.0)))
    assert rmse(fit.raster, fit.climb(fit.zero, SMOOTH), relief) < 0.5


def test_asked_again_under_a_field_it_finds_the_rest():
    """Image1 was warped by half of the relief: cells say what is left, the field is the whole."""
    raster = raster_over(SIZE)
    half = lambda points: relief(points) / 2  # noqa: E731

    def left(points: np.ndarray) -> np.ndarray:  # y + half(y) = x + relief(x)
        goal = points + relief(points)
        there = goal
        for _ in range(20):
            there = goal - half(there)
        return there - points

    seen = look(left, noise=0.5, wrong=0)._replace(asked=raster.coefficients(half))
    fit = FieldFit(seen, raster)
    assert rmse(raster, fit.climb(seen.asked, SMOOTH), relief) < 0.4


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_a_plane_model_is_found_and_no_field_beside_it(model):
    matrix = {
        "similarity": np.array([[1.01, 0.012, -2.5], [-0.012, 1.01, 2.0], [0, 0, 1]]),
        "affine": AFFINE,
        "homography": TILTED,
    }[model]
    fit = fitted(look(of(matrix)))
    family = plane(fit.raster, model)
    field = fit.climb(fit.zero, family)
    assert rmse(fit.raster, field, of(matrix)) < 0.3
    solution, *_ = np.linalg.lstsq(family.basis, field.T.ravel(), rcond=None)
    np.testing.assert_allclose(family.basis @ solution, field.T.ravel(), atol=1e-6)


PLANES = ("similarity", "affine", "homography")


@pytest.mark.parametrize(
    ("truth", "expected"),
    [(of(np.array([[1, 0.02, 1.0], [-0.02, 1, 2], [0, 0, 1]])), "similarity"), (of(AFFINE), "affine"),
     (of(TILTED), "homography"), (relief, "spline")],
    ids=["similarity", "affine", "homography", "relief"],
)  # fmt: skip
def test_the_simplest_model_that_held_out_cells_do_not_reject_is_chosen(truth, expected):
    choice = choose(fitted(look(truth)), PLANES)
    assert choice.model == expected
    assert rmse(raster_over(SIZE), choice.coefficients, truth) < 0.8


@pytest.mark.parametrize("seed", range(2))
def test_cells_that_know_nothing_choose_the_simplest(seed):
    assert choose(fitted(look(still, wrong=1.0, seed=seed)), PLANES).model == "similarity"


def test_without_plane_models_flat_ground_gets_a_stiff_field():
    choice = choose(fitted(look(still)), ())
    assert choice.model == "spline" and choice.family.smoothness > 1e3
    assert rmse(raster_over(SIZE), choice.coefficients, still) < 0.3
    assert choose(fitted(look(relief)), ()).family.smoothness < choice.family.smoothness


def test_a_fold_is_held_out():
    """What the cells of a fold say does not change the field that was fitted without them, and does the others."""
    seen = look(relief)
    fit = fitted(seen)
    field = fit.climb(fit.zero, SMOOTH)
    out = torch.from_numpy(fit.fold == 0)
    blank = [m._replace(probability=m.probability.clone()) for m in (seen.in1, seen.in0)]
    for part, rows in zip(blank, out.split([len(m.points) for m in blank]), strict=True):
        part.probability[rows] = part.probability[rows].flip(1)
    other = fitted(Look(*blank, seen.asked))
    one, two = (f.without_folds(field, SMOOTH, steps=2) for f in (fit, other))
    np.testing.assert_allclose(one[0], two[0], atol=1e-4)
    assert all(np.abs(one[k] - two[k]).max() > 0.1 for k in range(1, FOLDS))


def test_held_out_blocks_see_what_the_model_cannot_follow_and_no_more():
    seen, raster = look(relief), raster_over(SIZE)
    fit = FieldFit(seen, raster)
    best = plane(raster, "affine")
    flat = fit.climb(fit.zero, best, WIDTHS)
    votes = fit.votes(fit.without_folds(flat, best))
    error = raster(flat, votes.points) - relief(votes.points)
    length = lambda v: np.linalg.norm(v, axis=1)  # noqa: E731
    assert np.median(length(votes.residual - error)) < 0.35 * np.median(length(error))
    field = fit.climb(fit.zero, SMOOTH)
    assert np.median(length(fit.votes(fit.without_folds(field, SMOOTH)).residual)) < 0.35 * np.median(length(error))


def test_blocks_that_know_nothing_have_no_vote():
    blank = look(still, sigma=(1e3, 1e3))
    fit = fitted(blank)
    assert len(fit.votes(np.stack([fit.zero] * FOLDS)).points) == 0


def test_a_plane_models_check_points_are_told_in_either_image():
    before = np.array([[0.0, -2.0, 700.0], [2.0, 0, 5.0], [0, 0, 1]])  # image1 is twice as fine, and turned
    seen = look(of(AFFINE), noise=0.3, wrong=0)
    wrong = compose(AFFINE, before) + np.array([[0, 0, 4.0], [0, 0, 0], [0, 0, 0]])
    votes = check_plane((seen.in1, seen.in0), before, wrong, "affine", SIZE)
    assert np.median(np.linalg.norm(votes.residual, axis=1)) < 0.3, "the model is fitted anew to the others"
    points = np.random.default_rng(0).uniform(0, 380, (40, 2))
    transform, shift = Transform(before), np.tile([1.0, 0.0], (40, 1))
    told = CheckPoints(points, shift).summed_up(transform, SIZE, swapped=False, blocks=4)
    assert told.rmse_px_image0 == pytest.approx(1) and told.rmse_px == pytest.approx(2)
    np.testing.assert_allclose(
        told.blocks[np.isfinite(told.blocks[..., 0])], [[0, 2]] * len(np.unique(points // 96, axis=0)), atol=1e-9
    )
    np.testing.assert_allclose(told.at(points), [[0, 2]] * len(points), atol=1e-9)
    # The same errors, as a fit from image1 to image0 shows them.
    there = CheckPoints(transform(points), -(transform(points + shift) - transform(points)))
    back = there.summed_up(transform, SIZE, swapped=True, blocks=4)
    np.testing.assert_allclose(back.blocks, told.blocks, atol=1e-9)
    assert back.rmse_px_image0 == pytest.approx(1) and back.ce90_px == pytest.approx(told.ce90_px)


def test_few_check_points_make_no_figure_and_a_block_without_one_is_null(tmp_path):
    points, transform = np.array([[1.0, 1], [380, 1], [1, 380], [380, 380]]), Transform(np.eye(3))
    assert CheckPoints(points[:3], points[:3] * 0).summed_up(transform, SIZE, False, 4) is None
    report = CheckPoints(points, points * 0 + 1).summed_up(transform, SIZE, False, 4).report()
    write_json(tmp_path / "held_out.json", report)
    rows = json.loads((tmp_path / "held_out.json").read_text())["blocks_px"]
    assert rows[0][0] == [1.0, 1.0] and rows[1][1] is None
    assert report["places_px"][0][0] == [47.5, 47.5] and report["places_px"][0][3] == [335.5, 47.5]


def test_tie_points_lean_towards_the_field():
    blank, field = look(still, sigma=(1e3, 1e3)), Transform.of(lambda p: p + relief(p), SIZE, 4)
    inner = (blank.in1.points - 192).abs().amax(1) < 150
    places, _, _ = tie_points(blank.in1, field, 1.0, 3.0)
    expected = field(blank.in1.points.numpy())
    assert np.linalg.norm(places.numpy() - expected, axis=1)[inner.numpy()].mean() < 0.3


def test_an_image_is_warped_by_a_field():
    image = np.random.default_rng(0).random((80, 90)).astype(np.float32)
    view = MaskedImage(image, np.ones(image.shape, bool), None)
    transform = Transform.of(lambda p: p + relief(p), (80, 90), 4)
    np.testing.assert_array_equal(view.warped(transform, (80, 90)).image, warp_image(image, transform, (80, 90)))
    assert not view.warped(transform, (80, 90)).mask.all()


@pytest.mark.parametrize("model", ["spline", "auto"])
@pytest.mark.parametrize("shape", [(100, 140), (32, 300)])
def test_an_untrained_network_ends_in_a_refusal(model, shape, tmp_path):
    rng = np.random.default_rng(0)
    first, second = (rng.random(shape).astype(np.float32) for _ in range(2))
    outcome = Registrar(small_matcher(), RegistrarConfig(model=model, search=QUICK))(first, second)
    assert not outcome.registered and outcome.reasons
    write_json(tmp_path / "report.json", outcome.report())


@pytest.mark.slow  # two registrations; the tests above hold the choice of the model
@needs_weights
def test_relief_is_registered_by_a_field():
    optical, sar, truth = demo_middle(1, 320)
    size = sar.shape[:2]

    def bend(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        return points + np.stack([5 * np.sin(x / 35 + y / 70), 3 * np.cos(y / 40)], 1)

    bent = warp_image(sar, Transform.of(bend, size, 4).inverse(size), size)
    y, x = np.mgrid[: optical.shape[0] : 8, : optical.shape[1] : 8]
    ground = np.stack([x.ravel(), y.ravel()], 1).astype(float)
    there = bend(transform_points(truth, ground))
    seen = ((there > 8) & (there < np.array(size[::-1]) - 8)).all(1)
    nearest = fit_least_squares(ground[seen], there[seen])
    matcher, search = TARMatcher(), SearchConfig(rotations=1, scales=(1.0,))
    outcome = Registrar(matcher, RegistrarConfig(model="auto", search=search))(optical, bent)
    assert outcome.registered and outcome.model == "spline" and outcome.field is not None
    assert outcome.held_out is not None and outcome.held_out.rmse_px < 3
    off = np.linalg.norm(outcome.transform(ground) - there, axis=1)[seen]
    best = np.linalg.norm(transform_points(nearest, ground) - there, axis=1)[seen]
    assert np.sqrt(np.mean(off**2)) < 0.6 * np.sqrt(np.mean(best**2)), "better than any matrix"
    m = outcome.matches
    residual = np.linalg.norm(outcome.transform(m.points0) - m.points1, axis=1)
    assert np.sqrt(np.mean(residual[outcome.inliers] ** 2)) == pytest.approx(outcome.rmse)
    swapped = Registrar(matcher, RegistrarConfig(model="spline", search=search))(
        bent, optical, modality0="sar", modality1="optical"
    )
    back = swapped.transform(there[seen])
    assert np.sqrt(np.mean(np.square(back - ground[seen]).sum(1))) < 2
