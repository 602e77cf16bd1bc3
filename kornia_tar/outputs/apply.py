"""The transform of a registration on disk, and other files of image1's product laid onto image0 by it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kornia_tar.files import check_outputs, output_folder, replacing_all, write_json
from kornia_tar.geometry import Transform, blocks, source_window
from kornia_tar.outputs.registered import GridChoice, Resampling, Target, resampled, valid_blocks, write_on_grid
from kornia_tar.raster import Raster, read_image, remarks, source_files
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.image import IMAGE_SUFFIXES, TIFF_SUFFIXES
from kornia_tar.raster.resample import BLOCK
from kornia_tar.raster.write import beyond_png, check_sidecars
from kornia_tar.registration.result import Registration

NAME, MAX_BYTES = "transform.json", 2**26  # as results have it, and of one that is read
ELSEWHERE = "nothing of it lies on the grid to write on; is it of another scene?"
NOTHING_VALID = "none of its valid pixels shows on the grid to write on; is it of another scene?"
SUFFIXES = TIFF_SUFFIXES | {".png"}  # of one file that is written


def write_transform(
    path: str | os.PathLike[str], outcome: Registration, grids: tuple[Grid, Grid] | None = None
) -> None:  # fmt: skip
    """Write what a registration found, and both images' grids, as JSON: what :func:`apply_transform` reads.

    Args:
        path: of the file; replaced where it is there.
        outcome: of :func:`kornia_tar.register_files`, say.
        grids: of image0 and image1, where the outcome does not have them.

    Raises:
        ValueError: there is no transform, or there are no grids.
    """
    grids = outcome.grids if grids is None else grids
    if outcome.transform is None:
        raise ValueError(f"{path}: the registration found no transform: {'; '.join(outcome.reasons)}")
    if grids is None:
        raise ValueError(f"{path}: a registration of arrays has no grids; give them, or use register_files")
    told = {"image0": grids[0].to_dict(), "image1": grids[1].to_dict()}
    write_json(path, {**outcome.transform.to_dict(), "registered": bool(outcome.registered), **told})


def read_transform(path: Path) -> tuple[Transform, Grid, Grid, bool]:
    """Read ``transform.json``: the transform, image0's grid, image1's, and whether it was accepted.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is none of ours, in one line.
    """
    text = _text(path)
    try:
        values: Any = json.loads(text)
        if not isinstance(values, dict) or not all(isinstance(values.get(key), dict) for key in ("image0", "image1")):
            raise ValueError("holds no grids of two images")
        grids = (Grid.from_dict(values[key]) for key in ("image0", "image1"))
        return Transform.from_dict(values), *grids, values.get("registered") is True  # type: ignore[return-value]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        there = path.with_name(NAME)
        hint = f"; give {there}" if there.is_file() and not there.samefile(path) else ""
        raise ValueError(f"{path}: not a {NAME} of ours ({error}){hint}") from None


def _text(path: Path) -> str:
    """The text of ``transform.json``; an error says what stands in its place."""
    if (there := path / NAME).is_file():
        raise ValueError(f"{path}: is a folder; give {there}")
    if not path.is_file():
        lacking = f"holds no {NAME}" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {lacking}; 'kornia-tar register' writes it")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: is larger than any {NAME} of ours")
        with suppress(UnicodeDecodeError):
            return path.read_text("utf-8")
    raise ValueError(f"{path}: is no {NAME}; {NAME} comes first, then the images")


class Applied(NamedTuple):
    """A file that was written."""

    path: Path
    share: float  # of the grid, that shows something
    warnings: tuple[str, ...] = ()  # a line each, see ``raster.remarks``


def apply_transform(
    transform: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    resampling: Resampling = "bilinear",
    grid: GridChoice = "reference",
    resolution: float | None = None,
    nodata: float | None = None,
    refused: bool = False,
    overwrite: bool = False,
) -> list[Applied]:
    """Lay files of image1's product (bands, polarisations, resolutions) onto image0, as ``kornia-tar apply``.

    Args:
        transform: ``transform.json`` of a registration, see :func:`write_transform`.
        images: by their own georeferences where both have one, else as pictures of the same extent.
        out: file to write, .tif, or .png where that holds the values; or a folder, for NAME_registered.tif of each
            image.
        resampling: "nearest" mixes nothing, else what is finer is averaged over areas first.
        grid: to write on: "reference" for image0's, "source" for each image's own.
        resolution: sides of its pixels, in units of its reference system; None for those that it has.
        nodata: value of the images' missing pixels, beside what the files declare.
        refused: apply a transform that the registration refused, too.
        overwrite: replace earlier results; an input is never replaced.

    Returns:
        what was written, in the order of the images.

    Raises:
        FileNotFoundError, ValueError: a file that cannot be used or would be replaced, named.
    """
    target = Target(resampling, grid, resolution)
    return applied(Path(transform), [*map(Path, images)], Path(out), target, nodata, refused, overwrite)


def applied(
    path: Path, images: Sequence[Path], out: Path, target: Target, nodata: float | None, refused: bool, overwrite: bool,
    step: Callable[[str], None] = lambda text: None,
) -> list[Applied]:  # fmt: skip
    """Do what :func:`apply_transform` does: all files or none; ``step`` is told which begins."""
    transform, grid0, grid1, registered = read_transform(path)
    if not registered and not refused:
        raise ValueError(f"{path}: this registration was refused; give --refused to apply it all the same")
    if target.grid == "reference":
        target.chosen(grid0, grid0)  # what cannot be is said before anything is made
    outputs = _outputs(images, out)
    check_outputs(outputs, [path, *(file for image in images for file in source_files(image))], overwrite=overwrite)
    check_sidecars(outputs)

    def laid(image: Path, output: Path) -> tuple[Raster, Grid, Transform]:
        """Read an image, and find the grid to write on and the way from there to the image."""
        raster = read_image(image, nodata=nodata, colours=target.resampling != "nearest", windowed=True)
        try:
            own = Grid.of(raster)
            grid, way = target.reached(transform, grid0, own, grid1.to(own))
        except ValueError as error:
            raise ValueError(f"{image}: {error}") from error
        if output.suffix.lower() == ".png" and (lacking := beyond_png(raster.pixels)):
            raise ValueError(f"{image}: {lacking}, and {output.name} would lose its values; write .tif instead")
        if not any(source_window(way, *block, own.size, 0) for block in blocks(grid.size, BLOCK)):
            raise ValueError(f"{image}: {ELSEWHERE}")
        if not any(part.any() for *_, part in valid_blocks(raster, way, grid.size, target.resampling)):
            raise ValueError(f"{image}: {NOTHING_VALID}")
        return raster, grid, way

    for image, output in zip(images, outputs, strict=True) if len(images) > 1 else ():
        laid(image, output)  # what the last one lacks is said before the first is written
    output_folder(outputs[0].parent)
    done = []
    with replacing_all(outputs) as asides:
        for image, output, aside in zip(images, outputs, asides, strict=True):
            step(image.name)
            raster, grid, way = laid(image, output)
            pixels, valid, told = resampled(raster, way, grid.size, target.resampling)
            write_on_grid(aside, pixels, valid, told, grid, raster, target.resampling)
            # Of labels the least is no fill value for lying at the border, and "nearest" would mix none with others.
            warnings = remarks(raster, None if target.resampling == "nearest" else "--nodata")
            done.append(Applied(output, float(valid.mean()), tuple(warnings)))
    return done


def _outputs(images: Sequence[Path], out: Path) -> list[Path]:
    """Name the file that each image is written to."""
    suffix = out.suffix.lower()
    if suffix not in IMAGE_SUFFIXES or out.is_dir():
        outputs = [out / f"{image.stem}_registered.tif" for image in images]
        if len(set(outputs)) < len(outputs):
            raise ValueError("two images of one name would be written to one file: apply them one by one")
        return outputs
    if suffix not in SUFFIXES:
        raise ValueError(f"{out}: cannot write {suffix}; give .tif or .png, or a folder for NAME_registered.tif")
    if len(images) > 1:
        raise ValueError(f"{out}: is one file, but {len(images)} images are given; name a folder")
    return [out]
