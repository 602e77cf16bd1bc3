"""``kornia-tar apply``."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from kornia_tar.cli.command import AddCommand
from kornia_tar.cli.options import add_overwrite, add_resampling
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.geometry import Transform
from kornia_tar.geometry.transform import PointMap
from kornia_tar.outputs.registered import resampled, write_on_grid
from kornia_tar.raster import read_image, source_files
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.read import pixel_limit
from kornia_tar.raster.resample import smooth_transform

MAX_BYTES = 2**26  # of a transform.json that is read
SUFFIXES = (".tif", ".tiff")


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "apply", _do, "lay other bands, polarisations or resolutions of image1's product onto image0",
        "kornia-tar apply out/transform.json s1_vh.tif -o s1_vh_registered.tif\n"
        "  kornia-tar apply out/transform.json s1_vv.tif s1_vh.tif incidence.tif -o registered/",
    )  # fmt: skip
    parser.add_argument("transform", type=Path, help="transform.json of a registration")
    parser.add_argument("images", type=Path, nargs="+", help="files of the product that image1 is of; by their own "
                        "georeferences where both have one, else as pictures of the same extent")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write, .tif; or a folder, for "
                        "NAME_registered.tif of each image")  # fmt: skip
    add_resampling(parser)
    parser.add_argument("--nodata", type=float, metavar="V", help="value of the images' missing pixels, beside what "
                        "the files declare; --nodata=-9999 with the =")  # fmt: skip
    parser.add_argument("--refused", action="store_true", help="apply a transform that the registration refused, too")
    add_overwrite(parser)


def _do(a: argparse.Namespace) -> int:
    transform, grid0, grid1, registered = read_transform(a.transform)
    if not registered and not a.refused:
        raise ValueError(f"{a.transform}: this registration was refused; give --refused to apply it all the same")
    if grid0.size[0] * grid0.size[1] > (limit := pixel_limit()):
        raise ValueError(f"{a.transform}: image0 has {grid0.size} pixels; raise KORNIA_TAR_MAX_PIXELS from {limit}")
    single = a.out.suffix.lower() in SUFFIXES
    if single and len(a.images) > 1:
        raise ValueError(f"{a.out}: is one file, but {len(a.images)} images are given; name a folder")
    outputs = [a.out] if single else [a.out / f"{image.stem}_registered.tif" for image in a.images]
    if len(set(outputs)) < len(outputs):
        raise ValueError("two images of one name would be written to one file: apply them one by one")
    read = [a.transform, *(file for image in a.images for file in source_files(image))]
    check_outputs(outputs, read, overwrite=a.overwrite)
    output_folder(outputs[0].parent)
    for image, output in zip(a.images, outputs, strict=True):
        raster = read_image(image, nodata=a.nodata, colours=a.resampling != "nearest", windowed=True)
        try:
            way = _joined(transform, grid0, grid1.to(Grid.of(raster)))
        except ValueError as error:
            raise ValueError(f"{image}: {error}") from error
        pixels, valid, nodata = resampled(raster, way, grid0.size, a.resampling)
        if not valid.any():
            raise ValueError(f"{image}: shows nothing of the ground that image0 shows; is it of another scene?")
        write_on_grid(output, pixels, valid, nodata, grid0, raster, a.resampling)
        print(f"{output}: {valid.mean():.0%} of image0's grid")
    return 0


def _joined(transform: Transform, grid0: Grid, onward: PointMap) -> Transform:
    """From image0's pixels through image1's to those of another file."""
    spacing = math.inf if transform.field is None else min(transform.field.spacing)
    return smooth_transform(lambda points: onward(transform(points)), grid0.size, spacing)


def read_transform(path: Path) -> tuple[Transform, Grid, Grid, bool]:
    """Read ``transform.json``: the transform, image0's grid, image1's, and whether it was accepted.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is none of ours, in one line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; 'kornia-tar register' writes it")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: is larger than any transform.json of ours")
    try:
        values: Any = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict) or "image0" not in values:
            raise ValueError("holds no grids of two images")
        grids = (Grid.from_dict(values[key]) for key in ("image0", "image1"))
        return Transform.from_dict(values), *grids, values.get("registered") is True  # type: ignore[return-value]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a transform.json of ours ({error})") from None
