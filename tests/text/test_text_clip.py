"""RemoteCLIP and open_clip, on files of the real format with random weights: a tiny model, and the real sizes."""

import json
import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kornia_tar.text import TextPrior, embed_classes, load_text_prior

if find_spec("open_clip") is None:  # not imported here: that takes every worker ten seconds
    pytest.skip("open_clip is not installed: pip install kornia-tar[text]", allow_module_level=True)

TINY = "kornia-tar-test-tiny"
PROMPTS = ["a SAR image of a river", "an optical satellite image of cropland", "water"]


@pytest.fixture(scope="module", autouse=True)
def tiny_model(tmp_path_factory):
    """Register two tiny models with open_clip, the second of another depth, the third with a Hugging Face encoder."""
    folder = tmp_path_factory.mktemp("configs")
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    for name, text in (
        (TINY, {"width": 32, "heads": 2, "layers": 2}),
        (f"{TINY}-deep", {"width": 32, "heads": 2, "layers": 3}),
        (f"{TINY}-wide", {"width": 48, "heads": 2, "layers": 2}),
        (f"{TINY}-hf", {"hf_model_name": "nobody/nothing"}),
    ):
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(config))
    import open_clip

    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def tiny(tiny_model):
    import open_clip

    torch.manual_seed(1)
    return open_clip.create_model(TINY).eval()


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "RemoteCLIP-tiny.pt"
    torch.save(tiny.state_dict(), path)
    return path


def reference(model, prompts=PROMPTS):
    import open_clip

    with torch.no_grad():
        return model.encode_text(open_clip.get_tokenizer(TINY)(prompts), normalize=True)


def test_equals_open_clip_and_leaves_the_seed_alone(tiny, checkpoint):
    torch.manual_seed(7)
    expected_draw = torch.rand(1)
    torch.manual_seed(7)
    prior = load_text_prior("remoteclip", checkpoint=checkpoint, model=TINY)
    assert torch.equal(torch.rand(1), expected_draw)
    features = prior.encode(PROMPTS)
    assert isinstance(prior, TextPrior) and (prior.name, prior.dim) == ("remoteclip", 16)
    assert features.dtype == torch.float32 and not features.requires_grad
    assert torch.allclose(features, reference(tiny), atol=1e-6)
    assert prior.encode([]).shape == (0, 16)
    many = [f"field {index}" for index in range(70)]  # more than one batch
    assert torch.allclose(prior.encode(many), reference(tiny, many), atol=1e-6)


def test_activation_changes_features_and_is_recorded(checkpoint):
    gelu = load_text_prior("remoteclip", checkpoint=str(checkpoint), model=TINY)
    quick = load_text_prior("remoteclip", checkpoint=checkpoint, model=TINY, activation="quick_gelu")
    assert (gelu.info["activation"], quick.info["activation"]) == ("gelu", "quick_gelu")
    assert gelu.info["checkpoint"] == "RemoteCLIP-tiny.pt" and len(gelu.info["sha256"]) == 64
    assert not torch.allclose(gelu.encode(PROMPTS), quick.encode(PROMPTS), atol=1e-5)
    assert embed_classes(gelu, ["river"]).encoder == f"RemoteCLIP {TINY}"
    assert embed_classes(quick, ["river"]).encoder == f"RemoteCLIP {TINY} (quick_gelu)"
    with pytest.raises(ValueError, match="use 'gelu' or 'quick_gelu'"):
        load_text_prior("remoteclip", checkpoint=checkpoint, model=TINY, activation="relu")


def test_other_layouts_of_the_same_weights(tiny, tmp_path):
    state = {key: value.contiguous() for key, value in tiny.state_dict().items()}
    files = {name: tmp_path / name for name in ("half.safetensors", "nested.pt", "legacy.pt", "custom.pt")}
    save_file({key: value.half() for key, value in state.items()}, files["half.safetensors"])
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, files["nested.pt"])
    torch.save(state, files["legacy.pt"], _use_new_zipfile_serialization=False)
    custom = {k if k.startswith(("visual.", "logit")) else f"text.{k}": v for k, v in state.items()}
    torch.save(custom, files["custom.pt"])
    for name, path in files.items():
        features = load_text_prior("remoteclip", checkpoint=path, model=TINY).encode(PROMPTS)
        assert torch.allclose(features, reference(tiny), atol=5e-3 if "half" in name else 1e-6), name


def _with(key, value):
    return lambda state: state | {key: value}


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("change", "model", "message"),
    [
        (lambda state: state, f"{TINY}-deep", "no 'transformer.resblocks.2"),
        (lambda state: state, f"{TINY}-wide", r"has the shape \(77, 32\), .* needs \(77, 48\)"),
        (lambda state: state, f"{TINY}-hf", "Hugging Face text encoder"),
        (lambda state: state, "ViT-Z-99", "unknown open_clip model 'ViT-Z-99'"),
        (_with("transformer.extra", torch.ones(1)), TINY, "which the text tower .* has not"),
        (_with("ln_final.bias", torch.full((32,), torch.nan)), TINY, "NaN"),
        (_with("ln_final.bias", "text"), TINY, "not a state dict"),
        (lambda state: [1, 2], TINY, "not a state dict"),
        (lambda state: {}, TINY, "no 'positional_embedding'"),
        (lambda state: state | {"x": Evil()}, TINY, "pickled objects are refused"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tiny, tmp_path, monkeypatch, change, model, message):
    monkeypatch.chdir(tmp_path)
    torch.save(change(dict(tiny.state_dict())), "weights.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_text_prior("remoteclip", checkpoint="weights.pt", model=model)
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["text.pt", "empty.pt", "plain_pickle.pt", "cut.pt", "text.safetensors"])
def test_what_is_no_checkpoint(checkpoint, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = {"empty.pt": b"", "plain_pickle.pt": pickle.dumps(Evil()), "cut.pt": checkpoint.read_bytes()[:5000]}
    Path(name).write_bytes(content.get(name, b"this is a text file"))
    with pytest.raises(ValueError, match=f"{name}: not a readable file of plain tensors") as error:
        load_text_prior("remoteclip", checkpoint=name, model=TINY)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert not Path("executed").exists()


def test_missing_file_is_not_taken_for_a_hub_name(tmp_path):
    for path in ("weights/RemoteCLIP-ViT-B-32.pt", tmp_path / "missing.pt", "missing"):
        with pytest.raises(FileNotFoundError, match=r"no such file; RemoteCLIP.* is to be had at"):
            load_text_prior("remoteclip", checkpoint=path)


def test_hub_without_network(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"RemoteCLIP-RN50\.pt of kornia-tar/nothing .* give its path") as error:
        load_text_prior("remoteclip", checkpoint="kornia-tar/nothing", model="RN50")
    assert "\n" not in str(error.value)


def test_open_clip_from_file_equals_remoteclip(tiny, checkpoint):
    prior = load_text_prior("open_clip", model=TINY, pretrained=checkpoint)
    assert torch.allclose(prior.encode(PROMPTS), reference(tiny), atol=1e-6)
    assert prior.name == "open_clip" and prior.info["checkpoint"] == "RemoteCLIP-tiny.pt"


def test_open_clip_without_weights_warns_and_repeats():
    with pytest.warns(UserWarning, match="random"):
        first = load_text_prior("open_clip", model=TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = load_text_prior("open_clip", model=TINY)
    assert torch.equal(first.encode(PROMPTS), second.encode(PROMPTS))
    assert "random" in first.info["encoder"]


def test_open_clip_wrong_names():
    with pytest.raises(ValueError, match=r"neither a file nor a tag of 'ViT-B-32': tags are .*openai"):
        load_text_prior("open_clip", pretrained="opanai")
    with pytest.raises(ValueError, match="unknown open_clip model"):
        load_text_prior("open_clip", model="ViT-Z-99")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_text_prior("open_clip", pretrained="missing.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "dim"), [("ViT-B-32", 512), ("RN50", 1024)])
def test_real_size(tmp_path, model, dim):
    """The text tower of RemoteCLIP in its true shapes, half precision, random weights."""
    import open_clip
    from open_clip.model import _build_text_tower

    config = open_clip.get_model_config(model)
    with torch.device("meta"):
        shapes = _build_text_tower(dim, config["text_cfg"]).state_dict()
    torch.manual_seed(0)
    state = {key: torch.empty(value.shape, dtype=torch.half).uniform_(-0.05, 0.05) for key, value in shapes.items()}
    state |= {"visual.proj": torch.ones(4, 4), "logit_scale": torch.tensor(4.6)}
    path = tmp_path / f"RemoteCLIP-{model}.pt"
    torch.save(state, path)
    del state
    try:
        prior = load_text_prior("remoteclip", checkpoint=path, model=model)
    finally:
        path.unlink()
    features = prior.encode(PROMPTS)
    assert features.shape == (3, dim)
    assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(features[0], features[1], atol=1e-3)
