"""``kornia-tar info``."""

from __future__ import annotations

import argparse
import importlib.util
import sys

import torch

from kornia_tar import __version__
from kornia_tar.cli.command import AddCommand, choose_device
from kornia_tar.cli.options import add_weights
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.network.checkpoint import WEIGHTS, resolve_weights
from kornia_tar.text import available_text_priors


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command("info", _do, "show version, weights, text prior, devices", "kornia-tar info")
    add_weights(parser)


def _do(a: argparse.Namespace) -> int:
    import kornia

    print(f"kornia-tar {__version__} · torch {torch.__version__} · kornia {kornia.__version__} · python "
          f"{sys.version.split()[0]}")  # fmt: skip
    print(f"device auto: {choose_device('auto')} · {torch.get_num_threads()} CPU threads")
    extras = {"text": "open_clip", "geo": "rasterio", "xarray": "rioxarray", "hloc": "pycolmap", "onnx": "onnx"}
    print("extras: " + ", ".join(f"{k} {'yes' if importlib.util.find_spec(v) else 'no'}" for k, v in extras.items()))
    print(f"text priors: {', '.join(available_text_priors())}")
    print(f"shipped weights: {', '.join(sorted(p.stem for p in WEIGHTS.glob('*.safetensors'))) or 'none'}")
    path = resolve_weights(a.weights)
    matcher = TARMatcher(path)
    millions = sum(p.numel() for p in matcher.parameters()) / 1e6
    print(f"{path.name}: {millions:.2f} M parameters, {path.stat().st_size / 2**20:.1f} MiB")
    text = matcher.info.get("text", {})
    print(f"  text: {text.get('encoder', 'none')}: {', '.join(text.get('names', [])) or 'no names'}")
    seen = matcher.seen_names
    taught = "no head, the map is TAFE's attention" if seen is None else f"trained on {', '.join(seen) or 'no words'}"
    print(f"  land cover: {taught}")
    fitted = matcher.info.get("calibration", {}).get("fitted", "none: confidence and std are the network's own")
    print(f"  calibration: {fitted}")
    accepted = matcher.info.get("calibration", {}).get("acceptance_fitted", "none: that of the shipped weights")
    print(f"  acceptance: {accepted}")
    if "calibration" in matcher.info:
        for name, fits in (
            (f"a forward of {matcher.looks} looks", matcher.calibration.matches),
            ("tie points", matcher.calibration.tie_points),
        ):
            print(f"    {name}: optical with SAR {fits.cross}; one modality {fits.same}")
    for key in ("step", "minutes", "pairs", "data", "device", "torch"):
        if key in matcher.info:
            print(f"  {key}: {matcher.info[key]}")
    average = matcher.info.get("average")
    if isinstance(average, dict):  # as ``python -m eval average`` writes it
        part = average.get("with", {})
        told = ", ".join(f"{key} {part[key]}" for key in ("step", "minutes", "device", "torch") if key in part)
        print(f"  average: {average.get('share')} of weights trained on from these ({told})")
    return 0
