"""Images that were made to harm: a clear line each, at once, in bounded memory, nothing run, nothing fetched."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import png_bomb
from PIL import Image, PngImagePlugin

from kornia_tar.files import walk_hdf5
from kornia_tar.raster import GeoProfile, Georeference, Raster, read_image, source_files, to_grey8, write_image
from kornia_tar.raster.grid import Grid

SIDE = 40
PIXELS = np.random.default_rng(0).integers(1, 255, (SIDE, SIDE), dtype=np.uint8)
READ = """
import json, os, resource, sys, time
from pathlib import Path
from kornia_tar.raster import read_image
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.monotonic()
    try:
        read_image(path)
        said = "read"
    except (ValueError, MemoryError) as error:
        said = f"{MemoryError.__name__ if isinstance(error, MemoryError) else ValueError.__name__} {error}"
    print(json.dumps([path.name, said, time.monotonic() - started]))
"""


def vrt(source: str, times: int = 1, relative: int = 1, size: int = SIDE, bands: int = 1) -> str:
    one = f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename></SimpleSource>'
    body = "".join(
        f'<VRTRasterBand dataType="Float64" band="{k}">{one * times if source else ""}</VRTRasterBand>'
        for k in range(1, bands + 1)
    )
    return f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}">{body}</VRTDataset>'


def jpeg_of(height: int, width: int) -> bytes:
    """A JPEG whose header promises another size."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG")
    at = stream.getvalue().index(b"\xff\xc0") + 5
    return stream.getvalue()[:at] + struct.pack(">HH", height, width) + stream.getvalue()[at + 4 :]


def bombs(folder: Path) -> dict[str, str]:
    """Small files that promise much, and what is said of them."""
    (folder / "a.png").write_bytes(png_bomb())
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "x" * 2_000_000, zip=True)
    Image.fromarray(PIXELS).save(folder / "text.png", pnginfo=texts)
    (folder / "a.jpg").write_bytes(jpeg_of(65_500, 65_500))
    (folder / "a.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x3b")
    (folder / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2**30, -(2**30), 1, 24, 0, 0, 0, 0, 0, 0)
    )
    (folder / "a.ppm").write_bytes(b"P6 999999999 999999999 255\n")
    webp = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (2**24 - 1).to_bytes(3, "little") * 2
    (folder / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp)
    (folder / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n")
    tags = [
        (256, 4, 2**31),
        (257, 4, 2**31),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (279, 4, 9),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (folder / "sizes.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + b"\0\0\0\0")
    whole = zlib.compress(bytes(3_000_000), 9)
    tags[0], tags[1], tags[6], tags[7] = (256, 4, 30_000), (257, 4, 30_000), (277, 3, 1), (279, 4, len(whole))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (folder / "deflate.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + b"\0\0\0\0" + whole)
    unreadable = "cannot be read as an image"
    return {
        "a.png": unreadable, "text.png": unreadable, "a.jpg": "exceeds limit|more than the limit",
        "a.gif": "exceeds limit|more than the limit|cannot be read",
        "a.bmp": "exceeds limit|more than the limit|cannot be read",
        "a.ppm": "exceeds limit|more than the limit|cannot be read", "a.webp": unreadable, "a.eps": unreadable,
        "sizes.tif": "more than the limit|cannot be read", "deflate.tif": "more than the limit",
    }  # fmt: skip


def raster_bombs(folder: Path) -> dict[str, str]:
    """The same of kinds that GDAL reads."""
    rasterio = pytest.importorskip("rasterio")
    for name, options in (
        ("bands.tif", {"width": 4000, "height": 4000, "count": 200}),
        ("block.tif", {"width": 64, "height": 64, "count": 1, "tiled": True, "blockxsize": 32768, "blockysize": 32768}),
    ):
        with rasterio.open(folder / name, "w", driver="GTiff", dtype="uint8", sparse_ok=True, **options):
            pass
    (folder / "bands.vrt").write_text(vrt("", size=4000, bands=60))
    (folder / "grid.asc").write_text("ncols 999999\nnrows 999999\ncellsize 1\nxllcorner 0\nyllcorner 0\n1 2 3\n")
    (folder / "self.vrt").write_text(vrt("self.vrt"))
    (folder / "l0.vrt").write_text(vrt("none.png"))
    for level in range(1, 10):
        (folder / f"l{level}.vrt").write_text(vrt(f"l{level - 1}.vrt", times=10))
    return {
        "bands.tif": "200 bands of 4000x4000 pixels take", "block.tif": "blocks of 1073741824 pixels",
        "bands.vrt": "60 bands of 4000x4000", "grid.asc": "more than the limit|cannot be read",
        "self.vrt": r"cannot be read as an image \(Recursion detected", "l0.vrt": "cannot be read",
        "l9.vrt": "its sources would be read up to",
    }  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the bound of memory is set by Linux's limits")
def test_bombs(tmp_path):
    said = bombs(tmp_path)
    with suppress(pytest.skip.Exception):  # without rasterio those of pictures alone
        said |= raster_bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, timeout=120,
        env={**os.environ, "KORNIA_TAR_MAX_PIXELS": str(2**24)},
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows = {name: (words, seconds) for name, words, seconds in map(json.loads, done.stdout.splitlines())}
    for name, expected in said.items():
        words, seconds = rows[name]
        assert words.startswith("ValueError") and name in words and re.search(expected, words), words
        assert seconds < 20 and "\n" not in words


def test_nothing_is_fetched_unless_told(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(connection.recv(100))
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        place = f"127.0.0.1:{server.getsockname()[1]}"
        wms = (
            f"<GDAL_WMS><Service name='WMS'><ServerUrl>http://{place}/x?</ServerUrl></Service><DataWindow><UpperLeftX>0"
            "</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0</LowerRightY><SizeX>40"
            "</SizeX><SizeY>40</SizeY></DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"
        )
        (tmp_path / "wms.tif").write_text(wms)
        inside = wms.replace("<", "&lt;").replace(">", "&gt;")
        for name, source in (
            ("curl", f"/vsicurl/http://{place}/a.tif"), ("stream", f"/vsicurl_streaming/http://{place}/a.tif"),
            ("http", f"http://{place}/a.tif"), ("wms", inside), ("zip", f"/vsizip//vsicurl/http://{place}/a.zip/a.tif"),
        ):  # fmt: skip
            (tmp_path / f"{name}.vrt").write_text(vrt(source, relative=0))
        for path in tmp_path.iterdir():
            source_files(path)
            with pytest.raises(ValueError, match="cannot be read as an image") as caught:
                read_image(path)
            assert "\n" not in str(caught.value)
        assert asked == []
        monkeypatch.setenv("KORNIA_TAR_REMOTE", "1")
        with pytest.raises(ValueError, match="cannot be read as an image"):
            read_image(tmp_path / "curl.vrt")
        assert asked


def test_no_program_is_run(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EOF\n" + b" " * 64
    )
    with pytest.raises(ValueError, match=r"a\.png: cannot be read"):
        read_image(tmp_path / "a.png")
    assert not marker.exists()


def test_pixels_beyond_float32_are_no_warning(tmp_path):
    pixels = PIXELS.astype(np.float64)
    pixels[0], pixels[1] = 1e300, -1e308
    raster = Raster(pixels, np.ones(pixels.shape, bool), None, tmp_path / "x.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for modality in ("optical", "sar"):
            grey = to_grey8(raster, modality)
            assert grey[2:].std() > 30 and (grey[0] == 255).all()


def test_pairs_of_integers_are_read(tmp_path):
    """As a Sentinel-1 SLC has them, with a nodata value or without."""
    rasterio = pytest.importorskip("rasterio")
    for nodata in (None, 0):
        with rasterio.open(
            tmp_path / "slc.tif",
            "w",
            driver="GTiff",
            width=SIDE,
            height=SIDE,
            count=1,
            dtype="complex_int16",
            nodata=nodata,
        ) as file:
            file.write(np.full((1, SIDE, SIDE), 3 + 4j, np.complex64))
        raster = read_image(tmp_path / "slc.tif")
        assert raster.pixels.dtype == np.float32 and (raster.pixels == 5).all()


@pytest.mark.parametrize(
    "told",
    [
        {"size": [float("inf"), 64]}, {"size": [1e400, 64]}, {"size": [-1, 64]}, {"size": [64, 10**30]}, {"size": 1},
        {"transform": [0] * 5}, {"transform": ["x"] * 6}, {"gcps": [[1]]}, {"gcps": 3}, {"crs": "nonsense"}, {"crs": 7},
        {"rpcs": {"line_off": 3}}, {"rpcs": []}, {},
    ],
)  # fmt: skip
def test_grids_of_nonsense(told):
    pytest.importorskip("rasterio")
    fine = {"size": [64, 64], "crs": None, "transform": [1, 0, 0, 0, 1, 0], "gcps": [], "rpcs": None}
    Grid.from_dict(fine)
    with pytest.raises(ValueError) as caught:
        Grid.from_dict({**fine, **told} if told else {})
    assert "\n" not in str(caught.value)


def test_a_georeference_without_extent_is_none(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    with pytest.raises(ValueError, match="no extent"):
        Georeference(GeoProfile("EPSG:32632", rasterio.Affine(0, 0, 5e5, 0, 0, 4.6e6)), (SIDE, SIDE))
    nan = float("nan")
    with pytest.raises(ValueError, match="no longitude"):
        Georeference(GeoProfile("EPSG:32632", rasterio.Affine(nan, 0, 5e5, 0, nan, 4.6e6)), (SIDE, SIDE))


@pytest.mark.parametrize(
    "world",
    [
        "nan\n0\n0\n-10\n5e5\n4e6\n",
        "0\n0\n0\n0\n0\n0\n",
        "1e308\n0\n0\n-1e308\n1e308\n1e308\n",
        "x" * 200_000,
        "\0\xff",
    ],
)
def test_world_files_of_nonsense(tmp_path, world):
    """The picture is read, without a georeference that could be used, or refused."""
    pytest.importorskip("rasterio")
    write_image(tmp_path / "a.tif", PIXELS)
    (tmp_path / "a.tfw").write_text(world, encoding="latin-1")
    try:
        raster = read_image(tmp_path / "a.tif")
    except ValueError as error:
        assert "a.tif: cannot be read as an image" in str(error) and "\n" not in str(error)
        return
    if raster.profile is not None:
        with pytest.raises(ValueError):
            Georeference.of(raster)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no regular file"):
        read_image(tmp_path / "a.png")


def test_a_damaged_hdf5_image_is_told_in_one_line(tmp_path, capfd):
    """GDAL's HDF5 prints a stack of thirty lines for each; a whole one is read as ever."""
    rasterio = pytest.importorskip("rasterio")
    with rasterio.Env() as env:
        if "HDF5Image" not in env.drivers():
            pytest.skip("this GDAL reads no HDF5")
    h5py = pytest.importorskip("h5py")
    pixels = np.random.default_rng(0).integers(1, 255, (40, 48), np.uint8)
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file.create_dataset("amplitude", data=pixels, chunks=(8, 8), compression="gzip")
    whole = (tmp_path / "whole.h5").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "whole.h5").pixels, pixels)
    capfd.readouterr()
    rng = np.random.default_rng(1)
    refused = 0
    for number in range(6):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 60):
            damaged[place] = rng.integers(256)
        path = tmp_path / f"{number}.h5"
        path.write_bytes(damaged)
        try:
            read_image(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused >= 4 and capfd.readouterr() == ("", "")


def test_a_vrt_leads_to_no_damaged_hdf5_image(tmp_path, capfd):
    rasterio = pytest.importorskip("rasterio")
    h5py = pytest.importorskip("h5py")
    with rasterio.Env() as env:
        if "HDF5Image" not in env.drivers():
            pytest.skip("this GDAL reads no HDF5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("z", data=np.ones((40, 48), np.uint8), chunks=(8, 8), compression="gzip")
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[100:900] = bytes(800)
    (tmp_path / "a.h5").write_bytes(content)
    for source in ("a.h5", f'HDF5:"{tmp_path / "a.h5"}"://z'):
        band = f'<SourceFilename relativeToVRT="{int(source == "a.h5")}">{source}</SourceFilename>'
        (tmp_path / "v.vrt").write_text(
            '<VRTDataset rasterXSize="48" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1">'
            f"<SimpleSource>{band}"
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
        )
        with pytest.raises(ValueError, match=r"a\.h5: is a damaged HDF5 file"):
            read_image(tmp_path / "v.vrt")
    assert capfd.readouterr() == ("", "")


def test_a_whole_hdf5_image_whose_other_part_needs_what_is_not_there_is_read(tmp_path):
    """A filter that is not installed is no damage; and a process that has no h5py says nothing of the file."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("good", data=np.ones((40, 48), np.uint8))
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((8, 8))
        made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((40, 48))
        other = h5py.h5d.create(file.id, b"other", h5py.h5t.NATIVE_UINT8, space, made)
        other.write_direct_chunk((0, 0), b"packed")
    assert walk_hdf5(path)
    path.write_bytes(path.read_bytes()[:200])
    assert not walk_hdf5(path)
