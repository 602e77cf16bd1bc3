"""Two images from files, or from where Python has them, registered: ``kornia-tar register`` before it writes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kornia_tar.conventions import Modality
from kornia_tar.matching.device import choose_device
from kornia_tar.matching.matcher import TARMatcher
from kornia_tar.raster import Raster, remarks, to_grey8, told_modality
from kornia_tar.raster.grid import Grid
from kornia_tar.raster.sources import ImageSource, read_source
from kornia_tar.registration.acceptance import AcceptanceConfig
from kornia_tar.registration.config import RegistrarConfig, RegistrationModel, SearchConfig
from kornia_tar.registration.georeferenced.prior import check_radius, register_georeferenced
from kornia_tar.registration.registrar import Registrar
from kornia_tar.registration.result import Registration, Search, check_threshold


def register_files(
    image0: ImageSource,
    image1: ImageSource,
    *,
    modality0: str = "optical",
    modality1: str = "sar",
    nodata0: float | None = None,
    nodata1: float | None = None,
    weights: str | Path = "optical-sar",
    device: str = "auto",
    threads: int | None = None,
    bank: str | Path | None = None,
    ignore: Sequence[str] = (),
    prefer: Sequence[str] = (),
    threshold: float = 0.0,
    model: RegistrationModel = "affine",
    rotations: int = 8,
    min_probability: float = AcceptanceConfig.min_probability,
    search_radius: float | None = None,
    no_georeference: bool = False,
) -> Registration:
    """Register two images as ``kornia-tar register`` does, whose options these are, and write nothing.

    Args:
        image0: the reference: a path, an open rasterio data set, or an xarray DataArray (needs rioxarray).
        image1: the image to bring onto it, likewise.
        modality0: "optical", "sar", or "auto": by bands and depth, else inferred by the network.
        modality1: likewise.
        nodata0: value of image0's missing pixels, beside what it declares.
        nodata1: likewise.
        weights: name of shipped weights or a .safetensors file.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        threads: CPU threads, of the whole process from then on; None leaves torch's choice.
        bank: text bank (.npz, .safetensors, .h5) instead of the weights' own text.
        ignore: words, or groups such as "water", whose cells have no vote, see ``kornia_tar/matching/steer.py``.
        prefer: words or groups whose cells count for more.
        threshold: least confidence of a tie point that is kept, in [0, 1].
        model: transform to fit.
        rotations: 8: any rotation; 4: multiples of 90° only; 1: no search.
        min_probability: least probability that the transform is right to 10 px; below it the pair is refused.
        search_radius: m, how far image1 may lie from where its georeference says; None for one that fits the data.
        no_georeference: search by the pixels alone; then there is no radius.

    Returns:
        transform, tie points, decision, both images' ``grids``, and the ``search`` that led to it;
        :func:`kornia_tar.outputs.ground.ground_report` says it in metres.

    Raises:
        FileNotFoundError, ValueError, TypeError: an image or an option that cannot be used, named.
        ImportError: an optional package is needed and absent, named.

    Warns:
        UserWarning: a value looks like an undeclared nodata value; a georeference is left aside.

    Example:
        >>> register_files("optical.tif", "sar.tif").registered  # doctest: +SKIP
        True
    """
    check_options(threshold, search_radius, not no_georeference)
    matcher = make_matcher(weights, device, threads, bank, ignore=ignore, prefer=prefer)
    registrar = make_registrar(matcher, model, rotations, min_probability)
    first, second = read_source(image0, "image0", nodata=nodata0), read_source(image1, "image1", nodata=nodata1)
    told = [*remarks(first, "nodata0"), *remarks(second, "nodata1")]
    for one in told:
        warnings.warn(one, stacklevel=2)
    found = register_rasters(
        registrar, first, second, modality0, modality1, search_radius, not no_georeference, threshold
    )
    if unused := unused_radius(search_radius, found.search):
        warnings.warn(unused, stacklevel=2)
    return found.registration.because(*told)


def unused_radius(radius: float | None, search: Search) -> str | None:
    """Say that a search radius was told in vain; None where it was not."""
    return None if radius is None or search.radius else f"the search radius of {radius:g} m is not used: {search.why}"


def check_options(threshold: float, search_radius: float | None = None, use_georeference: bool = True) -> None:
    """Refuse what :func:`register_rasters` would refuse after minutes, or leave aside; to be asked before any work."""
    check_threshold(threshold)
    check_radius(search_radius)
    if search_radius is not None and not use_georeference:
        raise ValueError(
            f"a search radius of {search_radius:g} m needs georeferences, which no-georeference leaves aside: "
            "give one of the two"
        )


class Found(NamedTuple):
    """What became of two images."""

    registration: Registration
    search: Search
    grey1: NDArray[np.uint8]  # (H1, W1), image1 as the matcher saw it
    seconds: float  # without reading


def register_rasters(
    registrar: Registrar,
    first: Raster,
    second: Raster,
    modality0: str = "optical",
    modality1: str = "sar",
    search_radius: float | None = None,
    use_georeference: bool = True,
    threshold: float = 0.0,
) -> Found:
    """Register two images that were read: stretch, modality, georeference, acceptance.

    Args:
        registrar: how, and what to trust.
        first: image0.
        second: image1.
        modality0: "optical", "sar" or "auto".
        modality1: likewise.
        search_radius: see :func:`kornia_tar.registration.register_georeferenced`.
        use_georeference: likewise.
        threshold: least confidence of a tie point that is kept.
    """
    (grey0, kind0), (grey1, kind1) = stretched(first, second, modality0, modality1)
    started = time.perf_counter()
    outcome, search = register_georeferenced(
        registrar, first, second, grey0, grey1, kind0, kind1, radius=search_radius, use=use_georeference
    )
    seconds = time.perf_counter() - started
    outcome = replace(outcome.confident(threshold), grids=(Grid.of(first), Grid.of(second)), search=search)
    return Found(outcome, search, grey1, seconds)


def stretched(
    first: Raster, second: Raster, modality0: str, modality1: str
) -> list[tuple[NDArray[np.uint8], Modality | None]]:
    """Both images in 8-bit grey, each stretched as its modality needs, and that modality as the network is told it."""
    modalities = told_modality(first, modality0), told_modality(second, modality1)
    return [(to_grey8(r, m), m) for r, m in zip((first, second), modalities, strict=True)]


def make_matcher(
    weights: str | Path, device: str, threads: int | None, bank: str | Path | None, threshold: float = 0.1,
    turns: int = 4, scales: int = 3, ignore: Sequence[str] = (), prefer: Sequence[str] = (),
) -> TARMatcher:  # fmt: skip
    """Build the matcher that options name, see :func:`register_files`; fused, on its device."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    matcher = TARMatcher(weights, threshold=threshold, turns=turns, scales=scales)
    if bank is not None:
        matcher.set_text_prior("bank", path=Path(bank))
    matcher.steer(ignore, prefer)  # by the words of the bank
    return matcher.to(choose_device(device)).fuse()


def make_registrar(matcher: TARMatcher, model: RegistrationModel, rotations: int, min_probability: float) -> Registrar:
    """Build the registrar that options describe, see :func:`register_files`."""
    rules = AcceptanceConfig(min_probability=min_probability)
    return Registrar(matcher, RegistrarConfig(model=model, search=SearchConfig(rotations=rotations), acceptance=rules))


def registrar_settings(registrar: Registrar) -> dict[str, str | int | float]:
    """Tell what :func:`make_registrar` was given, for a report."""
    config, matcher = registrar.config, registrar.matcher
    words = {"ignore": ",".join(matcher.ignore), "prefer": ",".join(matcher.prefer)}
    return {
        "model": config.model, "rotations": config.search.rotations,
        "min_probability": config.acceptance.min_probability,
        **{option: told for option, told in words.items() if told},
    }  # fmt: skip
