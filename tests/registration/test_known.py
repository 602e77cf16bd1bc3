"""No image is encoded twice, and what is known is never another image's or another network's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import picture, small_matcher

from kornia_tar import AlignmentConfig, Registrar, RegistrarConfig, SearchConfig
from kornia_tar.network.frames import Steering
from kornia_tar.raster.view import MaskedImage
from kornia_tar.registration.alignment.known import KnownFrames
from kornia_tar.registration.alignment.tiled import TileEncoder

CONFIG = RegistrarConfig(
    search=SearchConfig(rotations=4, scales=(1.0,), wide_scales=(), side=96, first_side=96),
    alignment=AlignmentConfig(tile=96, magnify=1.0),
)


def view(seed: int, side: int = 64, modality: str = "optical") -> MaskedImage:
    return MaskedImage.of(picture(seed, side, side)[0, 0].numpy(), None, modality, "image")


@pytest.fixture
def matcher():
    return small_matcher()


@pytest.fixture
def encoded(matcher, monkeypatch):
    """Sizes of the images that the network encodes, in turn."""
    told, encode = [], matcher.net.encode

    def counting(image, *args, **options):
        told.append(tuple(image.shape[2:]))
        return encode(image, *args, **options)

    monkeypatch.setattr(matcher.net, "encode", counting)
    return told


@torch.no_grad()
def test_an_image_is_encoded_once_however_it_is_asked_for(matcher, encoded):
    encoder = TileEncoder(matcher, 64, 1000)
    first = encoder.frame(view(0))
    assert encoder.encode(view(0)) is first.features
    assert encoder.to_match(view(0)).coarse is first.features.coarse
    assert len(encoded) == 1
    encoder.encode(view(0, modality="sar"))
    encoder.encode(replace(view(0), mask=view(0).image > 0.3))
    encoder.encode(view(1))
    assert len(encoded) == 4


@torch.no_grad()
def test_what_an_image_sees_in_itself_changes_no_match(matcher):
    encoder = TileEncoder(matcher, 64, 1000)
    masked = replace(view(1), mask=view(1).image > 0.2)
    known = encoder.match(encoder.to_match(view(0)), encoder.to_match(masked))
    plain = encoder.match(encoder.encode(view(0), again=False), encoder.encode(masked, again=False))
    for a, b in zip(known, plain, strict=True):
        assert torch.equal(a, b)


def test_many_images_on_one_base_encode_it_once_and_register_as_alone(matcher, encoded):
    base, others = picture(0, 96, 96)[0, 0].numpy(), [picture(seed, 96, 96)[0, 0].numpy() for seed in (1, 2)]
    registrar = Registrar(matcher, CONFIG)
    found, counts = [], []
    for other in others:
        encoded.clear()
        found.append(registrar(base, other))
        counts.append(len(encoded))
    encoded.clear()
    alone = Registrar(matcher, CONFIG)(base, others[1])
    assert len(encoded) > counts[1]
    for a, b in ((alone, found[1]), (alone, registrar.with_config(CONFIG)(base, others[1]))):
        assert a.probability == b.probability
        np.testing.assert_array_equal(a.matrix, b.matrix)


@torch.no_grad()
def test_another_network_or_another_word_to_ignore_forgets_all(matcher, encoded):
    known = KnownFrames()
    ask = lambda: TileEncoder(matcher, 64, 1000, known=known).encode(view(0))  # noqa: E731
    before = ask()
    assert ask() is before
    matcher.net.msfl.top8.weight.mul_(1.5)
    after = ask()
    assert not torch.equal(after.coarse, before.coarse)
    known.trust(matcher.net)
    matcher.net.steering = Steering(torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool))
    known.trust(matcher.net)
    assert known.get(view(0)) is None


@torch.no_grad()
def test_what_was_not_asked_for_longest_is_forgotten_first(matcher):
    known = KnownFrames(2 * 64 * 64)
    encoder = TileEncoder(matcher, 64, 1000, known=known)
    for seed in (0, 1, 0, 2):
        encoder.encode(view(seed))
    assert [known.get(view(seed)) is not None for seed in (0, 1, 2)] == [True, False, True]
    encoder.encode(view(3, side=128))  # larger than all that is kept
    assert known.get(view(0)) is not None and known.get(view(3, side=128)) is None
