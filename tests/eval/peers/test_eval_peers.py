import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from toys import ROOT, texture

import kornia_tar
from eval import peers
from eval.datasets import open_dataset
from eval.peers.ours.tar import TAR
from kornia_tar.geometry import transform_points


def build(name):
    try:
        return peers.create(name, ROOT.parent / "shared" / "weights")
    except peers.MatcherUnavailable as reason:
        pytest.skip(f"{name}: {reason}")


SLOW = {"tar_registrar"}  # which tests/registration looks at closely


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in peers.NAMES])
def test_matches_have_their_shapes_and_lie_in_the_images(name):
    matcher = build(name)
    image0, image1 = texture(0, 128, 3), texture(0, 160)
    matches = matcher.match(image0, image1, modality0="optical", modality1="sar")
    number = len(matches.points0)
    assert matches.points0.shape == matches.points1.shape == (number, 2)
    assert matches.confidence.shape == (number,)
    for points, side in ((matches.points0, 128), (matches.points1, 160)):
        assert (points > -0.51).all()
        assert (points < side - 0.49).all()
    assert matcher.parameters >= 0
    assert matcher.settings


@pytest.mark.parametrize("name", ["sift", "sift_magsac", "phase", "aliked", "xfeat"])
def test_blank_images_give_few_or_no_matches_and_no_error(name):
    matches = build(name).match(np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.uint8))
    assert matches.points0.shape[1] == 2


# Nobody could run these here with their weights: who has them, learns from this test whether their frame is right.
UNPROVEN = ("loftr", "dedode", "eloftr", "matchanything", "roma", "romav2")


# The bounds leave room for what the networks themselves are off by; whole pixels, as of XFeat and DISK, are too coarse
# for this: see test_eval_peers_rivals.
@pytest.mark.parametrize(
    ("name", "bound"), [("sift", 0.1), ("sift_magsac", 0.1), ("aliked", 0.4), *((name, 0.3) for name in UNPROVEN)]
)
def test_pixel_centres_are_integers(name, bound, shared):
    # Twice the size puts pixel p at 2p + 0.5: a frame that counts from the corner would be half a pixel off that.
    image0 = open_dataset(shared / "data" / "val-000.tar")[0].read("volkov-s1s2-256r__257_r3c3").optical[:192, :192]
    image1 = cv2.resize(image0, (384, 384), interpolation=cv2.INTER_LINEAR)
    matches = build(name).match(image0, image1)
    truth = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    residual = transform_points(truth, matches.points0) - matches.points1
    near = residual[np.abs(residual).max(axis=1) < 2]
    assert len(near) > 30
    assert np.abs(np.median(near, axis=0)).max() < bound


def test_identity_covers_what_both_images_have():
    matches = build("identity").match(np.zeros((64, 32), np.uint8), np.zeros((32, 64), np.uint8))
    assert np.array_equal(matches.points0, matches.points1)
    assert matches.points0.max() < 32


def test_a_peer_without_weights_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.peers.store.find_packaged", lambda packaged: None)
    for name in ("aliked", "xfeat", "loftr", "disk", "aliked_lightglue", "xfeat_lighterglue"):
        with pytest.raises(peers.MatcherUnavailable, match="no weights"):
            peers.create(name, tmp_path)


def test_an_unknown_peer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"choose from .*identity, phase"):
        peers.create("magic", tmp_path)


def test_tars_settings_change_with_any_file_of_the_package(tmp_path, monkeypatch):
    package = tmp_path / "kornia_tar"
    shutil.copytree(Path(kornia_tar.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kornia_tar, "__file__", str(package / "__init__.py"))
    before = TAR(None).settings
    deep = sorted(package.glob("*/*.py"))[0]
    deep.write_text(deep.read_text() + "\n")
    assert TAR(None).settings != before
