import json
import tarfile

import numpy as np
import pytest
from helpers import png_bomb
from PIL import Image
from toys import add, texture, write_tar

from eval.datasets import open_dataset
from eval.datasets.webdataset import WebDataset


def test_webdataset_yields_sorted_pairs(tar):
    (dataset,) = open_dataset(tar)
    samples = list(dataset)
    assert (dataset.name, dataset.names) == ("toy-000", ["fake__0", "fake__1", "fake__2"])
    assert [sample.name for sample in samples] == dataset.names
    assert samples[1].optical.shape == (256, 256, 3)
    assert np.array_equal(samples[1].other, texture(1))
    assert samples[1].meta == {"stem": "fake__1"}
    assert (samples[1].modality, samples[1].truth) == ("sar", None)


def test_a_folder_gives_its_validation_shards(tar):
    tar.rename(tar.with_name("val-007.tar"))
    write_tar(tar.with_name("train-000.tar"), {"x": (texture(0), texture(0))})
    assert [dataset.name for dataset in open_dataset(tar.parent)] == ["val-007"]


def test_broken_tars_are_named(tmp_path):
    path = tmp_path / "broken.tar"
    path.write_bytes(b"no tar at all" * 99)
    with pytest.raises(ValueError, match=r"broken\.tar: not a readable tar"):
        WebDataset(path)
    with tarfile.open(path, "w") as tar:
        add(tar, "a.optical.webp", b"not an image")
    with pytest.raises(ValueError, match="pair 'a' has no sar image"):
        WebDataset(path)
    with tarfile.open(path, "w") as tar:
        for name in "ac":
            add(tar, f"{name}.optical.webp", png_bomb() if name == "c" else b"not an image")
            add(tar, f"{name}.sar.webp", b"not an image")
        add(tar, "../b.sar.webp", b"ignored, it leads outside")
    dataset = WebDataset(path)
    assert dataset.names == ["a", "c"]
    for name in "ac":
        with pytest.raises(ValueError, match=rf"{name}\.optical\.webp is not a readable image"):
            dataset.read(name)


def test_srif_brings_its_truth(tmp_path):
    folder = tmp_path / "srif-opt-sar"
    folder.mkdir()
    matrix = [[0.5, 0, 3], [0, 0.5, 4], [0, 0, 1]]
    truth = {"pairs": {"pair001": {"H": matrix, "confidence": "high"}}}
    (folder / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(FileNotFoundError, match="pair001"):
        open_dataset(folder)
    Image.fromarray(texture(0, 300, 3)).save(folder / "pair001.optical.jpg")
    Image.fromarray(texture(1)).save(folder / "pair001.other.jpg")
    (dataset,) = open_dataset(folder)
    (sample,) = dataset
    assert (dataset.name, sample.modality, sample.meta) == ("srif-opt-sar", "sar", {"confidence": "high"})
    assert (sample.optical.shape, sample.other.shape) == ((300, 300, 3), (256, 256))
    assert np.array_equal(sample.truth, matrix)


def test_nothing_there_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set here"):
        open_dataset(tmp_path)
