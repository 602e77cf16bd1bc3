"""``tar-hloc``: prepare, match-dense, verify, reconstruct.

Exit codes: 0 done · 1 bad input, option or environment, one line says which · 2 done, but no pair was accepted or no
model was reconstructed · 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from hloc_plugin import registry
from hloc_plugin.confs import confs
from hloc_plugin.registry import register
from kornia_tar import AcceptanceConfig
from kornia_tar.cli.command import Parser, adder, choose_device, run_command

if TYPE_CHECKING:
    from kornia_tar import Registrar

NOTHING_FOUND = 2

#: What hloc's reconstruction writes into its folder, and removes there before.
HLOC_WRITES = (
    "database.db",
    "models",
    *(f"{part}.bin" for part in ("cameras", "images", "points3D", "rigs", "frames")),
)

EXAMPLES = """examples:
  tar-hloc prepare scene.tif radar.tif -o data/                       8-bit PNG in data/images, masks in data/masks
  tar-hloc match-dense --pairs pairs.txt --images data/images --nodata 0 -o out/
  tar-hloc verify --pairs pairs.txt --images data/images --features out/feats_matches-tar-guided.h5 \\
      --matches out/matches-tar-guided_pairs.h5 --nodata 0 -o verified/
  tar-hloc match-dense --conf tar_sfm --pairs views.txt --images views/ -o out/
  tar-hloc reconstruct --pairs views.txt --images views/ --features out/feats_matches-tar-sfm.h5 \\
      --matches out/matches-tar-sfm_views.h5 -o sfm/                  optical views only: SAR is no pinhole camera

A file of pairs has one "image0 image1" a line.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(build_parser(), argv, also=(KeyError, AssertionError))  # hloc raises these on bad input


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="tar-hloc", description="TAR inside hloc: dense matching, verification and reconstruction.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command = adder(parser)

    prepare = command(
        "prepare", run_prepare, "turn GeoTIFF, 16-bit, float and decibel rasters into 8-bit PNG for hloc",
        "tar-hloc prepare s2.tif s1.tif -o data/",
    )  # fmt: skip
    prepare.add_argument("sources", type=Path, nargs="+", help="images, or folders of images")
    prepare.add_argument("-o", "--out", type=Path, required=True, help="folder for images/, masks/ and prepare.json")
    prepare.add_argument("--modality", choices=("auto", "optical", "sar"), default="auto",
                         help="of all sources; auto: one band of more than 8 bits is SAR (default: auto)")  # fmt: skip
    prepare.add_argument("--nodata", type=float, metavar="V", help="value of missing pixels, beside what the files "
                         "declare, in all sources whose data type can have it; --nodata=-9999 with the =")  # fmt: skip
    prepare.add_argument("--overwrite", action="store_true", help="replace earlier results; a source is never replaced")

    dense = command(
        "match-dense", run_match_dense, "match pairs with TAR and write hloc's features and matches",
        "tar-hloc match-dense --pairs pairs.txt --images images/ -o out/ --conf tar",
    )  # fmt: skip
    _add_pairs(dense)
    _add_matcher(dense)

    check = command(
        "verify", run_verify, "verify matches geometrically; needs pycolmap, not hloc",
        "tar-hloc verify --pairs pairs.txt --images images/ --features f.h5 --matches m.h5 -o verified/",
    )  # fmt: skip
    _add_pairs(check)
    _add_matched(check)
    _add_checks(check)

    rebuild = command(
        "reconstruct", run_reconstruct, "incremental structure from motion by hloc, for optical views",
        "tar-hloc reconstruct --pairs views.txt --images views/ --features f.h5 --matches m.h5 -o sfm/",
    )  # fmt: skip
    _add_pairs(rebuild)
    _add_matched(rebuild)
    rebuild.add_argument("--camera", nargs="+", metavar=("MODEL", "PARAM"), help="COLMAP's model and parameters of all "
                         "views, known and held: SIMPLE_PINHOLE 500 240 180 (default: found by COLMAP, which cannot "
                         "tell them from overhead views of little relief)")  # fmt: skip
    rebuild.add_argument("--package", default="hloc", help="Python package that contains hloc (default: hloc)")
    rebuild.add_argument(
        "--overwrite", action="store_true", help="replace an earlier model; an input is never replaced"
    )
    rebuild.add_argument("--verbose", action="store_true", help="show COLMAP's log")
    return parser


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=Path, required=True, help="text file, one 'image0 image1' a line")
    parser.add_argument("--images", type=Path, required=True, help="folder that the names in --pairs are relative to")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results; made when missing")


def _add_matched(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=Path, required=True, help="HDF5 of features, hloc's or match-dense's")
    parser.add_argument("--matches", type=Path, required=True, help="HDF5 of matches")
    parser.add_argument("--camera-mode", default="AUTO", choices=("AUTO", "SINGLE", "PER_FOLDER", "PER_IMAGE"),
                        help="how images share cameras (default: AUTO)")  # fmt: skip


def _add_matcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conf", choices=sorted(confs), default="tar", help="configuration (default: tar)")
    parser.add_argument("--writer", choices=("auto", "hloc", "own"), default="auto",
                        help="hloc's own code or ours; auto: hloc's where it is installed (default: auto)")  # fmt: skip
    parser.add_argument(
        "--package", default="hloc", help="Python package that contains hloc, e.g. imcui.hloc (default: hloc)"
    )
    _add_sight(parser)
    parser.add_argument("--rotations", type=int, choices=(1, 4, 8),
                        help="4: pairs turned by any angle; 8: diagonals too (default: the conf's)")  # fmt: skip
    parser.add_argument("--threshold", type=float, help="least confidence of a match (default: 0.1)")
    parser.add_argument("--min-probability", type=float, help="least probability that a registration is right to 10 "
                        "px; below it the pair has no matches; of conf tar alone (default: "
                        f"{AcceptanceConfig.min_probability})")  # fmt: skip
    parser.add_argument("--resize-max", type=int, help="longest side the matcher sees, px (default: the conf's)")
    parser.add_argument("--max-keypoints", type=int, default=8192, help="of an image (default: 8192)")
    parser.add_argument("--overwrite", action="store_true", help="match pairs again that are in hloc's files; replace "
                        "files of our own writer")  # fmt: skip


def _add_sight(parser: argparse.ArgumentParser) -> None:
    """What looks at the images, and what it is told of them: alike where they are matched and where that is judged."""
    parser.add_argument("--weights", help="name of shipped weights or a .safetensors file (default: the conf's)")
    parser.add_argument("--text", help="text prior: none, a bank's path, a provider (default: the weights' own)")
    parser.add_argument("--modality", choices=("cross", "auto", "optical", "sar"),
                        help="cross: each pair has an optical and a SAR image; auto: told from each image; else of all "
                        "images (default: the conf's, cross for tar)")  # fmt: skip
    parser.add_argument("--nodata", type=int, help="grey value of missing pixels, 0 after prepare (default: none)")


def _add_checks(parser: argparse.ArgumentParser) -> None:
    from hloc_plugin.verification import DEFAULTS as default
    from hloc_plugin.verification import Model

    parser.add_argument("--model", choices=get_args(Model), default="affine",
                        help="geometry; fundamental and two-view are for optical views (default: affine)")  # fmt: skip
    parser.add_argument("--threshold", type=float, default=default.threshold,
                        help=f"largest error of an inlier, px (default: {default.threshold})")  # fmt: skip
    parser.add_argument("--min-inliers", type=int, default=default.min_inliers,
                        help=f"of an accepted pair (default: {default.min_inliers})")  # fmt: skip
    parser.add_argument("--min-probability", type=float, default=AcceptanceConfig.min_probability,
                        help="least probability that an affine transform or a homography is right to 10 px, which the "
                        "registrar judges by the images; 0: by the counts alone (default: %(default)s)")  # fmt: skip
    parser.add_argument("--conf", choices=sorted(confs), default="tar", help="that matched; the registrar is told of "
                        "the images what it was told (default: tar)")  # fmt: skip
    _add_sight(parser)
    parser.add_argument("--device", default="auto", help="that judges: auto, cpu, cuda, … (default: auto)")
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="write no pictures of inliers")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results; an input is never replaced")


def run_prepare(a: argparse.Namespace) -> int:
    """``tar-hloc prepare``."""
    from hloc_plugin.prepare import prepare_images

    modality = None if a.modality == "auto" else a.modality
    names = prepare_images(a.sources, a.out, modality, _tell, nodata=a.nodata, overwrite=a.overwrite)
    print(f"{len(names)} images in {a.out / 'images'}")
    return 0


def run_match_dense(a: argparse.Namespace) -> int:
    """``tar-hloc match-dense``."""
    from hloc_plugin.formats import read_pairs

    conf = configured(
        a.conf, a.resize_max, weights=a.weights, text=a.text, rotations=a.rotations, nodata=a.nodata,
        match_threshold=a.threshold, modality=a.modality, min_probability=a.min_probability,
    )  # fmt: skip
    if a.min_probability is not None and not conf["model"].get("guided"):
        raise ValueError(f"--min-probability is of registrations, and conf {a.conf} makes none; leave it out")
    read_pairs(a.pairs)
    if not a.images.is_dir():
        raise FileNotFoundError(f"{a.images}: no such folder of images")
    by_hloc = a.writer == "hloc"
    if a.writer == "auto":
        try:
            register(a.package)
            by_hloc = True
        except ImportError as error:
            _tell(f"{error}; our own writer is used instead")
    if by_hloc:
        features, matches = registry.match_dense(
            conf, a.pairs, a.images, a.out, max_kps=a.max_keypoints, overwrite=a.overwrite, package=a.package
        )
    else:
        from hloc_plugin.dense import match_dense

        features, matches = match_dense(
            conf, a.pairs, a.images, a.out, max_kps=a.max_keypoints, overwrite=a.overwrite, progress=_tell
        )
    print(f"features: {features}\nmatches: {matches}")
    return 0


def configured(name: str, resize_max: int | None = None, **model: Any) -> dict[str, Any]:
    """Return the conf of that name with what is said otherwise.

    Args:
        name: of :data:`hloc_plugin.confs.confs`.
        resize_max: longest side that the matcher sees, px; None: the conf's.
        **model: keys of the conf's ``model``; None leaves the conf's own. The modality "auto" is hloc's None.
    """
    conf = deepcopy(confs[name])
    conf["model"] |= {key: value for key, value in model.items() if value is not None}
    if model.get("modality") == "auto":
        conf["model"]["modality"] = None
    if resize_max is not None:
        if resize_max < 32:
            raise ValueError(f"--resize-max must be at least 32, got {resize_max}")
        conf["preprocessing"]["resize_max"] = resize_max
    return conf


def run_verify(a: argparse.Namespace) -> int:
    """``tar-hloc verify``."""
    from hloc_plugin.pipeline import verify_files
    from kornia_tar.registration.acceptance import VerificationConfig

    config = VerificationConfig(threshold=a.threshold, min_inliers=a.min_inliers)
    told = configured(a.conf, weights=a.weights, text=a.text, modality=a.modality, nodata=a.nodata)["model"]
    verified = verify_files(
        a.pairs, a.images, a.features, a.matches, a.out, model=a.model, config=config, camera_mode=a.camera_mode,
        pictures=a.pictures, registrar=_judge(a.model, a.min_probability, a.device, told),
        modality=told.get("modality"), nodata=told.get("nodata"), overwrite=a.overwrite, progress=_tell,
    )  # fmt: skip
    accepted = sum(outcome.accepted for outcome in verified.values())
    print(f"{accepted} of {len(verified)} pairs accepted; see {a.out / 'verification.json'}")
    return 0 if accepted else NOTHING_FOUND


def _judge(model: str, min_probability: float, device: str, told: Mapping[str, Any]) -> Registrar | None:
    """Build what judges planar geometries, with the weights and the text that matched; None where it is not wanted."""
    if not min_probability or model not in ("affine", "homography"):
        return None
    from hloc_plugin.model import load_matcher
    from kornia_tar import Registrar, RegistrarConfig

    acceptance = AcceptanceConfig(min_probability=min_probability)
    matcher = load_matcher(told).to(choose_device(device))
    return Registrar(matcher, RegistrarConfig(cast("Literal['affine', 'homography']", model), acceptance=acceptance))


def run_reconstruct(a: argparse.Namespace) -> int:
    """``tar-hloc reconstruct``."""
    from hloc_plugin import _pycolmap
    from hloc_plugin.formats import read_pairs
    from kornia_tar.files import check_outputs, output_folder

    names = sorted({name for pair in read_pairs(a.pairs) for name in pair})
    for path in (a.features, a.matches):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    read = [a.pairs, a.features, a.matches, *(a.images / name for name in names)]
    check_outputs((a.out / name for name in HLOC_WRITES), read, overwrite=a.overwrite)
    pycolmap = _pycolmap.load()
    camera = known_camera(a.camera) if a.camera else {}
    reconstruction = registry.import_hloc(a.package, "reconstruction")
    with registry.plain_pairs(a.pairs) as pairs:
        model = reconstruction.main(
            output_folder(a.out), a.images, pairs, a.features, a.matches,
            camera_mode=pycolmap.CameraMode.__members__[a.camera_mode], verbose=a.verbose, image_list=names,
            **camera,
        )  # fmt: skip
    if model is None:
        print("no model was reconstructed: too few matches, or views without parallax", file=sys.stderr)
        return NOTHING_FOUND
    print(f"{model.num_reg_images()} of {len(names)} images, {model.num_points3D()} points, "
          f"mean reprojection error {model.compute_mean_reprojection_error():.2f} px; see {a.out}")  # fmt: skip
    return 0


def known_camera(told: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Make of a camera's model and parameters the options by which hloc's reconstruction takes and holds them.

    Raises:
        ValueError: no model of COLMAP's, or other numbers than it has.
    """
    from hloc_plugin import _pycolmap

    pycolmap = _pycolmap.load()
    model, *params = told
    if model not in pycolmap.CameraModelId.__members__ or model == "INVALID":
        known = "SIMPLE_PINHOLE takes f cx cy, PINHOLE fx fy cx cy"
        raise ValueError(f"--camera {model}: is no model of COLMAP's; {known}")
    try:
        numbers = [float(value) for value in params]
    except ValueError as error:
        raise ValueError(f"--camera {' '.join(told)}: {error}") from None
    if not all(map(math.isfinite, numbers)) or numbers[:1] <= [0.0]:
        raise ValueError(f"--camera {' '.join(told)}: needs finite numbers, and a focal length above 0")
    if not pycolmap.Camera(model=model, width=1, height=1, params=numbers).verify_params():
        raise ValueError(f"--camera {' '.join(told)}: {model} has other parameters than {len(numbers)} numbers")
    return {
        "image_options": {"camera_model": model, "camera_params": ",".join(map(str, numbers))},
        "mapper_options": {"ba_refine_focal_length": False, "ba_refine_extra_params": False},
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
