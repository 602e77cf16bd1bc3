"""What a GeoTIFF says of its bands survives reading, registering and writing; content decides, not the name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kornia_tar.geometry import Transform
from kornia_tar.outputs.registered import write_registered
from kornia_tar.raster import GeoProfile, Raster, read_image, source_files, write_image
from kornia_tar.raster.grid import Grid

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

SIDE = 64
GRID = {"width": SIDE, "height": SIDE, "crs": "EPSG:32632", "transform": from_origin(5e5, 4.6e6, 10, 10)}
rng = np.random.default_rng(0)
PIXELS = rng.integers(1, 255, (4, SIDE, SIDE), dtype=np.uint8)
SHOWN = np.ones((SIDE, SIDE), bool)
SHOWN[:, :20] = False


def write(path: Path, bands: np.ndarray, *, driver: str = "GTiff", **options) -> Path:
    told = {key: options.pop(key) for key in ("colours", "names", "scales", "offsets", "mask") if key in options}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver=driver, count=len(bands), dtype=bands.dtype, **GRID, **options) as file,
    ):
        if "colours" in told:
            file.colorinterp = told["colours"]
        file.write(bands)
        if "names" in told:
            file.descriptions = told["names"]
        if "scales" in told:
            file.scales, file.offsets = told["scales"], told["offsets"]
        if "mask" in told:
            file.write_mask(told["mask"])
    return path


def registered(second: Raster, folder: Path):
    """The file that an identical transform gives."""
    first = Raster(PIXELS[0], np.ones((SIDE, SIDE), bool), GeoProfile(GRID["crs"], GRID["transform"]), Path("o.tif"))
    grey = PIXELS[0]
    write_registered(folder, Transform(np.eye(3)), Grid.of(first), second, grey)
    return rasterio.open(folder / "registered.tif")


def test_what_is_written_is_a_cloud_optimized_geotiff(tmp_path):
    big = rng.integers(1, 255, (1100, 900), dtype=np.uint16)
    write_image(tmp_path / "b.tif", big, GeoProfile(GRID["crs"], GRID["transform"]), mask=big > 20)
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.compression.name == "deflate"
        assert file.overviews(1) == [2, 4] and file.transform == GRID["transform"] and (file.read(1) == big).all()
        assert ((file.dataset_mask() > 0) == (big > 20)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["b.tif"]


def test_near_infrared_is_no_alpha(tmp_path):
    path = write(tmp_path / "rgbn.tif", PIXELS, photometric="rgb", alpha="no", names=("red", "green", "blue", "nir"))
    second = read_image(path)
    assert second.pixels.shape == (SIDE, SIDE, 4)
    with registered(second, tmp_path) as file:
        assert [kind.name for kind in file.colorinterp] == ["red", "green", "blue", "undefined"]
        assert file.descriptions == ("red", "green", "blue", "nir")
        assert (file.dataset_mask() == 255).all() and (file.read() == PIXELS).all()


@pytest.mark.parametrize("kind", ["mask", "alpha", "rgba", "alpha that nobody called so"])
def test_what_shows_nothing_is_said_where_no_value_says_it(tmp_path, kind):
    hidden = np.where(SHOWN, PIXELS[0], 0)
    opacity = SHOWN.astype(np.uint8) * 255
    if kind == "mask":
        path = write(tmp_path / "s.tif", hidden[None], mask=SHOWN)
    elif kind == "alpha":
        path = write(tmp_path / "s.tif", np.stack([hidden, opacity]), colours=(ColorInterp.gray, ColorInterp.alpha))
    else:
        called = "yes" if kind == "rgba" else "no"
        path = write(tmp_path / "s.tif", np.stack([hidden] * 3 + [opacity]), photometric="rgb", alpha=called)
    second = read_image(path)
    assert (second.mask == SHOWN).all()
    with registered(second, tmp_path) as file:
        assert ((file.dataset_mask() > 0) == SHOWN).all()
        assert file.count == (1 if kind in ("mask", "alpha") else 3) and file.nodata is None
    assert not list(tmp_path.glob("*.msk"))  # inside the file


def test_names_scales_and_offsets_of_polarisations_stay(tmp_path):
    stack = PIXELS[:2].astype(np.uint16) * 100
    path = write(tmp_path / "s.tif", stack, nodata=0, names=("VV", "VH"), scales=(0.01, 0.02), offsets=(-30.0, 0.0))
    with registered(read_image(path), tmp_path) as file:
        assert file.descriptions == ("VV", "VH") and file.nodata == 0
        assert file.scales == (0.01, 0.02) and file.offsets == (-30.0, 0.0)


def test_a_colour_table_is_looked_up(tmp_path):
    indices = (PIXELS[0] % 5)[None]
    path = write(tmp_path / "p.tif", indices, photometric="palette")
    table = {k: (40 * k, 200 - 30 * k, 7, 0 if k == 3 else 255) for k in range(5)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
    image = read_image(path)
    assert image.pixels.shape == (SIDE, SIDE, 3)
    for index, colour in table.items():
        assert (image.pixels[indices[0] == index] == colour[:3]).all()
    with registered(image, tmp_path) as file:
        assert file.count == 3 and (np.moveaxis(file.read(), 0, -1) == image.pixels).all()


@pytest.mark.parametrize("nodata", [0, 255])
def test_of_a_colour_table_nodata_is_an_index(tmp_path, nodata):
    indices = (PIXELS[0] % 4)[None]
    path = write(tmp_path / "p.tif", indices, photometric="palette", nodata=nodata)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0, 255), 1: (255, 0, 0, 255), 2: (0, 255, 0, 255), 3: (10, 20, 255, 255)})
    image = read_image(path)
    assert (image.mask == (indices[0] != nodata)).all()
    assert image.profile is not None and image.profile.nodata is None
    assert (read_image(path, nodata=1).mask == ((indices[0] != 1) & (indices[0] != nodata))).all()
    labels = read_image(path, colours=False)
    assert (labels.pixels == indices[0]).all() and labels.bands is not None and labels.bands.table is not None
    with registered(labels, tmp_path) as file:
        assert (file.read() == indices).all() and file.colormap(1)[3] == (10, 20, 255, 255)


def test_a_colour_table_that_is_not_there_is_none(tmp_path):
    source = write(tmp_path / "s.tif", PIXELS[:1])
    (tmp_path / "s.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><VRTRasterBand dataType="Byte" band="1">'
        f"<ColorInterp>Palette</ColorInterp><SimpleSource><SourceFilename>{source}</SourceFilename>"
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert (read_image(tmp_path / "s.vrt").pixels == PIXELS[0]).all()


def test_a_container_of_images_is_told(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = PIXELS[0], PIXELS[1]
    with pytest.raises(ValueError, match=r"two\.h5: (holds no image itself|cannot be read)"):
        read_image(tmp_path / "two.h5")


def test_a_vrt_in_a_vrt_has_its_sources(tmp_path):
    source = write(tmp_path / "s.tif", PIXELS[:1])
    names = [source, tmp_path / "inner.vrt", tmp_path / "outer.vrt"]
    for inside, name in pairwise(names):
        name.write_text(
            f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><VRTRasterBand dataType="Byte" band="1">'
            f"<SimpleSource><SourceFilename>{inside}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
            "</VRTRasterBand></VRTDataset>"
        )
    assert set(source_files(names[2])) == set(names)


@pytest.mark.parametrize(
    ("driver", "name"),
    [("GTiff", "s.gtif"), ("GTiff", "s"), ("GTiff", "s.png"), ("ENVI", "s.bin"), ("ENVI", "raw"), ("HFA", "s.dat")],
)
def test_content_decides(tmp_path, driver, name):
    path = write(tmp_path / name, PIXELS[:1], driver=driver)
    image = read_image(path)
    assert image.profile is not None and (image.pixels == PIXELS[0]).all()


def test_a_picture_named_tif_is_a_picture(tmp_path):
    from PIL import Image

    Image.fromarray(PIXELS[0]).save(tmp_path / "s.png")
    (tmp_path / "s.png").rename(tmp_path / "s.tif")
    image = read_image(tmp_path / "s.tif")
    assert image.profile is None and (image.pixels == PIXELS[0]).all()
