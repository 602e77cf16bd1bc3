"""Pairs side by side: what threads ask for at once is encoded in one batch, and each gets its own."""

from __future__ import annotations

import copy
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from helpers import picture, small_matcher
from torch.testing import assert_close

from kornia_tar import Registrar
from kornia_tar.registration.alignment import batches
from kornia_tar.registration.alignment.batches import EncodingBatches, Stopped, stoppable


@pytest.fixture
def net():
    return small_matcher().net


def gray(seed: int, width: int = 64) -> torch.Tensor:
    return picture(seed, 64, width)[:, :1]


OPTICAL = torch.tensor([[1.0, 0.0]])
MASK = torch.ones(1, 1, 64, 64).index_fill_(3, torch.arange(20), 0.0)
ASKED = [(gray(0), None), (gray(1), None), (gray(2), MASK), (gray(3, 96), None), (gray(4), None), (gray(5), MASK)]


@torch.no_grad()
def ask_all(net, wait_for: int) -> list:
    """Ask for all images at once, a thread each; the first batch is held until so many more wait."""
    found: list = [None] * len(ASKED)
    encode, begun = net._encode, threading.Event()

    def late(*args):
        if not begun.is_set():
            begun.set()
            while sum(map(len, list(net.batches._waiting.values()))) < wait_for:
                time.sleep(0.001)
        return encode(*args)

    net._encode = late

    def ask(k: int) -> None:
        with torch.no_grad():
            try:
                found[k] = net.encode(ASKED[k][0], OPTICAL, ASKED[k][1])
            except BaseException as error:
                found[k] = error

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(ASKED))]
    threads[0].start()
    begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_what_is_asked_for_at_once_is_one_batch_a_kind(net):
    with torch.no_grad():
        alone = [net.encode(image, OPTICAL, mask) for image, mask in ASKED]
    net.batches = EncodingBatches()
    for one, other in zip(ask_all(net, len(ASKED) - 1), alone, strict=True):
        assert_close(one.coarse, other.coarse, rtol=1e-4, atol=1e-5)
        assert_close(one.fine, other.fine, rtol=1e-4, atol=1e-5)
        assert (one.mask is None) == (other.mask is None)
        assert other.mask is None or torch.equal(one.mask, other.mask)
        assert one.fine.untyped_storage().size() <= other.fine.untyped_storage().size(), "a part keeps the whole batch"
    assert net.batches.sizes == {1: 2, 2: 2}, "the first, the wide one, two with a mask, two without"


def test_a_batch_has_a_bound(net, monkeypatch):
    monkeypatch.setattr(batches, "MOST_PIXELS", 64 * 64)
    net.batches = EncodingBatches()
    assert all(isinstance(one.coarse, torch.Tensor) for one in ask_all(net, len(ASKED) - 1))
    assert net.batches.sizes == {1: 6}


@torch.no_grad()
def test_who_is_to_stop_stops_and_others_go_on(net):
    net.batches, stop = EncodingBatches(), threading.Event()
    with stoppable(stop):
        net.encode(gray(0), OPTICAL)
        stop.set()
        with pytest.raises(Stopped):
            net.encode(gray(0), OPTICAL)
    assert net.encode(gray(0), OPTICAL).coarse.isfinite().all()


def test_a_batch_that_does_not_fit_is_encoded_image_by_image_and_a_fault_is_told_to_its_image_alone(net):
    net.batches, encode = EncodingBatches(), net._encode

    def small_memory(image, *more):
        if len(image) > 1 or image.shape[3] == 96:
            raise torch.OutOfMemoryError("no room")
        return encode(image, *more)

    net._encode = small_memory
    found = ask_all(net, len(ASKED) - 1)
    assert [isinstance(one, torch.OutOfMemoryError) for one in found] == [False] * 3 + [True] + [False] * 2
    assert all(one.coarse.isfinite().all() for one in found if not isinstance(one, BaseException))


def test_rows_that_do_not_fit_keep_nobody_waiting(net, monkeypatch):
    """Where the copies failed, whoever waited for one asked for a batch of none for ever."""

    def fail(features, k):
        raise torch.OutOfMemoryError("no room")

    net.batches = EncodingBatches()
    monkeypatch.setattr(batches, "_row", fail)
    assert all(isinstance(one.coarse, torch.Tensor) for one in ask_all(net, len(ASKED) - 1))


def test_a_copy_encodes_for_itself(net):
    net.batches = EncodingBatches()
    assert copy.deepcopy(net).batches is None
    registrar = Registrar(small_matcher())
    registrar.in_batches()
    copied = pickle.loads(pickle.dumps(registrar))
    assert copied.matcher.net.batches is None and copied._known.pixels == registrar._known.pixels


@torch.no_grad()
def test_training_and_batches_of_images_pass_by(net):
    net.batches = EncodingBatches()
    net.encode(torch.cat([gray(0), gray(1)]), OPTICAL.expand(2, 2))
    net.encode(gray(0), None)
    with torch.enable_grad():
        net.encode(gray(0), OPTICAL)
    assert not net.batches.sizes


def test_many_pairs_end_as_each_alone_in_their_order():
    registrar = Registrar(small_matcher())
    images = [picture(seed, 64 + 16 * (seed % 2), 64)[0, 0].numpy() for seed in range(5)]
    pairs = [
        {"image0": a, "image1": b, "modality1": "optical"} for a, b in zip(images, images[1:] + images[:1], strict=True)
    ]
    pairs.append({"image0": images[0], "image1": images[0], "modality1": "optical"})
    alone = [Registrar(registrar.matcher)(**pair) for pair in pairs]
    found = list(registrar.many(iter(pairs), at_once=3))
    assert len(found) == len(alone) == 6
    for one, other in zip(found, alone, strict=True):
        assert one.registered == other.registered and one.probability == pytest.approx(other.probability, abs=1e-3)
        if other.registered:
            np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-3)


def test_a_pair_that_is_wrong_raises_in_its_turn_and_ends_all():
    registrar = Registrar(small_matcher())
    good = {"image0": picture(0, 64, 64)[0, 0].numpy(), "image1": picture(1, 64, 64)[0, 0].numpy()}
    run = registrar.many([good, good | {"image1": "no image"}, good], at_once=2)
    next(run)
    with pytest.raises((TypeError, ValueError), match="image1"):
        next(run)
    assert registrar(**good).reasons, "and it goes on"
    with pytest.raises(ValueError, match="at least 1"):
        list(registrar.many([good], at_once=0))


def test_runs_beside_each_other_do_not_stop_each_other():
    registrar = Registrar(small_matcher())
    good = {"image0": picture(0, 64, 64)[0, 0].numpy(), "image1": picture(1, 64, 64)[0, 0].numpy()}
    one, other = registrar.many([good] * 3, at_once=2), registrar.many([good] * 4, at_once=2)
    assert [a.registered == b.registered for a, b in zip(one, other, strict=False)] == [True] * 3
    other.close()
    assert registrar(**good).reasons
