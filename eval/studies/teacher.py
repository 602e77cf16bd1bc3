"""Is MSFL better begun by itself, or taught by a small trained network: XFeat?

Two small networks learn from nothing for the same minutes, on the same crops in the same order. The taught one is also
asked, of every optical image, that a linear map of its coarse features say what XFeat's descriptors say of the same
cells (both are at 1/8); for SAR images XFeat has nothing to teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from eval.benchmark.provenance import provenance
from eval.datasets import open_dataset
from eval.report.markdown import grid, made_by
from eval.studies.text.single_pass import FIGURES, Question, examine, read_questions
from kornia_tar.files import write_text
from kornia_tar.network.frames import ImageFeatures
from kornia_tar.network.net import SIZES, TARConfig, TARNet
from kornia_tar.network.tafe import TAFEConfig
from kornia_tar.training.augment import Batch
from kornia_tar.training.data import find_shards, read_optical, read_pairs
from kornia_tar.training.loop import TrainConfig, train
from kornia_tar.training.losses import LossWeights, step_loss

DESCRIPTOR = 64  # channels of XFeat's dense descriptors
LESSON = 1.0  # weight of the lesson's loss, beside some 3 nats of the coarse stage's
SIZE_NAME = "XXS"
SIZE = replace(SIZES[SIZE_NAME], tafe=TAFEConfig(classes=0))
EXAMS = (("val-000.tar", "tar"), ("bench/srif-opt-sar", "real"))
ROWS = {"alone": "from scratch", "taught": "from scratch, taught by XFeat"}

Teacher = Callable[[Tensor], Tensor]  # (B, 1, H, W) in [0, 1] → (B, 64, H/8, W/8)


class TaughtNet(TARNet):
    """TARNet that remembers what it has encoded, and has a linear map from coarse features to the teacher's."""

    def __init__(self, config: TARConfig) -> None:
        super().__init__(config)
        self.lesson = nn.Conv2d(config.msfl.widths[2], DESCRIPTOR, 1)
        self.seen: tuple[Tensor, Tensor, Tensor, ImageFeatures] | None = None

    def encode(
        self, image: Tensor, modality: Tensor | None, mask: Tensor | None = None, text: Tensor | None = None,
        words: bool = False,
    ) -> ImageFeatures:  # fmt: skip
        """As TARNet."""
        found = super().encode(image, modality, mask, text, words)
        if self.training and modality is not None and mask is not None:
            self.seen = image, modality, mask, found
        return found


@dataclass(frozen=True)
class Lesson:
    """``step_loss`` and how far the optical images' features are from what a teacher says."""

    teacher: Teacher

    def __call__(
        self, net: TARNet, batch: Batch, text: Tensor | None, weights: LossWeights, per_pair: int, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``step_loss``; the term is 1 - cosine, averaged over cells that are valid."""
        loss, log = step_loss(net, batch, text, weights, per_pair, generator)
        assert isinstance(net, TaughtNet) and net.seen is not None
        image, modality, mask, found = net.seen
        optical = modality[:, 0] > 0.5
        said = F.normalize(net.lesson(found.coarse[optical]).float(), dim=1)
        with torch.no_grad():
            wanted = F.normalize(self.teacher(image[optical].float()).float(), dim=1)
        valid = F.avg_pool2d(mask[optical].float(), 8)[:, 0] > 0.99
        term = (1 - (said * wanted).sum(1))[valid].mean() if valid.any() else said.sum() * 0
        return loss + LESSON * term, log | {"lesson": term.detach()}


def measure(
    data: Path, teacher: Teacher, runs: Path, minutes: float, seeds: int, limit: int | None
) -> Iterator[tuple[str, int, dict[str, dict[str, float]]]]:
    """Train both with every seed, and examine each.

    Args:
        data: folder of the shards and of :data:`EXAMS`.
        teacher: XFeat's network.
        runs: folder of the runs.
        minutes: of each.
        seeds: 0, 1, ….
        limit: pairs per exam.

    Yields:
        row, seed, and figures by exam.
    """
    pairs = read_pairs(find_shards(data))
    alone = sorted(data.glob("optical_only-*.tar"))
    pairs = pairs + read_optical(alone, size=pairs.sar.shape[-1]) if alone else pairs
    exams: dict[str, list[Question]] = {}
    for place, level in EXAMS:
        (dataset,) = open_dataset(data / place)
        exams[f"{dataset.name}, {level}"] = read_questions(dataset, level, limit)
    for seed in range(seeds):
        for row in ROWS:
            folder = runs / f"{row}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(seed)
            net = TaughtNet(SIZE)
            net.cfdm.open_gates()  # attention joins at once: what train is given to start from has it
            config = TrainConfig(minutes=minutes, seed=seed, precision="bf16")
            loss = Lesson(teacher) if row == "taught" else step_loss
            path = train(pairs, folder, text=None, config=config, model=net.config, start=net, loss=loss)
            net.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()})
            yield row, seed, {name: examine(net.eval(), questions).figures() for name, questions in exams.items()}


def write(found: Sequence[tuple[str, int, dict[str, dict[str, float]]]], title: str, path: Path) -> Path:
    """Write the table as Markdown."""
    lines = ["# MSFL alone, and taught by XFeat", "", title, ""]
    for exam in found[0][2]:
        rows = [
            [ROWS[row], str(seed), *(f"{figures[exam][key]:.2f}" for key in FIGURES)] for row, seed, figures in found
        ]
        lines += [f"## {exam}", "", *grid(("network", "seed", *FIGURES), rows), ""]
    lines += [*(f"- {name}: {about}" for name, about in FIGURES.items()), "", *made_by(provenance())]
    return write_text(path, "\n".join(lines) + "\n")


def teacher_of(xfeat: Any) -> Teacher:
    """Take the dense descriptors out of kornia's XFeat; it sees grey images as it was trained to."""
    return lambda image: xfeat.net(image)[0]
