"""Images from a path, an open rasterio data set or an xarray array are one and the same raster."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kornia_tar.raster import GeoProfile, Raster, read_image, windows, write_image
from kornia_tar.raster.sources import read_source

rasterio = pytest.importorskip("rasterio", reason="open data sets need rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

UTM = "EPSG:32632"


def opened(path: Path, **options):
    rioxarray = pytest.importorskip("rioxarray", reason="xarray arrays need rioxarray")
    return rioxarray.open_rasterio(path, **options)


def assert_same(one: Raster, other: Raster) -> None:
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_array_equal(one.pixels[one.mask], other.pixels[other.mask])
    assert (one.profile is None) == (other.profile is None)
    if one.profile is not None and other.profile is not None:
        assert one.profile.crs == other.profile.crs and one.profile.kind == other.profile.kind
        assert one.profile.transform == other.profile.transform
        found = [[(g.row, g.col, g.x, g.y) for g in raster.profile.gcps] for raster in (one, other) if raster.profile]
        assert found[0] == found[1]


@pytest.fixture
def decibels(tmp_path) -> Path:
    values = np.random.default_rng(0).normal(-12, 4, (40, 50)).astype(np.float32)
    values[:9, :7] = -9999
    write_image(tmp_path / "s.tif", values, GeoProfile(UTM, from_origin(5e5, 4.6e6, 10, 10), -9999.0))
    return tmp_path / "s.tif"


@pytest.fixture
def colours(tmp_path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 3000, (36, 64, 4)).astype(np.uint16)
    gcps = [GroundControlPoint(row=r, col=c, x=9 + c / 9e3, y=45 - r / 9e3, z=0) for r in (0, 36) for c in (0, 64)]
    write_image(tmp_path / "o.tif", pixels, GeoProfile("EPSG:4326", None, gcps=tuple(gcps)))
    return tmp_path / "o.tif"


@pytest.mark.parametrize("file", ["decibels", "colours"])
def test_a_data_set_reads_as_its_file_and_stays_open(file, request):
    path = request.getfixturevalue(file)
    with rasterio.open(path) as dataset:
        found = read_source(dataset, "image0")
        assert not dataset.closed and dataset.read(1).shape == found.size
    assert_same(read_source(path, "image0"), found)
    assert found.path == path and found.bands is not None
    with pytest.raises(ValueError, match=r"\.tif: this data set is closed"):
        read_source(dataset, "image0")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("file", ["decibels", "colours"])
def test_an_array_reads_as_its_file(file, masked, request):
    path = request.getfixturevalue(file)
    array = opened(path, masked=masked)
    before = array.values.copy()
    assert_same(read_source(path, "image0"), read_source(array, "image0"))
    np.testing.assert_array_equal(array.values, before)


def test_a_warped_view_and_a_file_in_memory_are_data_sets_too(decibels):
    from rasterio.vrt import WarpedVRT

    with rasterio.open(decibels) as file, WarpedVRT(file, crs="EPSG:32633") as view:
        assert read_source(view, "image0").profile.crs == "EPSG:32633"
    with rasterio.MemoryFile(decibels.read_bytes()) as memory, memory.open() as file:
        assert_same(read_source(decibels, "image0"), read_source(file, "image0"))


def test_a_cut_array_lies_where_its_coordinates_say(decibels):
    whole, cut = read_source(decibels, "image0"), read_source(opened(decibels)[:, 3:, 5:], "image0")
    assert cut.profile.transform == whole.profile.transform * whole.profile.transform.translation(5, 3)
    np.testing.assert_array_equal(cut.mask, whole.mask[3:, 5:])


def test_the_order_of_dimensions_is_told_by_their_names(colours):
    array = opened(colours)
    assert_same(read_source(colours, "image0"), read_source(array.transpose("y", "band", "x"), "image0"))
    assert read_source(array.expand_dims("time"), "image0").pixels.shape == (36, 64, 4)


def test_nodata_that_is_told_counts_for_every_kind(decibels):
    values = [read_source(s, "image0", nodata=float("nan")).profile for s in (decibels, opened(decibels))]
    assert all(np.isnan(v.nodata) for v in values)
    with pytest.raises(ValueError, match="which never is -1: give the nodata value"):
        read_source(opened(decibels).clip(0).astype(np.uint16), "image0", nodata=-1)
    assert read_source(opened(decibels).clip(0).astype(np.uint16), "image0").profile.nodata is None


def test_what_is_no_image_is_named():
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray", reason="xarray arrays need rioxarray")
    with pytest.raises(TypeError, match="image1 is of type ndarray; it must be a path"):
        read_source(np.zeros((40, 40)), "image1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image1: is no image with x and y"):
        read_source(xarray.DataArray(np.zeros((40, 40)), dims=("a", "b")), "image1")
    with pytest.raises(ValueError, match="vh: has the dimensions time: 2, band: 3, y: 40, x: 40; beside y and x"):
        read_source(xarray.DataArray(np.zeros((2, 3, 40, 40)), dims=("time", "band", "y", "x"), name="vh"), "image1")
    with pytest.raises(ValueError, match="image0: is 40x8 pixels; each side must have at least 32"):
        read_source(xarray.DataArray(np.zeros((8, 40)), dims=("y", "x")), "image0")
    with pytest.raises(ValueError, match="no type of pixels"):
        read_source(xarray.DataArray(np.full((40, 40), "a"), dims=("y", "x")), "image0")


def test_an_array_without_rioxarray_names_the_extra(monkeypatch):
    xarray = pytest.importorskip("xarray")
    monkeypatch.setitem(__import__("sys").modules, "rioxarray", None)
    with pytest.raises(ImportError, match=r'image0: an xarray array needs rioxarray: pip install "kornia-tar\[xarray'):
        read_source(xarray.DataArray(np.zeros((40, 40)), dims=("y", "x")), "image0")


def test_a_path_to_a_large_file_is_read_by_windows(tmp_path, monkeypatch):
    write_image(tmp_path / "a.tif", np.arange(40 * 50, dtype=np.uint16).reshape(40, 50))
    whole = read_source(tmp_path / "a.tif", "image0")
    monkeypatch.setattr(windows, "LARGE", 1000)
    found = read_source(tmp_path / "a.tif", "image0")
    assert isinstance(found.pixels, windows.Windowed) and np.array_equal(found.pixels, whole.pixels)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/vsizip/a.zip/s.tif", "/vsizip/a.zip/s.tif: is not a file on disk; make a VRT of it (gdal_translate -of VRT"),
        ("GTIFF_DIR:1:s.tif", "GTIFF_DIR:1:s.tif: is not a file on disk; make a VRT of it (gdal_translate -of VRT"),
        ("https://host/s.tif", "x.vrt) and set KORNIA_TAR_REMOTE=1, or give register_files an open rasterio data set"),
        ("/vsis3/b/s.tif", "x.vrt) and set KORNIA_TAR_REMOTE=1, or give register_files an open rasterio data set"),
        ("no/s.tif", "no/s.tif: no such file"),
    ],
)
def test_what_gdal_alone_opens_is_told_with_a_way_to_give_it(name, told):
    with pytest.raises(FileNotFoundError) as raised:
        read_image(Path(name))
    assert told in str(raised.value) and str(raised.value).startswith(f"{name}: ")


def test_a_vrt_of_what_gdal_alone_opens_is_read(decibels, tmp_path, monkeypatch):
    from rasterio.shutil import copy

    monkeypatch.setenv("KORNIA_TAR_REMOTE", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(decibels, "s.tif")
    serve = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            place = f"http://127.0.0.1:{server.stdout.readline().split('port ')[1].split()[0]}/s.tif"
            for name in (f"/vsizip/{tmp_path}/a.zip/s.tif", f"GTIFF_DIR:1:{decibels}", place, f"/vsicurl/{place}"):
                copy(name, tmp_path / "x.vrt", driver="VRT")
                assert_same(read_image(decibels), read_image(tmp_path / "x.vrt"))
        finally:
            server.kill()
