"""GuidedMatcher: TARMatcher's contract, matches of one registration or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    KEYS,
    SMALL,
    assert_same_matches,
    check_contract,
    demo_middle,
    lively_net,
    needs_weights,
    pair,
    paired,
    picture,
)

from kornia_tar import AcceptanceConfig, AlignmentConfig, GuidedMatcher, RegistrarConfig, SearchConfig, TransformLimits
from kornia_tar.geometry import transform_points

# Gates that let everything through: what an untrained network finds must keep the contract, too.
OPEN = RegistrarConfig(
    search=SearchConfig(side=96, scales=(1.0,)),
    alignment=AlignmentConfig(tile=96, refinements=1, min_cells=1),
    acceptance=AcceptanceConfig(
        min_probability=0, min_trimmed_excess=-1e9, min_block_agreement=0.0, limits=TransformLimits(1e6, 1e9, 1e9)
    ),
)


def guided(**options) -> GuidedMatcher:
    matcher = GuidedMatcher(None, SMALL, **{"threshold": 0.0, "registrar": OPEN, **options})
    matcher.net = lively_net()
    return matcher.eval()


def check_guided(out: dict, data: dict) -> None:
    """TARMatcher's contract, and two keys more that say something of each pair."""
    assert set(out) == KEYS | {"probability", "reasons"}
    check_contract({key: out[key] for key in KEYS}, data)
    batch, probability = len(data["image0"]), out["probability"]
    assert probability.shape == (batch,) and probability.dtype == out["confidence"].dtype
    assert ((probability >= 0) & (probability <= 1)).all()
    assert len(out["reasons"]) == batch and all(isinstance(told, tuple) for told in out["reasons"])
    refused = {b for b, told in enumerate(out["reasons"]) if told}
    assert not refused & set(out["batch_indexes"].tolist())


@pytest.mark.parametrize("batch", [1, 2])
def test_the_contract_holds(batch):
    data = pair(64, 80, 64, 80, batch=batch)
    data["image1"] = data["image0"].roll(4, 3)
    out = guided()(data)
    check_guided(out, data)
    assert out["reasons"] == [()] * batch
    assert len(out["confidence"]) > 20
    assert set(out["batch_indexes"].tolist()) == set(range(batch))


def test_exchanged_images_give_exchanged_matches():
    image = picture(1, 64, 80)
    one, two = image, image.roll(3, 2) * 0.9
    there, back = guided()({"image0": one, "image1": two}), guided()({"image0": two, "image1": one})
    back = {**back, "keypoints0": back["keypoints1"], "keypoints1": back["keypoints0"]}
    assert_same_matches(paired(there), paired(back))


def test_a_batch_gives_what_single_pairs_give():
    data = pair(64, 64, 64, 64, batch=2)
    data["image1"] = data["image0"].roll((2, 5), (2, 3))
    together = guided()(data)
    for b in range(2):
        alone = guided()({key: image[b : b + 1] for key, image in data.items()})
        mine = together["batch_indexes"] == b
        torch.testing.assert_close(together["keypoints1"][mine], alone["keypoints1"])


def test_masks_modalities_and_budget_are_heeded():
    data = pair(64, 80, 64, 80)
    data["image1"] = data["image0"].clone()
    mask = torch.ones(1, 64, 80)
    mask[..., :40] = 0
    out = guided(max_keypoints=15)({**data, "mask0": mask, "modality0": "sar", "modality1": "sar"})
    assert 0 < len(out["confidence"]) <= 15
    assert (out["keypoints0"][:, 0] >= 39).all()


def test_a_refused_pair_has_no_matches_but_reasons():
    data = pair()
    strict = replace(OPEN, acceptance=AcceptanceConfig(min_probability=1))
    out = guided(registrar=strict)(data)
    check_guided(out, data)
    assert len(out["confidence"]) == 0
    assert any("probability that it is right" in reason for reason in out["reasons"][0])


@pytest.mark.parametrize("flat", [0, 1])
def test_reasons_name_the_images_by_their_place(flat):
    """Whichever of them the registrar takes for the reference; of a batch each pair has its own."""
    data = pair(64, 80, 64, 80, batch=2)
    data[f"image{1 - flat}"] = data["image0"].clone()
    data[f"image{flat}"] = torch.stack([torch.zeros(1, 64, 80), data["image0"][1].roll(4, 2)])
    out = guided()(data)
    check_guided(out, data)
    assert out["reasons"] == [(f"image{flat} is flat: all its valid pixels are alike",), ()]
    assert out["probability"][0] == 0


@pytest.mark.parametrize("data", [{}, {"image0": torch.rand(1, 1, 64, 64)}])
def test_wrong_input_is_named_as_by_tarmatcher(data):
    with pytest.raises(TypeError, match="image"):
        guided()(data)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).float().view(*image.shape[:2], -1).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
def shipped() -> GuidedMatcher:
    return GuidedMatcher(registrar=RegistrarConfig(search=SearchConfig(rotations=1, scales=(1.0,))))


@needs_weights
def test_the_demo_pair(shipped):
    optical, sar, truth = demo_middle(0)
    out = shipped({"image0": tensor(optical), "image1": tensor(sar)})
    points0, points1 = (out[f"keypoints{k}"].double().numpy() for k in (0, 1))
    error = np.linalg.norm(transform_points(truth, points0) - points1, axis=1)
    assert len(error) > 500 and (error < 3).mean() > 0.8


@needs_weights
def test_a_mismatched_pair_has_no_matches(shipped):
    optical, other = demo_middle(0, 128)[0], demo_middle(1, 128)[1]
    assert len(shipped({"image0": tensor(optical), "image1": tensor(other)})["confidence"]) == 0
