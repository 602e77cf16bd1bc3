"""One pass of a network over stored questions, with figures that show small differences between networks.

Success rates of a few dozen pairs move in steps of whole percents. The precision of the network's own mutual matches
and the likelihood of the true coarse cell move with every cell, so that they tell networks apart that rates cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.benchmark.metrics import Model, corner_error, estimate, match_errors
from eval.benchmark.pairs import LevelPairs, subsample
from eval.benchmark.protocol import Matrix
from eval.datasets import Dataset
from eval.peers import to_tensor
from kornia_tar.conventions import CELL
from kornia_tar.geometry import transform_points
from kornia_tar.network.cfdm import Coarse, cell_centres, nearest_cells
from kornia_tar.network.net import Matches, TARNet, assemble, modality_weights

THRESHOLD = 0.1  # TARMatcher's: less confident matches do not reach the estimator
BATCH = 8
# Larger is better, but for the loss.
FIGURES = {
    "SR@5": "% of pairs with a mean corner error below 5 px, shared estimator",
    "SR@10": "the same below 10 px",
    "precision@3": "% of the network's own mutual matches within 3 px of the truth, mean over pairs",
    "precision@8": "the same within 8 px",
    "loss": "nats, minus the log probability of the true coarse cell in image1, mean over cells, then pairs",
    "ranking": "% of couples of a right (3 px) and a wrong match in which the right one is the more confident",
}


@dataclass(frozen=True)
class Question:
    """A pair, ready for the network."""

    image0: Tensor  # (1, H0, W0) grey in [0, 1]
    image1: Tensor  # (1, H1, W1)
    truth: Matrix  # image0 → image1
    model: Model


@dataclass(frozen=True)
class Answers:
    """What the network made of the questions, in their order."""

    corner: NDArray[np.float64]  # px, inf for a failure
    precision3: NDArray[np.float64]  # percent of the mutual matches
    precision8: NDArray[np.float64]
    loss: NDArray[np.float64]  # nats
    ranking: float  # percent, of all matches together

    def each(self) -> dict[str, NDArray[np.float64]]:
        """The pairs' own values, whose means are the figures; of all :data:`FIGURES` but "ranking"."""
        return {
            "SR@5": np.where(self.corner < 5, 100.0, 0.0),
            "SR@10": np.where(self.corner < 10, 100.0, 0.0),
            "precision@3": self.precision3,
            "precision@8": self.precision8,
            "loss": self.loss,
        }

    def figures(self) -> dict[str, float]:
        """All :data:`FIGURES`."""
        return {key: float(values.mean()) for key, values in self.each().items()} | {"ranking": self.ranking}


def read_questions(dataset: Dataset, level: str, limit: int | None) -> list[Question]:
    """The pairs of a set under a level (or its own truth, "real"), thinned to ``limit``.

    Raises:
        ValueError: a set whose pairs are not optical and SAR.
    """
    source = LevelPairs.open(dataset, level)
    questions = []
    for pair in source.each(subsample(dataset.names, limit)):
        if (pair.hints.get("modality0"), pair.hints.get("modality1")) != ("optical", "sar"):
            raise ValueError(f"{dataset.name}: {pair.name} is not a pair of optical and SAR")
        questions.append(Question(to_tensor(pair.image0, 1)[0], to_tensor(pair.image1, 1)[0], pair.truth, source.model))
    return questions


@torch.inference_mode()
def examine(net: TARNet, questions: Sequence[Question], tick: Callable[[int], Any] = lambda number: None) -> Answers:
    """Match every question once and score it.

    Args:
        net: in eval mode; a fused copy of it does the work.
        questions: pairs; those of equal sizes share batches.
        tick: told how many more questions are done.
    """
    net = deepcopy(net).fuse().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = lambda k: (*questions[k].image0.shape, *questions[k].image1.shape)  # noqa: E731
    scores = np.zeros((len(questions), 4))
    confidences, rights = [], []
    for _, same in groupby(sorted(range(len(questions)), key=size), key=size):
        order = list(same)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            matches, coarse, columns = _match(net, [questions[k] for k in part])
            cosines = coarse.scores()
            for row, k in enumerate(part):
                own = matches.batch == row
                points0, points1 = matches.points0[own].numpy(), matches.points1[own].numpy()
                confidence = matches.confidence[own].numpy()
                error = match_errors(points0, points1, questions[k].truth)
                sure = confidence >= THRESHOLD
                matrix = estimate(points0[sure], points1[sure], questions[k].model)
                near = [100.0 * float((error < limit).mean()) if len(error) else 0.0 for limit in (3, 8)]
                off = corner_error(matrix, questions[k].truth, questions[k].image0.shape[1:])
                scores[k] = off, *near, _loss(cosines[row], columns, questions[k])
                confidences.append(confidence)
                rights.append(error < 3)
            tick(len(part))
    corner, precision3, precision8, loss = scores.T
    together = ranking(np.concatenate(confidences), np.concatenate(rights))
    return Answers(corner, precision3, precision8, loss, together)


def ranking(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Percent of couples of a right and a wrong match in which the right one has the larger confidence (AUROC)."""
    wrong = np.sort(confidence[~right])
    if not len(wrong) or not right.any():
        return float("nan")
    below = np.searchsorted(wrong, confidence[right], "left") + np.searchsorted(wrong, confidence[right], "right")
    return float(100 * below.mean() / (2 * len(wrong)))


def _match(net: TARNet, questions: Sequence[Question]) -> tuple[Matches, Coarse, tuple[int, int]]:
    sides = [torch.stack([getattr(q, key) for q in questions]) for key in ("image0", "image1")]
    a, b = (
        net.encode(image, modality_weights([name] * len(image)))
        for image, name in zip(sides, ("optical", "sar"), strict=True)
    )
    coarse = net.compare(a, b)
    cells = nearest_cells(coarse, 0.0)
    in0, in1 = net.cfdm.refine(cells, coarse, a.fine, b.fine)
    columns = a.coarse.shape[3], b.coarse.shape[3]
    return assemble(cells, in0, in1, *columns), coarse, columns


def _loss(scores: Tensor, columns: tuple[int, int], question: Question) -> float:
    """Mean of minus the log probability of the true partner of each cell of image0 that has one; (N, M) scores."""
    size0, size1 = (np.array(image.shape[:0:-1]) for image in (question.image0, question.image1))  # width, height
    centres = cell_centres(torch.arange(len(scores)), columns[0]).numpy()
    there = transform_points(question.truth, centres)
    seen = ((centres < size0) & (there > -0.5) & (there < size1 - 0.5)).all(axis=1)
    cell = np.floor((there[seen] + 0.5) / CELL).astype(int)
    target = torch.from_numpy(cell[:, 1] * columns[1] + cell[:, 0])
    log_p = scores.log_softmax(dim=1)[torch.from_numpy(np.flatnonzero(seen)), target]
    return -float(log_p.mean())
