"""Descriptors, the registry of priors, the priors without an encoder, and class embedding."""

import sys
import tomllib
from pathlib import Path

import pytest
import torch

import kornia_tar.text as text
from kornia_tar.text import (
    NAMES,
    OPTICAL_TEMPLATES,
    SAR_TEMPLATES,
    TEMPLATES,
    LearnedPrior,
    NonePrior,
    RandomPrior,
    TextBank,
    TextPrior,
    available_text_priors,
    embed_classes,
    load_text_prior,
    prompts,
    templates_for,
)

ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = {"remoteclip", "open_clip", "bank", "none", "random", "learned"}


def test_library_is_a_clean_set_of_names():
    assert 35 <= len(NAMES) <= 45
    assert len({name.lower() for name in NAMES}) == len(NAMES)
    assert set(text.LANDCOVER_NAMES) | set(text.SCENE_NAMES) == set(NAMES)
    assert {"water", "river", "cropland", "forest", "road", "bridge", "building", "industrial area"} <= set(NAMES)
    assert all(d.name.strip() == d.name and d.optical and d.sar for d in text.DESCRIPTORS)
    assert templates_for("optical") == OPTICAL_TEMPLATES and templates_for("sar") == SAR_TEMPLATES
    with pytest.raises(ValueError, match="use 'optical' or 'sar'"):
        templates_for("lidar")


def test_prompts_go_name_by_name():
    assert prompts(["river", "road"], ["a {}", "SAR {x} of {}"]) == (
        "a river",
        "SAR {x} of river",
        "a road",
        "SAR {x} of road",
    )
    assert len(prompts(NAMES)) == len(NAMES) * len(TEMPLATES)


@pytest.mark.parametrize(
    ("names", "templates", "kind", "message"),
    [
        ("river", ["{}"], TypeError, "put it in a list"),
        (["river"], "a {}", TypeError, "put it in a list"),
        ([3], ["{}"], TypeError, "got int"),
        ([""], ["{}"], ValueError, "empty"),
        (["river"], ["a photo"], ValueError, "exactly one"),
        (["river"], ["{} and {}"], ValueError, "exactly one"),
    ],
)
def test_wrong_prompts(names, templates, kind, message):
    with pytest.raises(kind, match=message):
        prompts(names, templates)


def test_built_in_names_are_those_of_pyproject():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(declared["kornia_tar.text_priors"]) == BUILT_IN
    assert set(available_text_priors()) >= BUILT_IN
    from kornia_tar.text.prior import _BUILT_IN

    assert declared["kornia_tar.text_priors"] == _BUILT_IN


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'remoteklip': known are bank, .*learned, none, .*remoteclip"):
        load_text_prior("remoteklip")


def test_wrong_options_are_named():
    with pytest.raises(TypeError, match=r"text prior 'bank': missing a required argument: 'path'"):
        load_text_prior("bank")
    with pytest.raises(TypeError, match=r"text prior 'random': .*'sead'.*it takes dim, seed"):
        load_text_prior("random", sead=1)


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """An installed package with three entry points: a good one, a bad one, and one that wants a built-in name."""
    (tmp_path / "other_text.py").write_text(
        "import torch\n"
        "class Good:\n"
        "    name, dim = 'good', 2\n"
        "    def encode(self, prompts):\n"
        "        return torch.eye(2)[[len(p) % 2 for p in prompts]]\n"
        "class Bad:\n"
        "    name = 'bad'\n"
    )
    info = tmp_path / "other_text-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-text\nVersion: 1.0\n")
    lines = ["good = other_text:Good", "bad = other_text:Bad", "random = other_text:Good"]
    (info / "entry_points.txt").write_text("\n".join(["[kornia_tar.text_priors]", *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("other_text", None)


def test_other_packages_are_found(other_package):
    assert set(available_text_priors()) >= BUILT_IN | {"good", "bad"}
    prior = load_text_prior("good")
    assert isinstance(prior, TextPrior)
    bank = embed_classes(prior, ["a", "bb"], ["{}"])
    assert (bank.encoder, bank.features.tolist()) == ("good", [[0.0, 1.0], [1.0, 0.0]])
    assert isinstance(load_text_prior("random"), RandomPrior)
    with pytest.raises(TypeError, match="other_text:Bad has no name, dim and encode"):
        load_text_prior("bad")


def test_none_has_no_features():
    prior = load_text_prior("none")
    assert isinstance(prior, NonePrior) and isinstance(prior, TextPrior)
    assert prior.dim == 0 and prior.encode(["a", "b"]).shape == (2, 0)
    with pytest.raises(ValueError, match="'none' has no features"):
        embed_classes(prior, ["a"])


def test_random_depends_on_prompt_and_seed_only():
    prior = load_text_prior("random", dim=512, seed=3)
    both = prior.encode(["river", "road"])
    assert both.shape == (2, 512) and both.dtype == torch.float32
    assert torch.allclose(both.norm(dim=1), torch.ones(2))
    assert torch.equal(prior.encode(["road"])[0], both[1])
    assert abs(both[0] @ both[1]) < 0.2
    assert not torch.allclose(RandomPrior(512, seed=4).encode(["river"])[0], both[0])
    assert RandomPrior(512).encode([]).shape == (0, 512)
    with pytest.raises(ValueError, match="at least 1"):
        RandomPrior(dim=0)
    with pytest.raises(TypeError, match="put it in a list"):
        prior.encode("river")


def test_random_is_the_same_everywhere():
    # Written down from the definition: sha256 of "0\0river" seeds numpy's default generator.
    expected = torch.tensor([0.4330485165119171, 0.21461737155914307, 0.8137572407722473, 0.32281187176704407])
    assert torch.allclose(RandomPrior(dim=4).encode(["river"])[0], expected, atol=1e-6)


def test_learned_starts_random_and_says_so():
    prior = load_text_prior("learned", dim=16)
    assert isinstance(prior, LearnedPrior) and prior.learned and prior.name == "learned"
    assert torch.equal(prior.encode(["river"]), RandomPrior(16).encode(["river"]))
    assert not getattr(RandomPrior(16), "learned", False)


def test_embed_classes_is_the_normalised_mean():
    prior = RandomPrior(dim=32)
    templates = ("a photo of {}", "a SAR image of {}")
    bank = embed_classes(prior, ["river", "road"], templates)
    expected = prior.encode(["a photo of road", "a SAR image of road"]).mean(0)
    assert torch.allclose(bank.features[1], expected / expected.norm(), atol=1e-6)
    assert (bank.names, bank.templates, bank.encoder) == (("river", "road"), templates, "random 32 seed 0")
    everything = embed_classes(prior)
    assert everything.names == NAMES and everything.templates == TEMPLATES


def test_embed_classes_takes_the_rows_of_a_bank(tmp_path):
    path = tmp_path / "bank.npz"
    TextBank(("a", "b"), torch.eye(2), "e", ("my {}",)).save(path)
    prior = load_text_prior("bank", path=path)
    bank = embed_classes(prior, ["b"])
    assert (bank.names, bank.features.tolist(), bank.templates) == (("b",), [[0.0, 1.0]], ("my {}",))
    with pytest.raises(ValueError, match="pass names only"):
        embed_classes(prior, ["b"], ["a {}"])


def test_embed_classes_checks_the_prior():
    class NotUnit(RandomPrior):
        def encode(self, prompts):
            return 2 * super().encode(prompts)

    class Short(RandomPrior):
        def encode(self, prompts):
            return super().encode(prompts)[:-1]

    for prior in (NotUnit(8), Short(8)):
        with pytest.raises(ValueError, match="unit rows"):
            embed_classes(prior, ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        embed_classes(RandomPrior(8), [])


@pytest.mark.parametrize("name", ["remoteclip", "open_clip"])
def test_missing_open_clip_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)  # what Python itself does for "cannot be imported"
    weights = tmp_path / "weights.pt"
    weights.touch()
    with pytest.raises(ImportError, match=r"pip install kornia-tar\[text\]"):
        load_text_prior(name, **{"checkpoint" if name == "remoteclip" else "pretrained": weights})
