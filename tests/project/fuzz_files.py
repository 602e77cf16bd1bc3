"""Small valid files of every kind that we read, each with its reader: what ``fuzz.py`` damages."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from helpers import SIDE, SMALL, encode, write_shard
from PIL import Image

from eval.benchmark.cache import Cache, Prediction, read_about, read_digests, read_names, read_predictions
from eval.peers import Matches
from hloc_plugin import formats as hloc
from kornia_tar.cli.many.table import read_jobs
from kornia_tar.cli.pair import PairJob
from kornia_tar.geometry import PointMatches, Transform
from kornia_tar.geometry.transform import DisplacementField
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet
from kornia_tar.outputs.apply import read_transform
from kornia_tar.outputs.matches import read_matches, write_matches
from kornia_tar.outputs.summary import Row, read_summary, write_summary
from kornia_tar.raster import read_image, source_files, suspected_fill, to_grey8, to_rgb8, told_modality
from kornia_tar.raster.grid import Grid
from kornia_tar.text import TextBank

try:
    import rasterio
except ImportError:
    rasterio = None

H, W = 40, 48
HLOC_PAIR = ("day/a.png", "b.png")


class Kind(NamedTuple):
    """A file that we read."""

    files: dict[str, bytes]  # the first is damaged, unless another is named
    read: Callable[[Path], object]  # of the first
    damaged: str = ""
    text: bool = False  # whether words are exchanged besides bytes


def look(path: Path) -> None:
    """Read an image, and ask what every command asks of it."""
    source_files(path)
    raster = read_image(path)
    suspected_fill(raster)
    to_rgb8(raster)
    for told in ("optical", "sar", "auto"):
        to_grey8(raster, told_modality(raster, told))
    grid = Grid.of(raster)
    plain = json.loads(json.dumps(grid.to_dict()))
    if (georeference := grid.georeference) is not None:
        georeference.ground_distance()
        georeference.from_map(georeference.to_map(georeference.spread_points(3)))
    Grid.from_dict(plain)


def weights(path: Path) -> None:
    """Read weights, and ask what ``info`` asks."""
    matcher = TARMatcher(path)
    ", ".join(matcher.text_names)
    str(matcher.info.get("text", {}).get("encoder", "none"))
    str(matcher.info.get("calibration", {}).get("fitted"))


def table(path: Path) -> None:
    """Read a file of pairs."""
    read_jobs(path, PairJob(Path(), Path(), Path("out")))


def matcher_cache(path: Path) -> None:
    """Read what eval keeps."""
    read_about(path), read_digests(path), read_predictions(path, read_names(path))


def shards(path: Path) -> None:
    """Read training data."""
    from kornia_tar.training.data import read_optical, read_pairs

    read_optical([path], SIDE, progress=False) if "optical" in path.name else read_pairs([path], SIDE, progress=False)


def apply_transform(path: Path) -> None:
    """Read transform.json, and ask what ``apply`` asks."""
    transform, grid0, grid1, _ = read_transform(path)
    points = np.array([[0.0, 0.0], [30.0, 20.0]])
    with np.errstate(all="ignore"):
        transform(points)
    for grid in (grid0, grid1):
        if (georeference := grid.georeference) is not None:
            georeference.to_map(points)


def made() -> dict[str, Kind]:
    """Make a small valid file of every kind that this environment can make."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = dict(_pictures(Path(folder)))
        if rasterio is not None:
            kinds |= dict(_rasters(Path(folder)))
        return kinds | dict(_others(Path(folder)))


def _pictures(folder: Path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (H, W, 3), dtype=np.uint8)
    colour[8:30] = colour[8:30] // 64 * 64
    grey = colour[..., 0]
    deep = (grey.astype(np.uint16) << 8) + 7
    exif = Image.Exif()
    exif[274] = 6
    shown = Image.fromarray(colour)
    for name, image, options in (
        ("a.png", shown, {}), ("deep.png", Image.fromarray(deep), {}), ("p.png", shown.quantize(16), {}),
        ("a.jpg", shown, {"exif": exif}), ("prog.jpg", shown, {"progressive": True}), ("a.gif", shown.quantize(16), {}),
        ("a.bmp", shown, {}), ("a.webp", shown, {"exif": exif}), ("lossless.webp", shown, {"lossless": True}),
        ("a.ppm", shown, {}), ("a.tga", shown, {}), ("a.pcx", shown, {}), ("plain.tif", shown, {}),
        ("packed.tif", shown, {"compression": "packbits"}), ("lzw.tif", shown, {"compression": "tiff_lzw"}),
    ):  # fmt: skip
        image.save(folder / name, **options)
        yield name, Kind({name: (folder / name).read_bytes()}, look)


def _rasters(folder: Path):
    from rasterio.control import GroundControlPoint
    from rasterio.errors import RasterioError
    from rasterio.rpc import RPC
    from rasterio.transform import from_origin

    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 255, (3, H, W), dtype=np.uint8)
    grid = {"crs": "EPSG:32632", "transform": from_origin(5e5, 4.6e6, 10, 10)}
    corners = [(0, 0), (0, W), (H, 0), (H, W), (H / 2, W / 2)]
    gcps = [GroundControlPoint(row=r, col=c, x=9 + c / 900, y=45 - r / 900, z=3) for r, c in corners]
    one = [0.0] * 20
    flat, by_column, by_row = [1.0, *one[1:]], [0, 1.0, *one[2:]], [0, 0, 1.0, *one[3:]]
    rpc = RPC(100, 500, 45, 0.1, flat, by_row, 20, 20, 9, 0.1, flat, by_column, 24, 24)
    ramp = np.linspace(-30, 0, H * W, dtype=np.float32).reshape(1, H, W)
    for name, driver, bands, options in (
        ("deflate.tif", "GTiff", pixels, {**grid, "compress": "deflate"}),
        ("lzw-geo.tif", "GTiff", pixels[:1], {**grid, "compress": "lzw", "predictor": 2}),
        ("tiled.tif", "GTiff", ramp, {**grid, "tiled": True, "blockxsize": 16, "blockysize": 16, "nodata": -9999}),
        ("jpeg.tif", "GTiff", pixels, {**grid, "compress": "jpeg"}),
        ("webp.tif", "GTiff", pixels, {**grid, "compress": "webp"}),
        ("zstd.tif", "GTiff", pixels, {**grid, "compress": "zstd"}),
        ("big.tif", "GTiff", pixels, {**grid, "bigtiff": "yes"}),
        ("complex.tif", "GTiff", ramp.astype(np.complex64), grid),
        ("double.tif", "GTiff", ramp.astype(np.float64) * 1e300, grid),
        ("gcps.tif", "GTiff", pixels, {"gcps": gcps, "crs": "EPSG:4326"}),
        ("rpcs.tif", "GTiff", pixels, {"rpcs": rpc}),
        ("a.jp2", "JP2OpenJPEG", pixels, grid),
        ("a.img", "HFA", pixels, grid), ("a.ntf", "NITF", pixels, {**grid, "ICORDS": "N"}),
        ("a.pix", "PCIDSK", pixels, grid),
    ):  # fmt: skip
        try:
            with rasterio.open(
                folder / name, "w", driver=driver, width=W, height=H, count=len(bands), dtype=bands.dtype, **options
            ) as file:
                file.write(bands)
        except RasterioError:  # a driver that this GDAL was built without
            continue
        yield name, Kind({name: (folder / name).read_bytes()}, look)
    # A picture or raster with a companion, which is what is damaged.
    png = (folder / "a.png").read_bytes()
    tiff = (folder / "plain.tif").read_bytes()
    world = b"10.0\n0.0\n0.0\n-10.0\n500005.0\n4599995.0\n"
    yield "world file", Kind({"w.tif": tiff, "w.tfw": world}, look, "w.tfw", True)
    aux = """<PAMDataset><SRS>EPSG:32632</SRS><GeoTransform>5e5, 10, 0, 4.6e6, 0, -10</GeoTransform>
<PAMRasterBand band="1"><NoDataValue>0</NoDataValue></PAMRasterBand><GCPList Projection="EPSG:4326">
<GCP Id="1" Pixel="1" Line="2" X="9" Y="45"/><GCP Id="2" Pixel="40" Line="2" X="9.1" Y="45"/>
<GCP Id="3" Pixel="1" Line="30" X="9" Y="44.9"/></GCPList></PAMDataset>"""
    yield "world file of a picture", Kind({"y.png": png, "y.pgw": world}, look, "y.pgw", True)
    yield "aux.xml", Kind({"x.tif": tiff, "x.tif.aux.xml": aux.encode()}, look, "x.tif.aux.xml", True)
    yield "aux.xml of a picture", Kind({"z.png": png, "z.png.aux.xml": aux.encode()}, look, "z.png.aux.xml", True)
    for driver, name, head in (("ENVI", "e.bin", "e.hdr"), ("SAGA", "g.sdat", "g.sgrd"), ("EHdr", "b.bil", "b.hdr")):
        try:
            with rasterio.open(
                folder / name, "w", driver=driver, width=W, height=H, count=1, dtype="uint8", **grid
            ) as file:
                file.write(pixels[:1])
        except RasterioError:
            continue
        files = {n: (folder / n).read_bytes() for n in (name, head) if (folder / n).is_file()}
        if head in files:
            yield name, Kind(files, look, head, True)
    window = f'xOff="0" yOff="0" xSize="{W}" ySize="{H}"'
    vrt = f"""<VRTDataset rasterXSize="{W}" rasterYSize="{H}"><SRS>EPSG:32632</SRS>
<GeoTransform> 5e5, 10, 0, 4.6e6, 0, -10</GeoTransform><VRTRasterBand dataType="Byte" band="1">
<NoDataValue>0</NoDataValue><ColorInterp>Gray</ColorInterp><SimpleSource>
<SourceFilename relativeToVRT="1">v.png</SourceFilename><SourceBand>1</SourceBand><SrcRect {window}/>
<DstRect {window}/></SimpleSource></VRTRasterBand></VRTDataset>"""
    yield "x.vrt", Kind({"x.vrt": vrt.encode(), "v.png": png}, look, text=True)
    with h5py.File(folder / "image.h5", "w") as file:
        file.create_dataset("amplitude", data=pixels[0], chunks=(16, 16), compression="gzip")
    yield "image.h5", Kind({"image.h5": (folder / "image.h5").read_bytes()}, look)
    ascii_grid = f"ncols {W}\nnrows {H}\nxllcorner 5e5\nyllcorner 4.6e6\ncellsize 10\nNODATA_value -9999\n"
    rows = "\n".join(" ".join(str(v) for v in row) for row in pixels[0].tolist())
    yield "a.asc", Kind({"a.asc": (ascii_grid + rows).encode()}, look, text=True)


def _others(folder: Path):
    rng = np.random.default_rng(2)
    import torch

    torch.manual_seed(0)
    info = {"text": {"encoder": "e", "names": ["river", "road"], "templates": ["a {}"]}, "step": 3}
    save_checkpoint(folder / "w.safetensors", TARNet(SMALL), info)
    yield "weights", Kind({"w.safetensors": (folder / "w.safetensors").read_bytes()}, weights)
    head = (folder / "w.safetensors").read_bytes()
    yield "weights, their head", Kind({"w.safetensors": head}, weights, text=True)
    torch.save({"a": torch.zeros(3)}, folder / "w.pt")
    yield "pickle", Kind({"w.pt": (folder / "w.pt").read_bytes()}, weights)
    bank = TextBank(("river", "road"), torch.eye(2, 8), "e", ("a {}",))
    for suffix in ("npz", "h5", "safetensors"):
        bank.save(folder / f"bank.{suffix}")
        content = (folder / f"bank.{suffix}").read_bytes()
        yield f"bank.{suffix}", Kind({f"bank.{suffix}": content}, TextBank.load, text=suffix == "safetensors")
    for name in ("m.h5", "m.npz"):
        write_matches(folder / name, {"keypoints0": rng.random((5, 2)), "confidence": rng.random(5), "image0": "a.png"})
        yield name, Kind({name: (folder / name).read_bytes()}, read_matches)
    one = np.zeros((5, 2), np.float32)
    hloc.write_features(folder / "feats.h5", {name: (one, one[:, 0]) for name in HLOC_PAIR})
    dense = PointMatches(one, one, one[:, 0])
    hloc.write_matches(folder / "hloc.h5", {HLOC_PAIR: (dense, np.stack([np.arange(5)] * 2, 1), one[:, 0])})
    for name, read in (
        ("feats.h5", lambda path: hloc.read_keypoints(path, HLOC_PAIR)),
        ("hloc.h5", lambda path: hloc.read_matches(path, [HLOC_PAIR])),
    ):
        yield name, Kind({name: (folder / name).read_bytes()}, read)
    named = f"# hloc's\n{' '.join(HLOC_PAIR)}\nb.png c.png\n".encode()
    yield "pairs.txt", Kind({"pairs.txt": named}, hloc.read_pairs, text=True)
    points = np.zeros((3, 2), np.float32)
    kept = Prediction(Matches(points, points, np.ones(3, np.float32)), np.eye(3), (H, W), "fill", 0.1, "d")
    with Cache(folder / "cache.h5", {"key": "k"}) as cache:
        cache.add("one", kept)
    yield "cache.h5", Kind({"cache.h5": (folder / "cache.h5").read_bytes()}, matcher_cache)
    field = DisplacementField((0.0, 0.0), (16.0, 16.0), rng.random((3, 4, 2)))
    grids = {"image0": Grid((H, W), None).to_dict(), "image1": Grid((H, W), None).to_dict()}
    if rasterio is not None:
        from kornia_tar.raster import GeoProfile

        profile = GeoProfile("EPSG:32632", rasterio.Affine(10, 0, 5e5, 0, -10, 4.6e6))
        gcp = rasterio.control.GroundControlPoint
        gcps = tuple(gcp(row=r, col=c, x=9 + c / 900, y=45 - r / 900, z=3) for r in (0, H) for c in (0, W))
        grids = {
            "image0": Grid((H, W), profile).to_dict(),
            "image1": Grid((H, W), GeoProfile("EPSG:4326", None, gcps=gcps)).to_dict(),
        }
    told = {**Transform(np.eye(3), field).to_dict(), "registered": True, **grids}
    yield "transform.json", Kind({"transform.json": json.dumps(told).encode()}, apply_transform, text=True)
    pairs = (
        "image0,image1,name,modality0,nodata1,search_radius\na.tif,b.tif,one,optical,-9999,500\na.tif,c.tif,,auto,,\n"
    )
    yield "pairs.csv", Kind({"pairs.csv": pairs.encode()}, table, text=True)
    write_summary(folder, [Row("one", "a.tif", "b.tif", "registered", probability=0.99, search="pixels")])
    content = (folder / "summary.csv").read_bytes()
    yield "summary.csv", Kind({"summary.csv": content}, lambda path: read_summary(path.parent), text=True)
    picture = encode(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) // 32 * 32)
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return
    members = {"s__a.optical.webp": picture, "s__a.sar.webp": picture, "s__a.json": b'{"class": "river"}'}
    for name in ("train-0.tar", "optical_only-0.tar"):
        yield name, Kind({name: write_shard(folder / name, members).read_bytes()}, shards)
