"""TextBank and BankPrior: what goes in comes out, and what is broken is refused in one line."""

import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from kornia_tar.text import BankPrior, TextBank, TextPrior

ERROR_SCALE = Path(__file__).resolve().parents[2].parent / "shared" / "text"
NAMES = ("river", "bridge", "água")


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(0)
    return TextBank(NAMES, torch.randn(3, 8, generator=generator), "test encoder", ("a photo of {}",))


def one_line(error):
    return "\n" not in str(error.value)


def test_features_are_unit_float32(bank):
    assert bank.features.dtype == torch.float32
    assert torch.allclose(bank.features.norm(dim=1), torch.ones(3))
    assert (len(bank), bank.dim) == (3, 8)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5", ".hdf5"])
@pytest.mark.parametrize("templates", [(), ("a photo of {}", "a SAR image of {}")])
def test_round_trip(bank, tmp_path, suffix, templates):
    path = tmp_path / f"bank{suffix}"
    TextBank(bank.names, bank.features, bank.encoder, templates).save(path)
    back = TextBank.load(path)
    assert (back.names, back.encoder, back.templates) == (NAMES, "test encoder", templates)
    assert torch.allclose(back.features, bank.features, atol=1e-7)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_failed_save_leaves_the_old_file(bank, tmp_path, monkeypatch):
    path = tmp_path / "bank.npz"
    bank.save(path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(ValueError, match="no space"):
        bank.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["bank.npz"]


def test_save_into_missing_folder(bank, tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        bank.save(tmp_path / "missing" / "bank.npz")
    assert not list(tmp_path.iterdir())


def test_subset_keeps_order_and_provenance(bank):
    part = bank.subset(["bridge", "river"])
    assert part.names == ("bridge", "river")
    assert torch.allclose(part.features, bank.features[[1, 0]])
    assert (part.encoder, part.templates) == (bank.encoder, bank.templates)
    with pytest.raises(ValueError, match="no 'moon', 'sun': it has river, bridge"):
        bank.subset(["river", "moon", "sun"])
    with pytest.raises(TypeError, match="put it in a list"):
        bank.subset("river")


@pytest.mark.parametrize(
    ("names", "features", "message"),
    [
        (("a", "b"), torch.ones(3, 4), "2 names but 3 rows"),
        (("a", "a"), torch.ones(2, 4), "'a' occurs twice"),
        (("a", " "), torch.ones(2, 4), "empty string"),
        (("a",), torch.ones(4), "must be"),
        ((), torch.ones(0, 4), "K, D >= 1"),
        (("a",), torch.tensor([[1.0, torch.nan]]), "NaN"),
        (("a",), torch.zeros(1, 4), "zeros"),
    ],
)
def test_invalid_content(names, features, message):
    with pytest.raises(ValueError, match=message) as error:
        TextBank(names, features)
    assert one_line(error)


def test_features_must_be_floating_point():
    with pytest.raises(TypeError, match="floating-point"):
        TextBank(("a",), torch.ones(1, 4, dtype=torch.long))


def test_per_prompt_alone_is_averaged(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float16)
    np.savez(tmp_path / "bank.npz", per_prompt=rows, class_names=np.array(["a", "b"]))
    bank = TextBank.load(tmp_path / "bank.npz")
    mean = rows.astype(np.float64).mean(0)
    assert np.allclose(bank.features, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert (bank.encoder, bank.templates) == ("unknown", ())


def _object_array(path):
    np.savez(path, embeddings=np.ones((1, 4)), class_names=np.array(["a", None], dtype=object))


def _zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("embeddings.npy", bytes(70 * 2**20))


def _promised_terabytes(path):
    header = str({"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}).ljust(117) + "\n"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embeddings.npy", npy + bytes(64))
        archive.writestr("class_names.npy", npy + bytes(64))


def _promised_terabytes_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("embeddings", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))


BROKEN = {
    "text.npz": lambda path: path.write_text("not an archive"),
    "empty.npz": lambda path: path.write_bytes(b""),
    "pickle.npz": lambda path: path.write_bytes(pickle.dumps({"embeddings": 1})),
    "object.npz": _object_array,
    "bomb.npz": _zip_bomb,
    "terabytes.npz": _promised_terabytes,
    "names.npz": lambda path: np.savez(path, embeddings=np.ones((2, 4))),
    "rows.npz": lambda path: np.savez(path, class_names=np.array(["a"])),
    "integer.npz": lambda path: np.savez(path, embeddings=np.ones((1, 4), int), class_names=np.array(["a"])),
    "flat.npz": lambda path: np.savez(path, per_prompt=np.ones((1, 4)), class_names=np.array(["a"])),
    "inf.npz": lambda path: np.savez(path, embeddings=np.full((1, 4), 1e300), class_names=np.array(["a"])),
    "text.safetensors": lambda path: path.write_text("not safetensors at all"),
    "json.safetensors": lambda path: save_file(
        {"embeddings": np.ones((1, 4), np.float32)}, path, {"class_names": json.dumps({"a": 1})}
    ),
    "no_json.safetensors": lambda path: save_file(
        {"embeddings": np.ones((1, 4), np.float32)}, path, {"class_names": "a, b"}
    ),
    "text.h5": lambda path: path.write_text("not hdf5"),
    "group.h5": lambda path: h5py.File(path, "w").create_group("embeddings").file.close(),
    "terabytes.h5": _promised_terabytes_h5,
    "large.h5": lambda path: path.open("wb").truncate(65 * 2**20),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_one_line_that_names_it(tmp_path, name):
    path = tmp_path / name
    BROKEN[name](path)
    with pytest.raises(ValueError, match=name) as error:
        TextBank.load(path)
    assert one_line(error)


def test_truncated_files(bank, tmp_path):
    for suffix in (".npz", ".safetensors", ".h5"):
        path = tmp_path / f"bank{suffix}"
        bank.save(path)
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(ValueError, match=path.name):
            TextBank.load(path)


def test_wrong_paths(bank, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        TextBank.load(tmp_path / "missing.npz")
    for act in (TextBank.load, bank.save):
        with pytest.raises(ValueError, match=r"unknown suffix '.pkl', use one of .npz"):
            act(tmp_path / "bank.pkl")


def test_bank_prior_looks_names_up(bank, tmp_path):
    bank.save(tmp_path / "bank.npz")
    prior = BankPrior(tmp_path / "bank.npz")
    assert isinstance(prior, TextPrior)
    assert (prior.name, prior.dim, prior.info["encoder"]) == ("bank", 8, "test encoder")
    assert torch.allclose(prior.encode(["bridge", "river", "bridge"]), bank.features[[1, 0, 1]], atol=1e-6)
    assert prior.encode([]).shape == (0, 8)
    with pytest.raises(ValueError, match="class names, no sentences"):
        prior.encode(["a photo of river"])


@pytest.mark.skipif(not ERROR_SCALE.is_dir(), reason=f"no real banks in {ERROR_SCALE}")
def test_real_banks():
    files = sorted(ERROR_SCALE.glob("*.npz"))
    assert files
    for path in files:
        bank = TextBank.load(path)
        assert bank.dim == (1024 if "rn50" in path.name else 768 if "vitl14" in path.name else 512)
        assert len(bank) in (19, 40)
        assert {"river", "bridge", "forest"} <= set(bank.names)
        assert all("{}" in template for template in bank.templates)
    full = TextBank.load(ERROR_SCALE / "remoteclip_vitb32_whurs19_106prompts.npz")
    mean = TextBank.load(ERROR_SCALE / "remoteclip_vitb32_whurs19_mean.npz")
    assert mean.encoder == "RemoteCLIP ViT-B-32"
    assert torch.allclose(full.features, mean.features, atol=1e-6)
    # Real features carry meaning: a pond is nearer to a river than to a football field.
    pond, river, field = mean.subset(["pond", "river", "football field"]).features
    assert pond @ river > pond @ field
