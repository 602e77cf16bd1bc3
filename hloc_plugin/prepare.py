"""Rasters as hloc cannot read them, turned into 8-bit PNG.

hloc reads by OpenCV: a float TIFF is no image to it, and 16 bits are divided by 256, which leaves a Sentinel-2 scene
with a dozen grey values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kornia_tar.files import check_outputs, output_folder, write_json
from kornia_tar.raster import Raster, read_image, remarks, source_files, to_grey8, to_rgb8, told_modality, write_image
from kornia_tar.raster.gdal import absent
from kornia_tar.raster.nodata import holds

SUFFIXES = (
    ".tif", ".tiff", ".gtif", ".gtiff", ".vrt", ".img", ".jp2", ".ntf", ".nitf", ".pix", ".sdat", ".bin", ".png",
    ".jpg", ".jpeg", ".webp", ".bmp", ".gif",
)  # fmt: skip
UNFINISHED = ".prepare-unfinished"  # in the results' folder: the images that a run has begun, until all are written
#: Endings of what lies beside images and is none.
BESIDE = (
    ".xml",
    ".hdr",
    ".ovr",
    ".prj",
    ".wld",
    ".json",
    ".geojson",
    ".csv",
    ".txt",
    ".md",
    ".html",
    ".h5",
    ".sgrd",
    ".bin",
)


def prepare_images(
    sources: Sequence[Path],
    out: Path,
    modality: Literal["optical", "sar"] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    *,
    nodata: float | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Turn rasters into 8-bit PNG.

    Writes ``out/images/NAME.png`` of each image, in sub-folders as they were, ``out/masks/NAME.png.png`` where pixels
    are missing, and ``out/prepare.json``, which tells size, source and georeference of each. A file of pairs parts
    names at blanks: in NAME they become "_".

    The 2-98 percentile of the valid pixels is stretched to 1-255 (SAR of more than 8 bits in decibels), and 0 marks
    what is missing: ``"nodata": 0`` in the conf's model lets TAR leave it out. Masks carry COLMAP's names and lie
    apart, for hloc takes every file of the image folder for an image. Pixels stay where they are.

    Args:
        sources: image files, and folders whose images (:data:`SUFFIXES`) are taken, sub-folders with them. Where two
            folders hold images of one name, as many of the folders' own parts go before all names as tell them apart.
        out: folder; made when missing.
        modality: of all sources; None: as :func:`kornia_tar.raster.told_modality` decides for "auto", which leaves
            8-bit grey images open (null in ``prepare.json``).
        progress: told one line for each image, which files of a folder are left out, and what
            :func:`kornia_tar.raster.remarks` says.
        nodata: value of missing pixels, beside what the files declare, in all sources whose data type can have it.
        overwrite: replace earlier results; a source is never replaced. What an interrupted run has written is, too.

    Returns:
        names of the images written, as a file of pairs has them.

    Raises:
        FileNotFoundError: a source is missing.
        ValueError: a folder without images, two sources of one name, an image that cannot be read, or a result that is
            there already or would replace a source.
    """
    files = _named(sources, out)
    for source in sources:
        for path in _left_out(source, out):
            progress(f"warning: {path}: left out, for its name ends like no image's; name the file itself to have it")
    unfinished = out / UNFINISHED
    begun = unfinished.read_text("utf-8", "replace").splitlines() if unfinished.is_file() else []
    outputs = {name: (out / "images" / name, out / "masks" / f"{name}.png") for name in files}
    foreign = [path for name in files if name not in begun for path in outputs[name]]  # what was begun is made anew
    read = [path for source in files.values() for path in source_files(source)]
    check_outputs([out / "prepare.json", *foreign], read, overwrite=overwrite)
    check_outputs([path for paths in outputs.values() for path in paths], read, overwrite=True)
    images, about = output_folder(out / "images"), []
    for number, (name, path) in enumerate(files.items(), 1):
        with unfinished.open("a", encoding="utf-8") as journal:
            journal.write(f"{name}\n")
        raster = read_image(path)
        if nodata is not None and holds(raster.pixels.dtype, nodata):  # the SAR image's -9999 is none of an 8-bit one's
            raster = read_image(path, nodata=nodata)
        for told in remarks(raster, "--nodata"):
            progress(f"warning: {told}")
        kind = told_modality(raster, modality or "auto")
        colour = kind != "sar" and raster.pixels.ndim == 3 and raster.pixels.shape[-1] >= 3
        pixels = np.maximum(to_rgb8(raster) if colour else to_grey8(raster, kind), 1)
        mask = raster.mask[..., None] if pixels.ndim == 3 else raster.mask
        output_folder((images / name).parent)
        write_image(images / name, np.where(mask, pixels, 0).astype(np.uint8))
        place = out / "masks" / f"{name}.png"
        if not raster.mask.all():
            output_folder(place.parent)
            write_image(place, raster.mask.astype(np.uint8) * 255)
        else:
            place.unlink(missing_ok=True)  # an earlier image's
        about.append({"image": name, "modality": kind, **_about(raster)})
        progress(f"[{number}/{len(files)}] {path} → {images / name}, {kind or 'grey'}, {raster.mask.mean():.0%} valid")
    convention = "transform: GDAL's order a b c d e f, from the corner of pixel (0, 0)"
    write_json(out / "prepare.json", {"convention": convention, "images": about})
    unfinished.unlink(missing_ok=True)
    return list(files)


def _named(sources: Sequence[Path], out: Path) -> dict[str, Path]:
    """Name all images of the sources as files of pairs shall have them."""
    found = [(source, path) for source in sources for path in _files(source, out)]
    names: list[str] = []
    deepest = max((len(source.resolve().parts) for source in sources), default=0)
    for depth in range(deepest):
        names = [
            _name(Path(*source.resolve().parts[1:][-depth:] if depth else (), path.relative_to(source)))
            if source.is_dir()
            else _name(Path(path.name))
            for source, path in found
        ]
        if len(set(names)) == len(names):
            break
    files: dict[str, Path] = {}
    for (_, path), name in zip(found, names, strict=True):
        if name in files:
            raise ValueError(f"{path} and {files[name]} would both become {name}: rename one")
        files[name] = path
    return files


def _name(path: Path) -> str:
    name = re.sub(r"\s", "_", path.with_suffix(".png").as_posix())  # hloc's files of pairs part names at any blank
    return f"_{name}" if name.startswith("#") else name  # which begins a comment there


def _files(source: Path, out: Path) -> list[Path]:
    """The images of one source; of a folder those below it, but for hidden ones and what is written there."""
    if not source.exists():
        raise FileNotFoundError(absent(source))
    if not source.is_dir():
        return [source]
    inside = [path for path in _inside(source, out) if _is_image(path)]
    if not inside:
        raise ValueError(f"{source}: holds no image ({', '.join(SUFFIXES)})")
    return inside


def _left_out(source: Path, out: Path) -> list[Path]:
    """The files of a folder that may be images by another name."""
    inside = _inside(source, out)
    images = {path.with_suffix("") for path in inside if _is_image(path)}
    others = [path for path in inside if not _is_image(path) and path.suffix.lower() not in BESIDE]
    return [path for path in others if not (path.suffix.lower().endswith("w") and path.with_suffix("") in images)]


def _is_image(path: Path) -> bool:
    """Whether a file of a folder is taken for an image by its name; of ENVI's ``.bin`` a header must tell."""
    end = path.suffix.lower()
    return end in SUFFIXES and (end != ".bin" or any(path.with_suffix(h).is_file() for h in (".hdr", ".bin.hdr")))


def _inside(source: Path, out: Path) -> list[Path]:
    """All files below a folder, but for hidden ones and what is written there; none of what is no folder."""
    written = [(out / name).resolve() for name in ("images", "masks")]
    written = [folder for folder in written if not source.resolve().is_relative_to(folder)]
    return [
        path
        for path in sorted(source.rglob("*") if source.is_dir() else [])
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and not any(path.resolve().is_relative_to(folder) for folder in written)
    ]


def _about(raster: Raster) -> dict[str, Any]:
    profile = raster.profile
    return {
        "source": raster.path, "height": raster.size[0], "width": raster.size[1],
        "valid": float(raster.mask.mean()),
        "crs": None if profile is None or profile.crs is None else profile.crs.to_string(),
        "transform": None if profile is None or profile.transform is None else list(profile.transform)[:6],
    }  # fmt: skip
