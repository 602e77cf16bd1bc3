"""The adapters: the frame of their points, what they load, and the reasons they give where they cannot run."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from toys import texture

from eval import peers
from eval.peers.store import Store, downloads
from kornia_tar.geometry import transform_points


def untrained(name, tmp_path):
    return peers.create(name, tmp_path, untrained=True)


def warped(matrix, size=192):
    """A texture and the same through a matrix that maps image0 to image1."""
    image0 = texture(3, size)
    return image0, cv2.warpAffine(image0, matrix[:2], (size, size), flags=cv2.INTER_CUBIC)


def similarity(angle, scale, shift, size=192):
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, scale)
    matrix[:2, 2] += shift
    return matrix


@pytest.mark.parametrize(
    "turn", [(0, 1, (0, 0)), (0, 1, (11, -6)), (20, 1.2, (5, 3)), (-35, 0.8, (-9, 6)), (170, 1, (4, 0))]
)
def test_phase_correlation_finds_a_similarity(turn, tmp_path):
    truth = similarity(*turn)
    matches = peers.create("phase", tmp_path).match(*warped(truth))
    assert len(matches.points0) > 50
    assert np.linalg.norm(transform_points(truth, matches.points0) - matches.points1, axis=1).max() < 2.5


def test_phase_correlation_takes_images_of_two_sizes(tmp_path):
    image = texture(4, 160)
    matches = peers.create("phase", tmp_path).match(image, image[16:144, 8:136])
    assert np.abs(matches.points0 - (8, 16) - matches.points1).max() < 1


def test_magsac_keeps_what_agrees(tmp_path):
    truth = similarity(10, 1.1, (3, -4))
    plain, kept = (peers.create(name, tmp_path).match(*warped(truth)) for name in ("sift", "sift_magsac"))
    assert 20 < len(kept.points0) <= len(plain.points0)
    assert np.linalg.norm(transform_points(truth, kept.points0) - kept.points1, axis=1).max() < 4


def test_magsac_without_a_model_leaves_nothing(tmp_path):
    matches = peers.create("sift_magsac", tmp_path).match(np.zeros((64, 64), np.uint8), texture(0, 64))
    assert matches.points0.shape == (0, 2)


@pytest.mark.parametrize("name", ["aliked", "xfeat"])
def test_a_known_shift_is_found_to_the_pixel(name, shared):
    from eval.datasets import open_dataset

    image = open_dataset(shared / "data" / "val-000.tar")[0].read("volkov-s1s2-256r__257_r3c3").optical
    matches = peers.create(name, shared / "weights").match(image[:192, :192], image[7:199, 5:197])
    shift = matches.points0 - matches.points1
    near = np.abs(shift - (5, 7)).max(axis=1) < 2
    assert near.mean() > 0.5
    assert np.allclose(np.median(shift[near], axis=0), (5, 7), atol=0.1)


def test_loftr_counts_its_cells_from_half_a_pixel_off(tmp_path):
    from eval.peers.learned.loftr import LoFTR

    image = texture(0, 67)
    matches = LoFTR(Store(tmp_path, untrained=True), threshold=0.0).match(image, image)
    assert len(matches.points0) > 0
    assert np.allclose((matches.points0 + 0.5) % 8, 0)


def test_loftr_has_its_own_configuration(tmp_path):
    from kornia.feature.loftr.loftr import default_cfg

    from eval.peers.learned.loftr import LoFTR

    before = default_cfg["match_coarse"]["thr"]
    LoFTR(Store(tmp_path, untrained=True), threshold=0.9)
    assert default_cfg["match_coarse"]["thr"] == before


@pytest.mark.parametrize("name", ["disk", pytest.param("dedode", marks=pytest.mark.slow)])
def test_detectors_give_whole_pixels_within_the_image(name, tmp_path, monkeypatch):
    monkeypatch.setattr(f"eval.peers.learned.{name}.FEATURES", 64)
    matcher = untrained(name, tmp_path)
    matcher._glue.conf.filter_threshold = 0.0
    image = texture(0, 60)[:50]
    matches = matcher.match(image, np.stack([image] * 3, -1))
    assert len(matches.points0) > 0
    assert np.allclose(matches.points0, matches.points0.round(), atol=1e-4)
    assert (matches.points0.min(axis=0) > -0.01).all()
    assert (matches.points0.max(axis=0) < (59.01, 49.01)).all()


@pytest.mark.slow
def test_disk_and_lightglue_load_the_names_they_were_published_with(tmp_path):
    disk = untrained("disk", tmp_path)
    old = {}
    for name, value in disk._glue.state_dict().items():
        head, _, rest = name.partition(".")
        if head == "transformers":
            layer, block, rest = rest.split(".", 2)
            name = f"{block}.{layer}.{rest}"
        old[name] = value
    for path, state in (
        ("disk/depth-save.pth", {"extractor": disk._net.state_dict()}),
        ("lightglue/disk_lightglue.pth", old),
    ):
        (tmp_path / path).parent.mkdir()
        torch.save(state, tmp_path / path)
    read = peers.create("disk", tmp_path)
    assert read.name == "DISK + LightGlue"
    for one, two in ((disk._net, read._net), (disk._glue, read._glue)):
        assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_random_weights_are_named(tmp_path):
    matcher = untrained("disk", tmp_path)
    assert matcher.name == "DISK + LightGlue (random weights)"
    assert "random weights" in matcher.settings
    assert untrained("sift", tmp_path).name == "RootSIFT"


@pytest.mark.slow  # for the import of transformers
class TestEfficientLoFTR:
    @pytest.fixture(autouse=True)
    def needs_transformers(self):
        pytest.importorskip("transformers")

    def test_points_come_back_to_the_images_sizes_and_to_our_frame(self, tmp_path):
        from eval.peers.learned.eloftr import EfficientLoFTR

        shapes = []

        def net(pixels):
            shapes.append(tuple(pixels.shape))
            points = torch.tensor([[[0.5, 0.375]], [[0.5, 0.5]]])  # of the canvas: the middle of either image
            found = torch.zeros(1, 2, 1, dtype=torch.long)
            return SimpleNamespace(keypoints=points[None], matches=found, matching_scores=torch.ones(1, 2, 1))

        matcher = EfficientLoFTR(Store(tmp_path, untrained=True), side=128)
        matcher.net = net
        matches = matcher.match(texture(0, 64)[:48], texture(0, 32))
        assert shapes == [(1, 2, 3, 128, 128)]
        assert matches.points0.tolist() == [[31.5, 23.5]]
        assert matches.points1.tolist() == [[15.5, 15.5]]

    def test_both_ends_of_a_match_stand_in_one_slot(self):
        from transformers import EfficientLoFTRConfig

        from eval.peers.learned.eloftr import corrected

        net = corrected()(EfficientLoFTRConfig())
        scores = torch.zeros(1, 8, 8, 8, 8)
        scores[0, 3, 2, 4, 5], scores[0, 5, 5, 2, 2], scores[0, 0, 0, 3, 3] = 0.9, 0.8, 0.7
        indices, values = net._get_matches_from_scores(scores)
        kept = indices[0, 0] >= 0
        assert indices[0, :, kept].T.tolist() == [[3 * 8 + 2, 4 * 8 + 5], [5 * 8 + 5, 2 * 8 + 2]]
        assert torch.allclose(values[0, 0, kept], torch.tensor([0.9, 0.8]))

    def test_the_fine_stage_finds_the_pixel(self):
        from transformers import EfficientLoFTRConfig

        from eval.peers.learned.eloftr import corrected

        generator = torch.Generator().manual_seed(0)
        number = torch.arange(20)
        x, y = torch.randint(7, (20,), generator=generator), torch.randint(8, (20,), generator=generator)
        around = torch.randn(1, 20, 12, 12, 64, generator=generator) / 10
        around[0, number, 2 + y, 2 + x] *= 100  # what the two windows share
        window0 = around[:, :, 2:10, 2:10].flatten(2, 3)
        window1 = around[:, :, 1:11, 0:10].flatten(2, 3)  # its middle starts one pixel to the left of window0
        net = corrected()(EfficientLoFTRConfig(fine_matching_regress_temperature=1e6))  # no expectation moves it
        points = net._fine_matching(window0, window1, torch.zeros(1, 2, 20, 2), 1)
        assert torch.allclose(points[0, 0], torch.stack([x, y], 1) - 3.5)
        assert torch.allclose(points[0, 1], torch.stack([x + 1, y], 1) - 3.5, atol=0.05)

    def test_it_reads_a_folder_of_the_hub_and_refuses_half_of_one(self, tmp_path):
        from safetensors.torch import load_file, save_file

        folder = tmp_path / "efficientloftr"
        untrained("eloftr", tmp_path).net.save_pretrained(folder)
        assert peers.create("eloftr", tmp_path).name == "EfficientLoFTR"
        state = load_file(folder / "model.safetensors")
        save_file(dict(list(state.items())[1:]), folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(peers.MatcherUnavailable, match="do not fit"):
            peers.create("eloftr", tmp_path)


class Dense:
    """Stands for RoMa's and RoMa v2's networks, which are not here: one match in each image's middle."""

    encoder = SimpleNamespace(dinov2_vitl14=[torch.nn.Linear(2, 2)])

    def __init__(self, *_, **__):
        self.weight = torch.nn.Parameter(torch.zeros(3))

    @staticmethod
    def Cfg(**_):
        return None

    def eval(self):
        return self

    def parameters(self):
        return iter([self.weight])

    def match(self, *images, **_):
        return (images, None) if not isinstance(images[0], torch.Tensor) else images

    def sample(self, *_, **__):
        return torch.zeros(1, 4), torch.ones(1), None, None

    @staticmethod
    def to_pixel_coordinates(found, height0, width0, height1, width1):
        sides = torch.tensor([width0, height0, width1, height1]) / 2
        return ((found + 1) * sides).split(2, -1)


@pytest.mark.parametrize("name", ["roma", "romav2"])
def test_the_middle_of_an_image_is_half_its_side_less_half_a_pixel(name, tmp_path, monkeypatch):
    module = ModuleType("romatch" if name == "roma" else "romav2")
    module.roma_outdoor = module.RoMaV2 = Dense
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(f"eval.peers.learned.{name}.version", lambda _: "0")
    for path in ("roma/roma_outdoor.pth", "roma/dinov2_vitl14_pretrain.pth", "romav2/checkpoints/romav2.0.1.pt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({}, tmp_path / path)
    if name == "roma":  # RoMa gives two values where v2 gives four
        monkeypatch.setattr(Dense, "sample", lambda *_, **__: (torch.zeros(1, 4), torch.ones(1)))
    else:
        monkeypatch.setattr(Dense, "sample", lambda *_: (torch.zeros(1, 4), torch.ones(1), None, None))
    before = torch.hub.get_dir()
    matches = peers.create(name, tmp_path).match(texture(0, 64)[:48], texture(0, 32))
    assert torch.hub.get_dir() == before
    assert matches.points0.tolist() == [[31.5, 23.5]]
    assert matches.points1.tolist() == [[15.5, 15.5]]


class Wrapped(torch.nn.Module):
    def forward(self, image0, image1):
        assert image0.shape == (3, 48, 64)
        assert image1.shape == (3, 32, 32)
        points = np.array([[4.5, 8.5], [40.0, 20.0]])
        return {"matched_kpts0": points, "matched_kpts1": points, "matched_confidences": None}


@pytest.mark.parametrize(("variant", "expected"), [("xoftr", [[4, 8]]), ("xfeat", [[4.5, 8.5]])])
def test_vismatch_gives_its_points_in_our_frame(variant, expected, tmp_path, monkeypatch):
    module = ModuleType("vismatch")
    module.available_models, module.get_matcher = ["xoftr", "xfeat"], lambda *_, **__: Wrapped()
    monkeypatch.setitem(sys.modules, "vismatch", module)
    monkeypatch.setattr("eval.peers.learned.vismatch.version", lambda _: "0")
    matcher = peers.create(f"vismatch:{variant}", tmp_path)
    matches = matcher.match(texture(0, 64)[:48], texture(0, 32))
    assert matcher.name == f"{variant} (vismatch)"
    assert matches.points0.tolist() == expected  # the second match lies outside image1
    with pytest.raises(ValueError, match="no matcher 'magic'"):
        peers.create("vismatch:magic", tmp_path)


@pytest.mark.parametrize(
    ("name", "package", "file"),
    [
        ("aliked", None, "aliked/aliked-n16.pth"),
        ("disk", None, "disk/depth-save.pth"),
        ("dedode", None, "dedode/dedode_detector_L_v2.pth"),
        ("eloftr", "transformers", "efficientloftr/config.json"),
        ("matchanything", "transformers", "matchanything_eloftr/config.json"),
        ("roma", "romatch", "roma/roma_outdoor.pth"),
        ("romav2", "romav2", "romav2/checkpoints/romav2.0.1.pt"),
        ("vismatch:xoftr", "vismatch", None),
    ],
)
def test_the_reason_says_what_to_do(name, package, file, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.peers.store.find_packaged", lambda packaged: None)
    if package:
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
        with pytest.raises(peers.MatcherUnavailable, match=f"needs {package}: pip install"):
            peers.create(name, tmp_path)
        monkeypatch.undo()
    if file and (package in (None, "transformers") and (package is None or pytest.importorskip(package))):
        with pytest.raises(
            peers.MatcherUnavailable, match=rf"no weights \({file} is not in the weights folder; it comes from http"
        ):
            peers.create(name, tmp_path)


def test_libraries_fetch_nothing_unless_allowed(tmp_path):
    with downloads(False), pytest.raises(peers.MatcherUnavailable, match="not opted for"):
        torch.hub.load_state_dict_from_url("https://example.invalid/weights.pth", str(tmp_path))


@pytest.mark.parametrize("name", ["magic", "vismatch", "vismatch:", "sift:fast"])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(ValueError, match="is unknown: choose from arosics"):
        peers.create(name, tmp_path)


def test_help_lists_every_matcher():
    listed = [line.split()[0].rstrip(",") for line in peers.describe().splitlines()]
    assert listed == [*peers.NAMES, "vismatch:<name>", "<module>:<factory>"]
