"""What text brings: the same small network from the same start on the same data, with words and without.

Every run goes on from one base, with a TAFE of its own whose gate is opened a little, for the same number of steps.
Runs of one seed see the same crops in the same order and start from the same TAFE, so that rows are compared seed by
seed. The row without text takes the same steps. Two bases: a small network trained here without text, of which the runs
train all parameters; or a finished checkpoint, of which they train what reads the text and compares cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from eval.datasets import open_dataset
from eval.studies.text import uses
from eval.studies.text.single_pass import Question, examine, read_questions
from kornia_tar.files import write_json
from kornia_tar.network.checkpoint import load_checkpoint
from kornia_tar.network.net import SIZES, TARConfig, TARNet
from kornia_tar.network.tafe import TAFEConfig
from kornia_tar.text import LearnedPrior, RandomPrior, TextBank
from kornia_tar.training.data import Pairs, find_shards, read_optical, read_pairs
from kornia_tar.training.loop import TrainConfig, train
from kornia_tar.training.losses import LossWeights, step_loss

SIZE = SIZES["XXS"]
BASE = TrainConfig(batch=16, size=128, finish_size=192, finish=0.3, precision="bf16")
# All of a run is what a base's last part is: pairs as in use, and a learning rate that falls to nothing.
RUN = TrainConfig(
    batch=8, size=128, finish_size=128, finish=1.0, ease=0.0, warmup=20, ema=0.98, learning_rate=1e-3, precision="bf16"
)
FINISHED = replace(RUN, only="text", warmup=50, learning_rate=2e-3)  # as the shipped TAFE was trained
FINISHED_TEXT = 1.0  # weight of the losses on the maps, likewise
GATE = 0.2  # of TAFE at the start, as CFDM opens its own: from zero it would stay shut for most of a short run
WIDTH = 512  # of a text feature
EXAMS = (("val-000.tar", "tar"), ("val-000.tar", "hard"), ("bench/srif-opt-sar", "real"))
PLAIN = "none"  # the row that all others are compared with

REMOTECLIP = "remoteclip_vitb32_whurs19_mean.npz"
PER_PROMPT = "remoteclip_vitb32_whurs19_106prompts.npz"


def remoteclip(folder: Path, seed: int) -> TextBank:
    """RemoteCLIP ViT-B-32's 19 names."""
    return TextBank.load(folder / REMOTECLIP)


def bank_of(file: str) -> Callable[[Path, int], TextBank]:
    """A maker of the bank in ``file``, in :data:`WIDTH` dimensions."""
    return lambda folder, seed: fit_width(TextBank.load(folder / file), WIDTH)


def vectors(prior: type[RandomPrior]) -> Callable[[Path, int], TextBank]:
    """A maker of random unit vectors in place of RemoteCLIP's, other ones for each seed."""

    def make(folder: Path, seed: int) -> TextBank:
        names = remoteclip(folder, seed).names
        return TextBank(names, prior(WIDTH, seed).encode(names), prior.name)

    return make


def shuffled(folder: Path, seed: int) -> TextBank:
    """RemoteCLIP's rows under each other's names: all move, by another number of places for each seed.

    Attention does not care for the order of its tokens; names act by the loss that knows some scenes' names.
    """
    bank = remoteclip(folder, seed)
    return TextBank(bank.names, bank.features.roll(1 + seed % (len(bank) - 1), 0), f"{bank.encoder}, names shuffled")


def fit_width(bank: TextBank, width: int) -> TextBank:
    """The bank's rows in fewer dimensions, all their similarities kept, so that TAFE has as many parameters.

    Raises:
        ValueError: more names than dimensions, or fewer dimensions than ``width``.
    """
    if bank.dim == width:
        return bank
    if bank.dim < width or len(bank) > width:
        raise ValueError(f"{bank.encoder}: {len(bank)} features of {bank.dim} do not fit into {width} dimensions")
    left, scale, _ = torch.linalg.svd(bank.features.double(), full_matrices=False)
    turn = torch.linalg.qr(torch.randn(width, len(scale), generator=torch.Generator().manual_seed(0)).double())[0]
    return TextBank(bank.names, ((left * scale) @ turn.T).float(), bank.encoder, bank.templates)


def turned(file: str) -> Callable[[Path, int], TextBank]:
    """A maker of the bank in ``file``, turned into :data:`WIDTH` dimensions as every bank of its encoder is.

    The turn keeps similarities but nearly, unlike :func:`fit_width`'s, which is each bank's own.
    """

    def make(folder: Path, seed: int) -> TextBank:
        bank = TextBank.load(folder / file)
        turn = torch.linalg.qr(torch.randn(bank.dim, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
        return TextBank(bank.names, F.normalize(bank.features @ turn, dim=-1), bank.encoder, bank.templates)

    return make


@dataclass(frozen=True)
class Row:
    """One kind of run.

    Args:
        label: what the table calls it.
        bank: from the folder of banks and the seed to the text; None for no text.
        learn: let training move the text's features.
        weights: of the losses.
        build: from the sizes to a network.
        loss: from the folder of banks to the loss.
        like: the row whose runs are examined with this bank in place of theirs; nothing is trained.
    """

    label: str
    bank: Callable[[Path, int], TextBank] | None = remoteclip
    learn: bool = False
    weights: LossWeights = LossWeights()
    build: Callable[[TARConfig], TARNet] = TARNet
    loss: Callable[[Path], uses.Loss] = lambda folder: step_loss
    like: str | None = None


ROWS = {
    PLAIN: Row("no text", None),
    "learned": Row("19 learned vectors", vectors(LearnedPrior), learn=True),
    "random": Row("random unit vectors", vectors(RandomPrior)),
    "shuffled": Row("RemoteCLIP ViT-B-32, names shuffled", shuffled),
    "clip": Row("CLIP ViT-B-32", bank_of("clip_vitb32_whurs19_mean.npz")),
    "georsclip": Row("GeoRSCLIP ViT-B-32", bank_of("georsclip_vitb32_whurs19_mean.npz")),
    "remoteclip": Row("RemoteCLIP ViT-B-32, 19 names"),
    "landcover40": Row("RemoteCLIP RN50, 40 names", bank_of("remoteclip_rn50_landcover40.npz")),
    "templates": Row(
        "RemoteCLIP ViT-B-32, one of 106 templates a step",
        loss=lambda folder: uses.template_loss(np.load(folder / PER_PROMPT, allow_pickle=False)["per_prompt"]),
    ),
    "rn50": Row("RemoteCLIP RN50, 19 names", turned("remoteclip_rn50_whurs19_mean.npz")),
    "unseen": Row(
        "the same runs, examined with 40 other names", turned("remoteclip_rn50_landcover40.npz"), like="rn50"
    ),
    "no-agreement": Row("RemoteCLIP, no loss on the maps", weights=LossWeights(text=0.0)),
    "worth": Row("RemoteCLIP, maps weigh the matches", build=uses.with_worth),
    "geometry": Row(
        "RemoteCLIP, its geometry distilled",
        build=uses.with_tafe(uses.GeometryTAFE), loss=lambda folder: uses.geometry_loss,
    ),
    "scene": Row("RemoteCLIP, the scene picks the prompts", build=uses.with_tafe(uses.SceneTAFE)),
    "own": Row("RemoteCLIP, the image's land cover picks the prompts", build=uses.with_own_words(uses.OwnWordsNet)),
    "others": Row("the same, of other names", build=uses.with_own_words(uses.OthersWordsNet)),
}  # fmt: skip


def train_base(pairs: Pairs, folder: Path, steps: int) -> Path:
    """Train the text-free network that every run starts from; one that was cut short goes on, a finished one stays.

    Returns:
        the checkpoint's path.

    Raises:
        ValueError: the folder holds a base of another length.
    """
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.is_file():
        info = load_checkpoint(checkpoint)[1]
        if (found := info["train"]["steps"]) != steps:
            raise ValueError(f"{folder} holds a base of {found} steps, not {steps}: say so, or give other --runs")
        if info["step"] == steps:
            return checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    resume = checkpoint.is_file() and (folder / "state.pt").is_file()
    model = _with_tafe(SIZE, None)
    return train(pairs, folder, text=None, config=replace(BASE, steps=steps), model=model, resume=resume)


def run(row: Row, seed: int, steps: int, base: Path, finished: bool, pairs: Pairs, text: Path, folder: Path) -> TARNet:
    """Train one run in ``folder``, which is there; returns its network in eval mode."""
    bank = None if row.bank is None else row.bank(text, seed)
    if row.like is not None:
        assert bank is not None
        net = load_checkpoint(folder.with_name(f"{row.like}-{seed}") / "checkpoint.safetensors")[0]
        net.tafe.set_text(bank.features)
        return net.eval()
    net = start(row, bank, base, seed)
    config = replace(FINISHED if finished else RUN, steps=steps, seed=seed, learn_text=row.learn)
    weights = replace(row.weights, text=FINISHED_TEXT) if finished and row.weights.text else row.weights
    path = train(
        pairs, folder, text=bank, config=config, model=net.config, weights=weights, start=net, loss=row.loss(text)
    )
    net.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()})
    (folder / "state.pt").unlink()
    return net.eval()


def start(row: Row, bank: TextBank | None, base: Path, seed: int) -> TARNet:
    """The network that a run begins with: the base's weights, TAFE drawn by the seed, its gate a little open."""
    torch.manual_seed(seed)
    trained = load_checkpoint(base)[0]
    net = row.build(_with_tafe(trained.config, bank))
    common: dict[str, Tensor] = {k: v for k, v in trained.state_dict().items() if k[:5] != "tafe."}
    _, unknown = net.load_state_dict(common, strict=False)
    assert not unknown, f"{base}: {unknown[0]} is no part of the network"
    nn.init.constant_(net.tafe.gate, GATE)
    return net


def measure(
    rows: Sequence[str], seeds: int, steps: int, base: int | Path, data: Path, text: Path, runs: Path,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Train the base and every row with every seed, and examine each run; what ``runs`` holds already is not repeated.

    Args:
        rows: keys of :data:`ROWS`; :data:`PLAIN` always runs, and what a row is ``like`` runs before it.
        seeds: 0, 1, …; all rows of one seed come before the next seed.
        steps: of each run.
        base: steps of the small base to train, or a finished checkpoint.
        data: folder of the shards ``train-*.tar``, ``optical_only-*.tar``, and of :data:`EXAMS`.
        text: folder of text banks.
        runs: folder of the runs.
        limit: pairs per exam.

    Yields:
        One entry per run, the base first: row, seed, settings, and figures by exam.

    Raises:
        ValueError: an unknown row, or ``runs`` holds a base of another length.
        FileNotFoundError: data or banks that are not there.
    """
    if unknown := [key for key in rows if key not in ROWS]:
        raise ValueError(f"--rows {unknown[0]!r} is unknown: choose from {', '.join(ROWS)}")
    rows = list(dict.fromkeys([PLAIN, *(each for key in rows for each in (ROWS[key].like, key) if each)]))
    pairs = read_pairs(find_shards(data))
    alone = sorted(data.glob("optical_only-*.tar"))
    pairs = pairs + read_optical(alone, size=pairs.sar.shape[-1]) if alone else pairs
    begin = base if isinstance(base, Path) else train_base(pairs, runs / "base", base)
    digest = hashlib.sha256(begin.read_bytes()).hexdigest()[:12]
    finished = isinstance(base, Path)
    settings = {
        "steps": steps,
        "base_steps": None if finished else base,
        "base": digest,
        "limit": limit,
        "pairs": len(pairs),
    }
    exams: dict[str, list[Question]] = {}
    for place, level in EXAMS:
        (dataset,) = open_dataset(data / place)
        exams[f"{dataset.name}, {level}"] = read_questions(dataset, level, limit)
    todo = [("base", 0), *((key, seed) for seed in range(seeds) for key in rows)]
    with tqdm(todo, desc="runs", unit="run") as bar:
        for key, seed in bar:
            bar.set_postfix_str(f"{key}, seed {seed}")
            folder = runs / ("base" if key == "base" else f"{key}-{seed}")
            result = _read(folder / "result.json", settings)
            if result is None:
                folder.mkdir(parents=True, exist_ok=True)
                if key == "base":
                    net = load_checkpoint(begin)[0]
                else:
                    net = run(ROWS[key], seed, steps, begin, finished, pairs, text, folder)
                figures = {name: examine(net, questions).figures() for name, questions in exams.items()}
                result = {"row": key, "seed": seed, "settings": settings, "figures": figures}
                write_json(folder / "result.json", result)
            yield result


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """A finished run's result, or None where there is none of these settings."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return result if result["settings"] == settings else None


def _with_tafe(config: TARConfig, bank: TextBank | None) -> TARConfig:
    tafe = TAFEConfig(classes=0) if bank is None else TAFEConfig(text_dim=bank.dim, classes=len(bank))
    return replace(config, tafe=tafe)
