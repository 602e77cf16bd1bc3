"""``kornia-tar landcover``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from kornia_tar import __version__
from kornia_tar.cli.command import AddCommand, steps
from kornia_tar.cli.options import add_overwrite, add_pair, add_progress, inputs_of, read_pair
from kornia_tar.files import check_outputs, output_folder, write_json
from kornia_tar.matching.landcover import compare_landcover, read_landcover
from kornia_tar.outputs.landcover_sheet import LEAST, Side, draw_landcover
from kornia_tar.raster import to_rgb8, write_image
from kornia_tar.registration.files import make_matcher, stretched


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "landcover", _do, "draw what the text's words say of two images, cell by cell",
        "kornia-tar landcover optical.png sar.png -o landcover.png\n"
        "  kornia-tar landcover optical.tif sar.tif --names river,forest,farmland --json shares.json\n"
        "  kornia-tar landcover optical.png sar.png --bank my_words.npz --names dam,road",
    )  # fmt: skip
    add_pair(parser)
    parser.add_argument("-o", "--out", type=Path, default=Path("landcover.png"),
                        help="picture to write, .png (default: landcover.png)")  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write each word's share of both images, and their agreement")
    parser.add_argument("--names", help="restrict the map to these words, comma-separated; with --remoteclip any "
                        "words")  # fmt: skip
    parser.add_argument("--remoteclip", type=Path, metavar="FILE",
                        help="RemoteCLIP's checkpoint, to read words that no bank holds (needs [text])")  # fmt: skip
    add_overwrite(parser)
    add_progress(parser)


def _do(a: argparse.Namespace) -> int:
    if a.out.suffix.lower() != ".png":
        raise ValueError(f"{a.out}: the picture is a .png")
    if a.bank is not None and a.remoteclip is not None:
        raise ValueError("--bank and --remoteclip exclude each other")
    names = None if a.names is None else [name.strip() for name in a.names.split(",") if name.strip()]
    outputs = [path for path in (a.out, a.json) if path is not None]
    read = [*inputs_of(a.image0, a.image1, a.weights, a.bank), *([] if a.remoteclip is None else [a.remoteclip])]
    check_outputs(outputs, read, overwrite=a.overwrite)
    step = steps(4, a.progress)
    step("reading")
    rasters = read_pair(a.image0, a.image1, a.nodata0, a.nodata1)
    step("loading the weights")
    matcher = make_matcher(a.weights, a.device, a.threads, a.bank)
    if a.remoteclip is not None:
        matcher.set_text_prior("remoteclip", checkpoint=a.remoteclip, names=names)
    elif unknown := [name for name in names or () if name not in matcher.text_names]:
        lacking, known = ", ".join(map(repr, unknown)), ", ".join(matcher.text_names) or "none"
        raise ValueError(f"--names: the text has no {lacking}: it has {known}; --remoteclip FILE reads any words")
    output_folder(a.out.parent)
    step("asking the words")
    sides = []
    for raster, (grey, modality) in zip(rasters, stretched(*rasters, a.modality0, a.modality1), strict=True):
        cover = read_landcover(matcher, grey, raster.mask, modality)
        kind = "SAR" if cover.modality == "sar" else cover.modality
        shown = to_rgb8(raster) if cover.modality == "optical" else grey
        sides.append(
            Side(shown, grey, cover if names is None else cover.only(names), f"{kind} · {raster.path.name}", kind)
        )
    covers = [side.cover for side in sides]
    same = compare_landcover(covers[0], covers[1]) if rasters[0].size == rasters[1].size else None
    encoder = matcher.info.get("text", {}).get("encoder", "unknown encoder")
    told = [f"{len(covers[0].names)} words of {encoder}"]
    if same is not None:
        told.append(f"same word in {100 * same.same:.0f} % of the cells, {100 * same.chance:.0f} % by chance")
    taught = covers[0].seen
    step("drawing")
    if a.json is not None:
        output_folder(a.json.parent)
        write_json(a.json, {
            "image0": str(a.image0), "image1": str(a.image1), "modalities": [c.modality for c in covers],
            "shares": {name: [c.shares[k] for c in covers] for k, name in enumerate(covers[0].names)},
            "agreement": None if same is None else asdict(same),
            "seen": None if taught is None else {name: name in taught for name in covers[0].names},
            "text": encoder, "weights": str(a.weights), "kornia_tar": __version__,
        })  # fmt: skip
    write_image(a.out, draw_landcover(sides[0], sides[1], ["Land cover in words", " · ".join(told)]))
    for side in sides:
        parts = sorted(zip(side.cover.shares, side.cover.names, strict=True), reverse=True)
        print(f"{side.title}: {', '.join(f'{name} {100 * part:.0f} %' for part, name in parts if part >= LEAST)}")
    if taught is None:
        print("these weights have no land-cover head: the map is TAFE's attention, which is rough")
    elif unseen := [name for name in covers[0].names if name not in taught]:
        print(f"not seen in training, guessed from the words alone: {', '.join(unseen)}")
    print(
        f"{told[-1]}, if the images are aligned pixel to pixel"
        if same
        else "the images differ in size, so their maps are not compared"
    )
    print(f"see {a.out}")
    return 0
