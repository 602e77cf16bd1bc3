"""Every layout, from tiny fake data."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from toys import texture, write_tar

from eval.datasets import open_dataset
from eval.datasets.srif_truth import recover_truth, similarity

GREY, RGB = texture(0, 48), texture(1, 48, 3)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def save_tif(path: Path, image: np.ndarray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="GeoTIFF needs rasterio")
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = image if image.ndim == 3 else image[None]
    with rasterio.open(
        path, "w", driver="GTiff", width=bands.shape[2], height=bands.shape[1], count=len(bands), dtype=bands.dtype,
        transform=rasterio.transform.from_origin(500000, 4000000, 1, 1), crs="EPSG:32637",
    ) as file:  # fmt: skip
        file.write(bands)


def one(path, **how):
    (dataset,) = open_dataset(path, **how)
    return dataset


def sen12(root: Path) -> None:
    for season, scene, patch in (("ROIs1158_spring", 1, 30), ("ROIs1158_spring", 1, 31), ("ROIs1970_fall", 8, 30)):
        save(root / season / f"s1_{scene}" / f"{season}_s1_{scene}_p{patch}.png", GREY)
        save(root / season / f"s2_{scene}" / f"{season}_s2_{scene}_p{patch}.png", RGB)
    save(root / "ROIs1970_fall" / "s1_8" / "ROIs1970_fall_s1_8_p99.png", GREY)  # its partner was not downloaded


def osdataset(root: Path) -> None:
    for size, split, number in (("512", "test", 1), ("512", "train", 2), ("256", "test", 10), ("256", "test", 3)):
        save(root / size / split / f"opt{number}.png", RGB)
        save(root / size / split / f"sar{number}.png", GREY)


def qxs(root: Path) -> None:
    save(root / "opt_256_oc_0.2" / "7.png", RGB)
    save(root / "sar_256_oc_0.2" / "7.png", np.stack([GREY] * 3, -1))


def spacenet9(root: Path) -> None:
    bands = np.moveaxis(RGB, -1, 0)
    save_tif(root / "train" / "02_optical_train_01.tif", bands)
    save_tif(root / "train" / "02_sar_train_01.tif", GREY.astype(np.float32) * 7 + 1)
    table = "sar_row,sar_col,optical_row,optical_col\n1,2,3,4\n5,6,7,8\n"
    (root / "train" / "02_tiepoints_train_01.csv").write_text(table)
    save_tif(root / "publictest" / "03_optical_publictest.tif", bands)
    save_tif(root / "publictest" / "03_sar_publictest.tif", GREY)


def srif(root: Path) -> None:
    for kind, other in (("Optical-SAR", GREY), ("Optical-Infrared", RGB)):
        save(root / kind / "pair1_1.jpg", RGB)
        save(root / kind / "pair1_2.jpg", other)
        (root / kind / "gt_1.txt").write_text("  0.0e+00  1.0e+00  2.5e+00\n -1.0e+00  0.0e+00  4.0e+01\n")


def pairs(root: Path) -> None:
    save(root / "optical" / "a.jpg", RGB)
    save(root / "sar" / "a.png", GREY)


MAKE = {"sen12": sen12, "osdataset": osdataset, "qxs": qxs, "spacenet9": spacenet9, "srif": srif, "pairs": pairs}


@pytest.mark.parametrize("kind", MAKE)
def test_layout_tells_the_kind(tmp_path, kind):
    MAKE[kind](tmp_path)
    found, named = open_dataset(tmp_path), open_dataset(f"{kind}:{tmp_path}")
    assert found
    assert [type(dataset) for dataset in found] == [type(dataset) for dataset in named]
    assert [dataset.name for dataset in open_dataset(Path(f"{kind}:{tmp_path}"))] == [dataset.name for dataset in named]
    for dataset in found:
        assert dataset.names == sorted(dataset.names)
        for sample in dataset:
            assert sample.optical.shape == (48, 48, 3)
            assert sample.other.shape == (48, 48)
            assert sample.optical.dtype == sample.other.dtype == np.uint8


@pytest.mark.parametrize("kind", [*MAKE, "webdataset"])
def test_what_is_missing_says_where_to_get_it(tmp_path, kind):
    with pytest.raises(FileNotFoundError) as error:
        open_dataset(f"{kind}:{tmp_path}")
    message = str(error.value)
    assert str(tmp_path / "") in message
    assert any(word in message for word in ("get it", "get http", "git clone", "pack", "put your images"))
    assert "\n" not in message and "{" not in message


def test_sen12_pairs_patches_across_folders(tmp_path):
    sen12(tmp_path)
    dataset = one(tmp_path)
    assert dataset.name == "sen12"
    assert dataset.names == ["ROIs1158_spring_1_p30", "ROIs1158_spring_1_p31", "ROIs1970_fall_8_p30"]
    sample = dataset.read("ROIs1970_fall_8_p30")
    assert np.array_equal(sample.optical, RGB) and np.array_equal(sample.other, GREY)
    assert (sample.modality, sample.truth, sample.tie_points) == ("sar", None, None)
    fall = one(tmp_path / "ROIs1970_fall")
    assert (fall.name, fall.names) == ("sen12-ROIs1970_fall", ["ROIs1970_fall_8_p30"])


def test_osdataset_opens_one_split_in_both_sizes(tmp_path):
    osdataset(tmp_path)
    assert {d.name: d.names for d in open_dataset(tmp_path)} == {
        "osdataset-512-test": ["1"],
        "osdataset-256-test": ["10", "3"],
    }
    assert one(tmp_path, split="train").name == "osdataset-512-train"
    assert one(tmp_path / "256").name == "osdataset-256-test"
    assert one(tmp_path / "512" / "train").name == "osdataset-512-train"
    with pytest.raises(ValueError, match="has the splits train, val, test"):
        open_dataset(f"osdataset:{tmp_path}", split="publictest")
    with pytest.raises(FileNotFoundError, match="no data set here with a split 'val'"):
        open_dataset(tmp_path, split="val")


def test_sets_without_splits_say_so(tmp_path):
    qxs(tmp_path)
    with pytest.raises(ValueError, match="qxs has no official splits"):
        open_dataset(f"qxs:{tmp_path}", split="test")


def test_spacenet9_brings_tie_points(tmp_path):
    spacenet9(tmp_path)
    dataset = one(tmp_path)
    (sample,) = dataset
    assert (dataset.name, sample.name, sample.truth) == ("spacenet9-train", "02_train_01", None)
    assert sample.tie_points.tolist() == [[4, 3, 2, 1], [8, 7, 6, 5]]  # optical x, y, SAR x, y
    assert np.array_equal(sample.optical, RGB)
    assert (sample.other.min(), sample.other.max()) == (0, 255)
    (hidden,) = one(tmp_path, split="publictest")
    assert hidden.tie_points is None
    (tmp_path / "train" / "02_tiepoints_train_01.csv").write_text("sar_row,sar_col\n1,2\n")
    with pytest.raises(ValueError, match="has no column optical_col, optical_row"):
        dataset.read("02_train_01")


def test_pairs_with_every_kind_of_truth(tmp_path):
    pairs(tmp_path)
    save(tmp_path / "b.optical.png", GREY)
    save(tmp_path / "b.sar.png", GREY)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "a.txt").write_text("1 0 5\n0 1 -3\n")
    (tmp_path / "b.tie_points.csv").write_text("id,x0,y0,x1,y1\n0,1,2,3.5,4\n")
    dataset = one(tmp_path)
    a, b = dataset
    assert (a.name, b.name) == ("a", "b")
    assert a.truth.tolist() == [[1, 0, 5], [0, 1, -3], [0, 0, 1]]
    assert (a.tie_points, b.truth) == (None, None)
    assert b.tie_points.tolist() == [[1, 2, 3.5, 4]]
    (tmp_path / "truth" / "a.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"a\.txt: is not a matrix: 3 numbers"):
        dataset.read("a")
    save(tmp_path / "infrared" / "a.png", GREY)
    with pytest.raises(ValueError, match="holds sar and infrared images"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["", "pairs:"])
def test_a_wrong_folder_is_told_the_layout_and_what_lies_there(kind, tmp_path):
    with pytest.raises(FileNotFoundError) as told:
        open_dataset(f"{kind}{tmp_path}")
    for part in ("optical/<name>.png", "sar/<name>.png", "truth/<name>.txt", "tie_points/<name>.csv"):
        assert f"{tmp_path}/{part}" in str(told.value)
    assert "x0,y0,x1,y1" in str(told.value)
    assert "found" not in str(told.value)
    save(tmp_path / "optical" / "a_opt.png", GREY)
    save(tmp_path / "sar" / "a_sar.png", GREY)
    found = r"found 1 optical \(first 'a_opt'\) and 1 sar \(first 'a_sar'\) images, but no name"
    with pytest.raises(FileNotFoundError, match=found):
        open_dataset(f"{kind}{tmp_path}")


def test_truth_that_would_be_overlooked_is_an_error(tmp_path):
    pairs(tmp_path)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "b.txt").write_text("1 0 5 0 1 -3")
    with pytest.raises(ValueError, match=r"the truth file of 'b' belongs to no image; give it .* such as 'a'"):
        open_dataset(tmp_path)
    (tmp_path / "truth" / "b.txt").rename(tmp_path / "truth" / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy is no truth file: they are called <name>\.txt"):
        open_dataset(tmp_path)
    (tmp_path / "truth" / "a.npy").rename(tmp_path / "a.truth.txt")
    assert one(tmp_path).read("a").truth[0, 2] == 5


def test_deep_images_are_stretched(tmp_path):
    save(tmp_path / "optical" / "a.png", GREY.astype(np.uint16) * 100 + 5)
    save_tif(tmp_path / "map" / "a.tif", np.where(GREY < 128, -2.0, 3.0).astype(np.float32))
    (sample,) = one(tmp_path)
    assert sample.modality == "map"
    assert (sample.optical.min(), sample.optical.max()) == (0, 255)
    assert np.array_equal(sample.other, np.where(GREY < 128, 0, 255))


def test_geotiff_without_rasterio_says_what_to_install(tmp_path, monkeypatch):
    pairs(tmp_path)
    save_tif(tmp_path / "sar" / "a.tif", GREY)
    (tmp_path / "sar" / "a.png").unlink()
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "rasterio" else find(name, *a))
    with pytest.raises(ValueError, match="needs rasterio"):
        one(tmp_path).read("a")


def test_a_folder_of_sets_opens_them_all(tmp_path):
    pairs(tmp_path / "mine [1]")
    qxs(tmp_path / "qxs")
    (tmp_path / "empty").mkdir()
    assert [dataset.name for dataset in open_dataset(tmp_path)] == ["mine-1", "qxs-saropt"]
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "val-000.tar", {"x": (GREY, GREY)})
    with pytest.raises(ValueError, match="several sets are called 'val-000'"):
        open_dataset(tmp_path)


def test_webdataset_splits(tmp_path):
    for name in ("val-000", "train-000", "train-001"):
        write_tar(tmp_path / f"{name}.tar", {"x": (GREY, GREY)})
    assert [dataset.name for dataset in open_dataset(tmp_path)] == ["val-000"]
    assert [dataset.name for dataset in open_dataset(tmp_path, split="train")] == ["train-000", "train-001"]
    assert one(f"webdataset:{tmp_path}/train-001.tar").name == "train-001"


def test_published_srif_repairs_optical_sar(tmp_path):
    srif(tmp_path / "dataset")
    angle = 33
    optical = texture(5, 100)
    matrix = similarity((100, 100), (64, 64), angle)
    turned = cv2.warpPerspective(255 - optical // 2, matrix, (64, 64), flags=cv2.INTER_AREA)
    save(tmp_path / "dataset" / "Optical-SAR" / "pair1_1.jpg", optical)
    save(tmp_path / "dataset" / "Optical-SAR" / "pair1_2.jpg", turned)
    sar, infrared = open_dataset(f"srif:{tmp_path}")
    assert (sar.name, infrared.name) == ("srif-optical-sar", "srif-optical-infrared")
    (sample,) = infrared
    assert (sample.name, sample.modality) == ("pair001", "infrared")
    assert sample.truth.tolist() == [[0, 1, 2.5], [-1, 0, 40], [0, 0, 1]]
    (sample,) = sar
    assert np.allclose(sample.truth, matrix)  # from the images, not from gt_1.txt
    assert 0.2 < sample.meta["confidence"] <= 1


def test_recovered_truth_of_real_pairs(shared):
    found = one(shared / "data" / "bench" / "srif-opt-sar")
    for name in found.names[::12]:
        sample = found.read(name)
        matrix, confidence = recover_truth(sample.optical, sample.other)
        height, width = sample.optical.shape[:2]
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]).T
        assert np.linalg.norm(((matrix - sample.truth) @ corners)[:2], axis=0).mean() < 10
        assert 0 <= confidence <= 1


def test_the_bench_opens_whole(shared):
    names = [dataset.name for dataset in open_dataset(shared / "data" / "bench")]
    assert "srif-opt-sar" in names and len(names) == len(set(names)) >= 6
