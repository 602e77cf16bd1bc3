"""``kornia-tar``: register, match, landcover, demo, train, info.

Exit codes: 0 done · 1 bad input or environment, one line says which · 2 the images could not be registered reliably
(argparse's own usage errors are 2 as well) · 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from kornia_tar import __version__
from kornia_tar._command import adder, run_command
from kornia_tar._files import one_line
from kornia_tar.geometry import corner_error
from kornia_tar.landcover import compare_covers, read_cover
from kornia_tar.landcover_sheet import LEAST, Side, draw_landcover
from kornia_tar.matcher import WEIGHTS, TARMatcher, resolve_weights
from kornia_tar.net import SIZES
from kornia_tar.raster import (
    Raster,
    output_folder,
    read_image,
    to_grey8,
    to_rgb8,
    write_image,
    write_json,
    write_matches,
)
from kornia_tar.registrar_config import RegistrarConfig
from kornia_tar.registration import Registrar, Registration
from kornia_tar.results import write_results
from kornia_tar.text import TextBank, available_text_priors, embed_classes, load_text_prior

NOT_REGISTERED = 2
MODALITIES = ("optical", "sar", "auto")

EXAMPLES = """examples:
  kornia-tar demo -o demo/                                the synthetic scene, with its known truth
  kornia-tar register optical.png sar.png -o out/         registered.png, matches.h5, report.json, quicklook.png
  kornia-tar register optical.tif sar.tif -o out/         registered.tif on the optical image's grid (needs [geo])
  kornia-tar match a.png b.png -o matches.h5              matches alone
  kornia-tar landcover optical.png sar.png -o cover.png   the text's map of both images, with a legend
  kornia-tar train --data shards/ --text bank.npz --minutes 60 -o run/
  kornia-tar info
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(build_parser(), argv, also=(cv2.error,))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="kornia-tar", description="Optical–SAR image matching and registration (TAR, arXiv 2605.12064).",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"kornia-tar {__version__}")
    command = adder(parser)

    register = command(
        "register", run_register, "lay the second image exactly onto the first",
        "kornia-tar register optical.png sar.png -o out/",
    )  # fmt: skip
    _add_pair(register)
    register.add_argument("-o", "--out", type=Path, required=True, help="folder for the results; made when missing")
    _add_registrar(register)

    demo = command("demo", run_demo, "register the synthetic demo scene and compare with its truth", "kornia-tar demo")
    demo.add_argument("-o", "--out", type=Path, default=Path("demo"), help="folder for the results (default: demo)")
    demo.add_argument("--seed", type=int, default=0, help="which scene is drawn (default: 0)")
    _add_matcher(demo)
    _add_registrar(demo)

    match = command(
        "match", run_match, "match two images and write the matches", "kornia-tar match a.png b.png -o matches.h5"
    )
    _add_pair(match)
    match.add_argument("-o", "--out", type=Path, required=True, help="file to write, .h5 or .npz")
    _add_threshold(match)

    cover = command(
        "landcover", run_landcover, "draw what the text's words say of two images, cell by cell",
        "kornia-tar landcover optical.png sar.png -o landcover.png\n"
        "  kornia-tar landcover optical.tif sar.tif --names river,forest,farmland --json shares.json\n"
        "  kornia-tar landcover optical.png sar.png --bank my_words.npz --names dam,road",
    )  # fmt: skip
    _add_pair(cover)
    cover.add_argument("-o", "--out", type=Path, default=Path("landcover.png"),
                       help="picture to write, .png (default: landcover.png)")  # fmt: skip
    cover.add_argument("--json", type=Path, help="also write each word's share of both images, and their agreement")
    cover.add_argument("--names", help="choose among these words of the text alone, separated by commas; with "
                       "--remoteclip any words")  # fmt: skip
    cover.add_argument("--remoteclip", type=Path, metavar="FILE",
                       help="RemoteCLIP's checkpoint, to read words that no bank holds (needs [text])")  # fmt: skip

    train = command(
        "train", run_train, "train a checkpoint from WebDataset shards of aligned pairs",
        "kornia-tar train --data shards/ --text bank.npz --minutes 60 -o run/",
    )  # fmt: skip
    _add_train(train)

    info = command("info", run_info, "show version, weights, text prior, devices", "kornia-tar info")
    info.add_argument("--weights", default="optical-sar", help="name of shipped weights or a .safetensors file")
    return parser


def _add_matcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="optical-sar", help="name of shipped weights or a .safetensors file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--bank", type=Path, help="text bank (.npz, .safetensors, .h5) instead of the weights' own text"
    )


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image0", type=Path, help="reference image, usually optical")
    parser.add_argument("image1", type=Path, help="image to bring onto it, usually SAR")
    for k, default in enumerate(("optical", "sar")):
        parser.add_argument(f"--modality{k}", choices=MODALITIES, default=default,
                            help=f"of image{k}; auto: told from the image (default: {default})")  # fmt: skip
    _add_matcher(parser)


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="least confidence of a match, or of a start's (default: 0.1)"
    )


def _add_registrar(parser: argparse.ArgumentParser) -> None:
    _add_threshold(parser)
    parser.add_argument("--model", choices=("affine", "similarity", "homography"), default="affine",
                        help="transform to fit (default: affine)")  # fmt: skip
    parser.add_argument("--rotations", type=int, choices=(1, 4, 8), default=8, help="8: any rotation; 4: quarter "
                        "turns alone, faster where it refuses; 1: nearly upright pairs (default: 8)")  # fmt: skip


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder with train-*.tar (and optical_only-*.tar)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for checkpoint, state and log")
    parser.add_argument(
        "--text", metavar="BANK|PRIOR", help="a text bank (.npz, .safetensors, .h5), or a prior by its name, with our "
        "prompts: random, learned (training moves it); without it a model without text"
    )  # fmt: skip
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="length of the run in minutes of stepping")
    length.add_argument("--steps", type=int, help="length of the run in steps")
    parser.add_argument("--batch", type=int, default=16, help="pairs per step (default: 16)")
    parser.add_argument("--size", type=int, default=128, help="side of the crops, a multiple of 16 (default: 128)")
    parser.add_argument("--net", choices=tuple(SIZES), help="size of the network: 0.8, 3.0, 5.3 or 10.9 million "
                        "parameters (default: XS; with --from, that of the weights)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--limit", type=int, help="use only so many pairs, e.g. 64 to see it overfit")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    parser.add_argument("--from", dest="start", metavar="WEIGHTS", help="start from these weights, not random ones")
    parser.add_argument("--only", choices=("fine", "text"), help="with --from: train the fine stage alone, or what "
                        "reads the text and compares cells")  # fmt: skip
    parser.add_argument("--val", type=Path, help="a validation shard, matched at the end under the stored warps")
    parser.add_argument("--val-warps", type=Path, help="JSON with one matrix per pair of --val")


def choose_device(name: str) -> str:
    """Resolve "auto", and refuse a device that is not there in one line."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name}: not available here ({one_line(error)})") from None
    return name


def _matcher(a: argparse.Namespace, threshold: float = 0.1) -> TARMatcher:
    if a.threads is not None:
        if a.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {a.threads}")
        torch.set_num_threads(a.threads)
    matcher = TARMatcher(a.weights, threshold=threshold)
    if a.bank is not None:
        matcher.set_text_prior("bank", path=a.bank)
    return matcher.to(choose_device(a.device)).fuse()


def _registrar(matcher: TARMatcher, a: argparse.Namespace) -> Registrar:
    config = RegistrarConfig(model=a.model, rotations=a.rotations, start_confidence=a.threshold)
    return Registrar(matcher, config)


def _modality(name: str) -> str | None:
    return None if name == "auto" else name


def _greys(first: Raster, second: Raster, a: argparse.Namespace) -> list[np.ndarray]:
    def looks_like_sar(raster: Raster) -> bool:
        # "auto" decides the network's stem later; here only the stretch, which is the same for 8-bit images.
        return raster.pixels.ndim == 2 and raster.pixels.dtype != np.uint8

    return [
        to_grey8(r, "sar" if m == "sar" or (m == "auto" and looks_like_sar(r)) else "optical")
        for r, m in ((first, a.modality0), (second, a.modality1))
    ]


def run_register(a: argparse.Namespace) -> int:
    """``kornia-tar register``."""
    first, second = read_image(a.image0), read_image(a.image1)
    matcher, out = _matcher(a, a.threshold), output_folder(a.out)
    grey0, grey1 = _greys(first, second, a)
    started = time.perf_counter()
    outcome = _registrar(matcher, a)(
        grey0, grey1, first.mask, second.mask, _modality(a.modality0), _modality(a.modality1)
    )
    seconds = time.perf_counter() - started
    report = {"image0": str(a.image0), "image1": str(a.image1), **outcome.report(), "seconds": round(seconds, 2),
              "weights": str(a.weights), "kornia_tar": __version__}  # fmt: skip
    write_results(out, outcome, report, first, second, grey1)
    return _tell(outcome, out, seconds)


def run_demo(a: argparse.Namespace) -> int:
    """``kornia-tar demo``."""
    from kornia_tar.demo import demo_pair

    matcher, out = _matcher(a, a.threshold), output_folder(a.out)
    optical, sar, truth = demo_pair(a.seed)
    write_image(out / "optical.png", optical)
    write_image(out / "sar.png", sar)
    started = time.perf_counter()
    outcome = _registrar(matcher, a)(optical, sar)
    seconds = time.perf_counter() - started
    error = corner_error(outcome.matrix, truth, optical.shape[:2])
    report = {"scene": f"synthetic, seed {a.seed}", "truth": truth, "corner_error_px": error, **outcome.report(),
              "seconds": round(seconds, 2), "weights": str(a.weights), "kornia_tar": __version__}  # fmt: skip
    first = Raster(optical, np.ones(optical.shape[:2], bool), None, out / "optical.png")
    second = Raster(sar, np.ones(sar.shape, bool), None, out / "sar.png")
    headline = f"synthetic scene, seed {a.seed}: mean corner error {error:.2f} px against the known truth"
    write_results(out, outcome, report, first, second, sar, headline)
    print(f"mean corner error against the known truth: {error:.2f} px")
    return _tell(outcome, out, seconds)


def _tell(outcome: Registration, out: Path, seconds: float) -> int:
    count = f"{int(outcome.inliers.sum())} inliers of {len(outcome.matches)} matches, {seconds:.1f} s"
    if outcome.registered:
        print(f"registered: estimated error {outcome.error_estimate:.2f} px, {count}; see {out / 'quicklook.png'}")
        return 0
    print(f"not registered: {'; '.join(outcome.reasons)} ({count}); see {out / 'quicklook.png'}", file=sys.stderr)
    return NOT_REGISTERED


def run_match(a: argparse.Namespace) -> int:
    """``kornia-tar match``."""
    if a.out.suffix.lower() not in (".h5", ".hdf5", ".npz"):
        raise ValueError(f"{a.out}: matches are kept in .h5 or .npz")
    first, second = read_image(a.image0), read_image(a.image1)
    matcher = _matcher(a, a.threshold)
    output_folder(a.out.parent)
    device = next(matcher.parameters()).device
    data: dict[str, Any] = {}
    for k, (raster, grey) in enumerate(zip((first, second), _greys(first, second, a), strict=True)):
        data[f"image{k}"] = torch.from_numpy(grey).to(device)[None, None].float() / 255
        if not raster.mask.all():
            data[f"mask{k}"] = torch.from_numpy(raster.mask).to(device)[None]
    data |= {f"modality{k}": m for k, m in enumerate((a.modality0, a.modality1)) if m != "auto"}
    with torch.inference_mode():
        found = matcher(data)
    keep = ("keypoints0", "keypoints1", "confidence", "std")
    write_matches(a.out, {k: found[k].cpu().numpy() for k in keep} | {"image0": str(a.image0), "image1": str(a.image1)})
    print(f"{len(found['confidence'])} matches in {a.out}")
    return 0


def run_landcover(a: argparse.Namespace) -> int:
    """``kornia-tar landcover``."""
    if a.out.suffix.lower() != ".png":
        raise ValueError(f"{a.out}: the picture is a .png")
    if a.bank is not None and a.remoteclip is not None:
        raise ValueError("--bank and --remoteclip: give one of them")
    names = None if a.names is None else [name.strip() for name in a.names.split(",") if name.strip()]
    rasters = read_image(a.image0), read_image(a.image1)
    matcher = _matcher(a)
    if a.remoteclip is not None:
        matcher.set_text_prior("remoteclip", checkpoint=a.remoteclip, names=names)
    output_folder(a.out.parent)
    sides = []
    for raster, grey, modality in zip(rasters, _greys(*rasters, a), (a.modality0, a.modality1), strict=True):
        cover = read_cover(matcher, grey, raster.mask, _modality(modality))
        kind = "SAR" if cover.modality == "sar" else cover.modality
        shown = to_rgb8(raster) if cover.modality == "optical" else grey
        sides.append(
            Side(shown, grey, cover if names is None else cover.only(names), f"{kind} · {raster.path.name}", kind)
        )
    covers = [side.cover for side in sides]
    same = compare_covers(covers[0], covers[1]) if rasters[0].size == rasters[1].size else None
    encoder = matcher.info.get("text", {}).get("encoder", "unknown encoder")
    told = [f"{len(covers[0].names)} words of {encoder}"]
    if same is not None:
        told.append(f"same word in {100 * same.same:.0f} % of the cells, {100 * same.chance:.0f} % by chance")
    if a.json is not None:
        output_folder(a.json.parent)
        write_json(a.json, {
            "image0": str(a.image0), "image1": str(a.image1), "modalities": [c.modality for c in covers],
            "shares": {name: [c.shares[k] for c in covers] for k, name in enumerate(covers[0].names)},
            "agreement": None if same is None else asdict(same),
            "text": encoder, "weights": str(a.weights), "kornia_tar": __version__,
        })  # fmt: skip
    write_image(a.out, draw_landcover(sides[0], sides[1], ["Land cover in words", " · ".join(told)]))
    for side in sides:
        parts = sorted(zip(side.cover.shares, side.cover.names, strict=True), reverse=True)
        print(f"{side.title}: {', '.join(f'{name} {100 * part:.0f} %' for part, name in parts if part >= LEAST)}")
    print(f"{told[-1]}, where the images lie on each other" if same else "images of two sizes: maps not compared")
    print(f"see {a.out}")
    return 0


def _text_bank(text: str) -> TextBank:
    if Path(text).suffix or text not in available_text_priors():
        return TextBank.load(text)
    return embed_classes(load_text_prior(text))


def run_train(a: argparse.Namespace) -> int:
    """``kornia-tar train``."""
    from kornia_tar.checkpoint import load_checkpoint
    from kornia_tar.tafe import TAFEConfig

    if importlib.util.find_spec("tqdm") is None:
        raise ImportError('training shows its progress with tqdm: pip install "kornia-tar[train]"')
    from kornia_tar.training.data import find_shards, read_optical, read_pairs
    from kornia_tar.training.loop import TrainConfig, train
    from kornia_tar.training.validate import validate

    if a.size < 64 or a.size % 16:
        raise ValueError(f"--size must be a multiple of 16 and at least 64, got {a.size}")
    if (a.val is None) != (a.val_warps is None):
        raise ValueError("--val and --val-warps go together")
    for path in (a.val, a.val_warps):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    for name in ("minutes", "steps", "batch", "limit"):
        if getattr(a, name) is not None and not getattr(a, name) > 0:
            raise ValueError(f"--{name} must be positive, got {getattr(a, name)}")
    if a.net is not None and a.start is not None:
        raise ValueError("--net and --from exclude each other: the weights say how large the network is")
    start = None if a.start is None else load_checkpoint(resolve_weights(a.start))[0]
    shards, device = find_shards(a.data), choose_device(a.device)
    bank = None if a.text is None else _text_bank(a.text)
    tafe = TAFEConfig(classes=0) if bank is None else TAFEConfig(text_dim=bank.dim, classes=len(bank))
    model = replace(SIZES[a.net or "XS"], tafe=tafe) if start is None else start.config
    out = output_folder(a.out)
    alone = sorted(a.data.glob("optical_only-*.tar")) if a.limit is None else []
    pairs = read_pairs(shards, limit=a.limit)
    pairs = pairs + read_optical(alone, size=pairs.sar.shape[-1]) if alone else pairs
    config = TrainConfig(steps=a.steps, minutes=a.minutes, batch=a.batch, size=a.size, seed=a.seed,
                         precision=a.precision, only=a.only, learn_text=a.text == "learned",
                         compile=device.startswith("cuda"))  # fmt: skip
    path = train(
        pairs, out, text=bank, config=config, model=model, device=device, resume=a.resume,
        start=start,
        provenance={"data": [s.name for s in shards + alone], "kornia_tar": __version__},
    )  # fmt: skip
    print(f"written: {path}")
    if a.val is not None:
        scores = validate(TARMatcher(path).to(device), a.val, a.val_warps)
        write_json(out / "validation.json", scores)
        print(" · ".join(f"{k} {v:.1f}" for k, v in scores.items()))
    return 0


def run_info(a: argparse.Namespace) -> int:
    """``kornia-tar info``."""
    import kornia

    print(f"kornia-tar {__version__} · torch {torch.__version__} · kornia {kornia.__version__} · python "
          f"{sys.version.split()[0]}")  # fmt: skip
    print(f"device auto: {choose_device('auto')} · {torch.get_num_threads()} CPU threads")
    extras = {"text": "open_clip", "geo": "rasterio", "hloc": "pycolmap", "onnx": "onnx"}
    print("extras: " + ", ".join(f"{k} {'yes' if importlib.util.find_spec(v) else 'no'}" for k, v in extras.items()))
    print(f"text priors: {', '.join(available_text_priors())}")
    print(f"shipped weights: {', '.join(sorted(p.stem for p in WEIGHTS.glob('*.safetensors'))) or 'none'}")
    path = resolve_weights(a.weights)
    matcher = TARMatcher(path)
    millions = sum(p.numel() for p in matcher.parameters()) / 1e6
    print(f"{path.name}: {millions:.2f} M parameters, {path.stat().st_size / 2**20:.1f} MiB")
    text = matcher.info.get("text", {})
    print(f"  text: {text.get('encoder', 'none')}: {', '.join(text.get('names', [])) or 'no names'}")
    fitted = matcher.info.get("calibration", {}).get("fitted", "none: confidence and std are the network's own")
    print(f"  calibration: {fitted}")
    if "calibration" in matcher.info:
        for name, fits in (("a pass", matcher.calibration.matches), ("tie points", matcher.calibration.tie_points)):
            print(f"    {name}: optical with SAR {fits.cross}; one modality {fits.same}")
    for key in ("step", "minutes", "pairs", "data", "device", "torch"):
        if key in matcher.info:
            print(f"  {key}: {matcher.info[key]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
