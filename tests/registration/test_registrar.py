"""Registrar: its geometry, its honesty, and with the shipped weights its results."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import ERROR_SCALE, demo_middle, needs_weights, small_matcher
from hypothesis import given, settings
from hypothesis import strategies as st

from kornia_tar import AcceptanceConfig, AlignmentConfig, Registrar, RegistrarConfig, SearchConfig, TARMatcher
from kornia_tar.files import write_json
from kornia_tar.geometry import corner_error, invert, transform_points
from kornia_tar.network.calibration import Calibration, PairScalings, PlattScaling
from kornia_tar.raster.synthetic import demo_pair, draw_scene
from kornia_tar.raster.view import MaskedImage, tiles
from kornia_tar.registration.alignment.tiled import TileEncoder
from kornia_tar.registration.result import estimated_error

QUICK = RegistrarConfig(search=SearchConfig(side=96, scales=(1.0,)), alignment=AlignmentConfig(tile=96, refinements=1))


@given(height=st.integers(1, 40), width=st.integers(1, 40), quarters=st.integers(0, 3), seed=st.integers(0, 99))
@settings(deadline=None)
def test_turned_view_leads_back_to_the_upright_pixel(height, width, quarters, seed):
    image = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    turned, matrix = MaskedImage(image, np.ones(image.shape, bool), None).turned(90 * quarters)
    np.testing.assert_array_equal(turned.image, np.rot90(image, quarters))
    y, x = np.mgrid[: turned.size[0], : turned.size[1]]
    there = transform_points(matrix, np.stack([x.ravel(), y.ravel()], 1)).round().astype(int)
    np.testing.assert_array_equal(image[there[:, 1], there[:, 0]], turned.image.ravel())


@pytest.mark.parametrize("degrees", [45, 135, 225, 315])
def test_diagonal_view_shows_the_whole_image_where_its_matrix_says(degrees):
    y, x = np.mgrid[:60, :90]
    view = MaskedImage(((x + 2 * y) / 300).astype(np.float32), np.ones((60, 90), bool), None)
    turned, matrix = view.turned(degrees)
    corners = transform_points(invert(matrix), [[0, 0], [89, 0], [89, 59], [0, 59]])
    assert corners.min() > -1 and (corners < np.array(turned.size[::-1])).all()
    ys, xs = np.nonzero(turned.mask)
    back = transform_points(matrix, np.stack([xs, ys], 1))
    np.testing.assert_allclose(turned.image[turned.mask], back @ [1, 2] / 300, atol=1e-3)
    assert turned.mask.sum() == pytest.approx(60 * 90, rel=0.05)


@given(height=st.integers(32, 3000), width=st.integers(32, 3000), side=st.integers(32, 800))
@settings(deadline=None)
def test_tiles_cover_everything_and_none_is_too_large_or_a_sliver(height, width, side):
    found = tiles((height, width), side)
    for length, axis in ((height, 0), (width, 1)):
        cuts = sorted({(t[axis].start, t[axis].stop) for t in found})
        assert cuts[0][0] == 0 and cuts[-1][1] == length
        assert all(b[0] <= a[1] for a, b in pairwise(cuts)), "a gap"
        assert all(stop - start == min(side, length) for start, stop in cuts)
        assert len(cuts) == -(-length // side), "no more tiles than needed"
    assert len(found) == len(set(map(str, found)))


@given(height=st.integers(8, 60), width=st.integers(8, 60), factor=st.floats(1, 3))
@settings(deadline=None)
def test_enlarged_view_shows_the_same_where_its_matrix_says(height, width, factor):
    y, x = np.mgrid[:height, :width]
    view = MaskedImage(((x + 2 * y) / 200).astype(np.float32), np.ones((height, width), bool), None)
    large, matrix = view.enlarged(factor)
    ys, xs = np.nonzero(large.mask)
    back = transform_points(invert(matrix), np.stack([xs, ys], 1))
    np.testing.assert_allclose(large.image[large.mask], back @ [1, 2] / 200, atol=1e-3)
    assert large.mask.sum() > 0.6 * height * width


def test_the_error_estimate_lies_between_its_measures_and_trusts_neither_alone():
    assert estimated_error(1, 1) == pytest.approx(estimated_error(4, 0.25))
    assert estimated_error(2, 3) == estimated_error(3, 2) > estimated_error(2, 2)
    assert estimated_error(30, 0) == estimated_error(30, 1e-9) > 10
    for nothing in (np.inf, np.nan):
        assert estimated_error(nothing, 1) == estimated_error(0, nothing) == np.inf


@pytest.mark.parametrize("side", [256, 264, 600])
def test_no_cell_speaks_twice_where_tiles_overlap(side):
    encoder = TileEncoder(small_matcher(), tile=256, max_cells=10**6)
    view = MaskedImage.of(noise(0, side, side), None, "optical", "image")
    in1, in0 = encoder.displacement_maps(view, view, np.eye(3), 1)
    for points in (in1.points, in0.points):
        assert len(points) <= 1.1 * (side / 8) ** 2
        near = torch.cdist(points, points) + 8 * torch.eye(len(points))
        assert near.min() > 2 and len(points) >= 0.8 * (side / 8) ** 2


@pytest.fixture(scope="module")
def untrained() -> Registrar:
    return Registrar(small_matcher(), QUICK)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def flat(*shape: int) -> np.ndarray:
    return np.full(shape, 0.5, np.float32)


def cornered(*shape: int) -> np.ndarray:
    image = flat(*shape)
    image[:3, :3] = 1
    return image


@pytest.mark.parametrize(
    ("image0", "image1"),
    [
        (noise(0, 96, 120), noise(1, 130, 97)),
        (noise(0, 32, 32), noise(1, 32, 300)),
        (noise(0, 64, 64, 3), (255 * noise(1, 64, 64)).astype(np.uint8)),
        (cornered(64, 64), cornered(80, 64)),
        (cornered(64, 64), noise(1, 200, 200).astype(np.float64)),
    ],
    ids=["noise", "extreme shapes", "colour and bytes", "nearly flat", "nearly flat and noise"],
)
@pytest.mark.parametrize("rotations", [1, 4, 8])
def test_untrained_network_registers_nothing_and_says_why(untrained, image0, image1, rotations):
    config = replace(QUICK, search=replace(QUICK.search, rotations=rotations))
    outcome = Registrar(untrained.matcher, config)(image0, image1)
    assert not outcome.registered
    assert outcome.reasons and all(outcome.reasons)
    assert len(outcome.inliers) == len(outcome.matches)
    assert outcome.rotation_start in range(0, 360, 360 // rotations)


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_every_model_ends_in_a_report(model, tmp_path):
    registrar = Registrar(small_matcher(), replace(QUICK, model=model))
    outcome = registrar(noise(0, 100, 100), noise(1, 100, 100), modality0=None, modality1=None)
    report = outcome.report()
    assert report["model"] == model and report["registered"] is False and report["reasons"]
    write_json(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text())["matches"] == len(outcome.matches)


@pytest.mark.parametrize("which", [0, 1])
def test_a_flat_image_is_named(untrained, which):
    images = [noise(0, 64, 64), noise(1, 64, 64)]
    mask = np.ones((64, 64), bool)
    images[which], mask[:, :9] = flat(64, 64), False
    images[which][:, :9] = 0  # nodata is no structure
    outcome = untrained(*images, **{f"mask{which}": mask})
    assert not outcome.registered and f"image{which} is flat" in outcome.reasons[0]


@pytest.mark.parametrize("hidden", [0, 1])
def test_nothing_but_nodata_is_not_registered(untrained, hidden):
    masks = {f"mask{hidden}": np.zeros((64, 64), bool)}
    outcome = untrained(noise(0, 64, 64), noise(1, 64, 64), **masks)
    assert not outcome.registered and len(outcome.matches) == 0
    assert outcome.matrix is None and "no rotation and scale" in outcome.reasons[0]


def test_nan_under_a_mask_is_nodata_and_elsewhere_an_error(untrained):
    image, mask = noise(0, 64, 64), np.ones((64, 64), bool)
    image[:, :20], mask[:, :20] = np.nan, False
    assert not untrained(image, noise(1, 64, 64), mask0=mask).registered
    with pytest.raises(ValueError, match=r"image0.*NaN"):
        untrained(image, noise(1, 64, 64))


@pytest.mark.parametrize(
    ("images", "masks", "error", "words"),
    [
        ((noise(0, 64, 64).astype(np.uint16), noise(1, 64, 64)), {}, TypeError, "image0.*uint16"),
        ((noise(0, 64, 64), noise(1, 64, 64, 4)), {}, ValueError, r"image1.*\(64, 64, 4\)"),
        ((noise(0, 64, 64), noise(1, 10, 10)), {}, ValueError, r"image1.*\(10, 10\).*32"),
        ((noise(0, 64, 64), noise(1, 64, 64)), {"mask1": np.ones((64, 63), bool)}, ValueError, r"image1.*\(64, 63\)"),
        ((noise(0, 64, 64), noise(1, 64, 64)), {"modality0": "radar"}, ValueError, "radar"),
    ],
)
def test_wrong_input_is_named(untrained, images, masks, error, words):
    with pytest.raises(error, match=words):
        untrained(*images, **masks)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SearchConfig, {"rotations": 3}),
        (SearchConfig, {"side": 0}),
        (SearchConfig, {"scales": ()}),
        (SearchConfig, {"scales": (0.0,)}),
        (SearchConfig, {"candidates": 0}),
        (AlignmentConfig, {"tile": 16}),
        (AlignmentConfig, {"refinements": 0}),
        (AlignmentConfig, {"magnify": 0.5}),
    ],
)
def test_wrong_config_is_named(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


def test_equal_runs_give_equal_outcomes(untrained):
    image = noise(0, 96, 96)
    one, two = (untrained(image, np.roll(image, 3, 1)) for _ in range(2))
    np.testing.assert_array_equal(one.matrix, two.matrix)
    assert one.reasons == two.reasons
    np.testing.assert_array_equal(one.inliers, two.inliers)


def test_any_transform_of_a_similarity_is_one(untrained):
    image = noise(0, 97, 150)
    config = replace(
        QUICK, model="similarity", search=replace(QUICK.search, side=64), acceptance=AcceptanceConfig(min_probability=0)
    )  # as far as the magnified step
    outcome = Registrar(untrained.matcher, config)(image, image)
    assert outcome.matrix is not None
    linear = outcome.matrix[:2, :2]
    np.testing.assert_allclose(linear[0, 0], linear[1, 1], atol=1e-5)
    np.testing.assert_allclose(linear[0, 1], -linear[1, 0], atol=1e-5)


# --- the shipped weights --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registrar() -> Registrar:
    return Registrar(TARMatcher())


@pytest.mark.slow  # two registrations
@needs_weights
def test_a_fit_corrects_the_tie_points_and_nothing_else():
    optical, sar, _ = demo_pair(0)
    optical, sar = optical[:160, :160], sar[:160, :160]
    config = RegistrarConfig(search=SearchConfig(rotations=1, scales=(1.0,)), alignment=AlignmentConfig(refinements=1))
    plain, fitted = TARMatcher(), TARMatcher()
    plain.calibration = Calibration()
    fitted.calibration = Calibration(tie_points=PairScalings(cross=PlattScaling(2.0, 1.0, 0.5)))
    before, after = (Registrar(matcher, config)(optical, sar) for matcher in (plain, fitted))
    np.testing.assert_array_equal(before.matrix, after.matrix)
    np.testing.assert_array_equal(before.inliers, after.inliers)
    assert before.rmse == after.rmse and before.error_estimate == after.error_estimate and len(after.matches)
    np.testing.assert_allclose(after.matches.std, before.matches.std / 2)
    assert (after.matches.confidence > before.matches.confidence)[before.matches.confidence < 0.8].all()


SLOW = pytest.mark.slow  # a registration takes five to ten seconds on one CPU thread


@SLOW  # test_guided.py and test_cli.py register such pairs, too
@needs_weights
@pytest.mark.parametrize("quarters", range(4))
def test_demo_pair_is_registered_at_any_rotation(registrar, quarters):
    optical, sar, truth = demo_middle(0)
    turned = np.rot90(sar, quarters)
    _, upright = MaskedImage.of(sar, None, None, "sar").turned(90 * quarters)
    truth = invert(upright) @ truth
    outcome = registrar(optical, turned)
    assert outcome.registered, outcome.reasons
    assert corner_error(outcome.matrix, truth, (256, 256)) < 2
    assert outcome.inliers.sum() >= 300
    true = transform_points(truth, outcome.matches.points0[outcome.inliers])
    errors = np.linalg.norm(true - outcome.matches.points1[outcome.inliers], axis=1)
    assert (errors < 3).mean() > 0.9
    assert 0.5 <= outcome.error_estimate < 5


@pytest.mark.slow  # 512 px
@needs_weights
def test_an_answer_that_is_only_too_inexact_is_refused_without_another_search(monkeypatch):
    monkeypatch.setattr("kornia_tar.registration.registrar.find_chip", lambda *_: pytest.fail("searched again"))
    optical, sar, truth = demo_middle(side=192)
    search, strict = SearchConfig(rotations=1, scales=(1.0,)), AcceptanceConfig(max_error=0.01)
    outcome = Registrar(TARMatcher().fuse(), RegistrarConfig(search=search, acceptance=strict))(optical, sar)
    assert outcome.probability > 0.9 and not outcome.registered and "estimated error" in outcome.reasons[0]
    assert corner_error(outcome.matrix, truth, (192, 192)) < 3


@needs_weights
def test_a_small_overview_and_tiles_reach_the_full_size(registrar):
    optical, sar, truth = demo_pair(0)
    config = RegistrarConfig(
        search=SearchConfig(side=192, scales=(1.0,)),
        alignment=AlignmentConfig(tile=256, refinements=1, max_cells=3000),
    )
    outcome = Registrar(registrar.matcher, config)(optical, sar)
    assert corner_error(outcome.matrix, truth, (512, 512)) < 2.5
    assert 1500 < len(outcome.matches) <= 3200


@SLOW
@needs_weights
@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_other_scales_are_found_and_told_in_image1s_pixels(registrar, factor):
    cv2 = pytest.importorskip("cv2")
    optical, sar, truth = demo_pair(0)
    sar = cv2.resize(sar, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    half = (factor - 1) / 2
    truth = np.array([[factor, 0, half], [0, factor, half], [0, 0, 1]]) @ truth
    outcome = registrar(optical, sar)
    assert outcome.registered, outcome.reasons
    assert corner_error(outcome.matrix, truth, (512, 512)) < 2.5 * max(1, factor)


@SLOW
@needs_weights
def test_swapped_demo_pair_gives_the_inverse(registrar):
    optical, sar, truth = demo_pair(0)
    outcome = registrar(sar, optical, modality0="sar", modality1="optical")
    assert outcome.registered, outcome.reasons
    assert corner_error(outcome.matrix, invert(truth), (512, 512)) < 2


@SLOW
@needs_weights
@pytest.mark.parametrize("side", [64, 96])
def test_small_images_do_not_agree_by_chance(registrar, side):
    # Six parameters and two dozen starts always fit a few dozen cells: what they gain a cell is large then.
    crops = [image[200 : 200 + side, 200 : 200 + side] for image in (demo_pair(0)[0], demo_pair(1)[1])]
    for images in (crops, (noise(0, side, side), noise(1, side, side))):
        outcome = registrar(*images)
        assert not outcome.registered and outcome.reasons


@SLOW  # test_guided.py refuses smaller ones
@needs_weights
def test_images_of_different_places_are_refused(registrar):
    once = Registrar(
        registrar.matcher, RegistrarConfig(search=SearchConfig(scales=(1.0,)))
    )  # the other scales only take longer
    outcome = once(demo_pair(0)[0], demo_pair(1)[1])
    assert not outcome.registered
    assert outcome.reasons


@pytest.mark.slow  # 768 px
@needs_weights
def test_a_told_scale_counts_full_pixels(registrar):
    """The larger image is reduced for the search, so that it is searched at another scale than the one that is told."""
    scene = draw_scene(0)
    optical, sar = scene.optical[:256, :256], scene.sar[:256, :256]
    finer = np.kron(sar, np.ones((3, 3), np.uint8))
    told = Registrar(registrar.matcher, RegistrarConfig(search=SearchConfig(told_scale=3.0)))
    outcome = told(optical, finer)
    assert outcome.registered, outcome.reasons
    assert corner_error(outcome.matrix, np.array([[3.0, 0, 1], [0, 3, 1], [0, 0, 1]]), (256, 256)) < 6


@needs_weights
def test_nothing_is_aligned_from_a_hopeless_pose(registrar):
    search = SearchConfig(rotations=1, scales=(1.0,), wide_scales=(), hopeless_agreement=0.999)
    strict = Registrar(registrar.matcher, RegistrarConfig(search=search))
    optical, sar, _ = demo_pair()
    outcome = strict(optical[:128, :128], sar[:128, :128])
    assert not outcome.registered and outcome.probability == 0 and not len(outcome.matches)
    assert "nothing in common that is found: of the best place cells are sure by" in outcome.reasons[0]


@SLOW
@needs_weights
def test_real_pairs_end_in_a_report(registrar):
    cv2 = pytest.importorskip("cv2")
    files = sorted((ERROR_SCALE / "data" / "bench" / "srif-opt-sar").glob("*.optical.*"))
    if not files:
        pytest.skip("no ../shared/data/bench/srif-opt-sar")
    truth = json.loads((files[0].parent / "truth.json").read_text())["pairs"]
    for file in files[:2]:
        other = file.with_name(file.name.replace(".optical.", ".sar."))
        optical, sar = (cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) for f in (file, other))
        outcome = registrar(optical, sar)
        assert outcome.report()["matches"] == len(outcome.matches) > 0
        # How many are registered is measured in eval; one that is called registered must not be far off.
        if outcome.registered:
            assert corner_error(outcome.matrix, truth[file.name.split(".")[0]]["H"], optical.shape) < 20


@needs_weights
def test_a_transform_found_elsewhere_is_judged_by_the_same_decision():
    optical, sar, truth = demo_middle()
    registrar = Registrar(TARMatcher().fuse())
    near = truth @ np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    outcome = registrar.judge(optical, sar, near)
    assert outcome.registered and outcome.probability > 0.9
    assert corner_error(outcome.matrix, truth, optical.shape[:2]) < 1.5, "and corrected"
    wrong = truth @ np.array([[1.0, 0, 60], [0, 1, 45], [0, 0, 1]])
    assert not registrar.judge(optical, sar, wrong).registered
    with pytest.raises(ValueError, match="finite and invertible"):
        registrar.judge(optical, sar, np.zeros((3, 3)))
    mirrored = truth @ np.diag([-1.0, 1, 1])
    assert "mirrors" in registrar.judge(optical, sar, mirrored).reasons[0]
