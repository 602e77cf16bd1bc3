"""Teach the land-cover head what the words mean; everything else stays as it is, to the bit.

MSFL is frozen, so each image is encoded once (``lessons.py``) and the head learns from the features that are kept: it
takes minutes on one core and can be repeated for any weights. What it is taught:

- **Scenes**: an image's class is known, not where in it. Half of its cells, those that say so most, must bear the word,
  and of what all cells say it must have the largest share. Several words may be there: cells choose for themselves.
- **Floods**: pixel by pixel, in both modalities: drawn cells bear a word of water, others do not. What lies outside of
  the drawing may be water that is always there, so it counts less.
- **Pairs**: the SAR image's map must say what the optical image's says of the same ground (its answer is the teacher,
  through which no gradient flows).
- **Places**: maps must tell places apart, and not where in the frame a cell lies: at each place of the frame the
  entropy of the mean map, less the maps' own. Without it a doubtful image's frame is dealt out among the likely words:
  houses in the middle, fields at the edge. The head is shown parts of the frame for the same reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm import tqdm

from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARNet, modality_weights, with_landcover
from kornia_tar.network.tafe import LandCoverConfig, LandCoverHead
from kornia_tar.text import GROUPS, TextBank
from kornia_tar.training.lessons import Lessons

PLACES = 4  # of the frame, on a side
NAMES = ("checkpoint.safetensors", "log.jsonl")  # what a run writes into its folder


@dataclass(frozen=True)
class WordsConfig:
    """A run. ``minutes`` and ``steps``: whichever is set decides its length, encoding aside."""

    steps: int | None = None
    minutes: float | None = None
    scenes: int = 24  # images of a step; a third as many pairs, and a quarter as many floods
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    smoothing: float = 0.2  # of a scene's class
    naming: float = 2.0  # weights of the terms
    flood: float = 4.0
    dry: float = 0.5  # of cells that are not drawn as flooded
    agreement: float = 2.5
    information: float = 0.3
    variety: float = 2.0  # of the entropy over images, against that of a cell
    stride: int = 3  # of the cells that are asked, along rows and columns: the head's last layers cost most
    clip: float = 1.0
    seed: int = 0
    held_out: tuple[str, ...] = ()  # words that training must not see, to ask what the map makes of them


def train_words(
    net: TARNet,
    lessons: Lessons,
    bank: TextBank,
    out: Path,
    config: WordsConfig,
    info: dict[str, Any],
    data: Sequence[str] = (),
) -> Path:
    """Train a new head, and write ``out/checkpoint.safetensors`` and ``out/log.jsonl``.

    Args:
        net: trained, in eval mode; stays as it is.
        lessons: what to learn from; classes that are none of the words teach nothing.
        bank: the words' text features.
        out: an existing folder.
        config: length, rates, weights, seed.
        info: of the weights to begin from; kept but for what is told of the head.
        data: names of what the lessons were made of, to be told.

    Returns:
        the checkpoint's path.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    seen = [name for name in bank.names if name not in config.held_out]
    net = with_landcover(net, LandCoverConfig(text_dim=bank.dim, classes=len(seen), brightness=True), config.seed)
    head = net.landcover
    assert head is not None
    taught = bank.subset(seen)
    head.teach(taught.features)
    water = torch.tensor([name in GROUPS["flood"] for name in seen])
    words = word_indices(lessons.scene_classes, seen), word_indices(lessons.pair_classes, seen)
    head.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(
        head.parameters(), config.learning_rate, (0.9, 0.95), weight_decay=config.weight_decay
    )
    total = float(config.steps if config.steps is not None else 60 * config.minutes)  # type: ignore[operator]
    step, started = 0, time.perf_counter()
    sums: dict[str, float] = {}
    with (out / NAMES[1]).open("w") as log, tqdm(total=100, unit="%", desc="words") as bar:
        while (progress := (step if config.steps is not None else time.perf_counter() - started) / total) < 1:
            rate = config.learning_rate * min(1.0, (step + 1) / 30, max(0.02, (1 - progress) / 0.6))
            for group in optimiser.param_groups:
                group["lr"] = rate
            terms = words_loss(head, lessons, words, water, config, generator)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            nn.utils.clip_grad_norm_(head.parameters(), config.clip)
            optimiser.step()
            step += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / 50
            if step % 50 == 0:
                seconds = time.perf_counter() - started
                line = {name: round(value, 4) for name, value in sums.items()}
                log.write(json.dumps({**line, "step": step, "minutes": round(seconds / 60, 2), "lr": rate}) + "\n")
                log.flush()
                bar.set_postfix(line)
                bar.update(min(100, round(100 * progress)) - bar.n)
                sums = {}
    head.eval()
    head.set_text(bank.features)  # the words that were held out, too
    info = {**info, "landcover": {
        "encoder": bank.encoder, "seen": seen, "step": step, "minutes": round((time.perf_counter() - started) / 60, 1),
        "train": asdict(config), "scenes": len(lessons.scenes), "pairs": len(lessons.optical),
        "floods": len(lessons.flooded), "data": list(data),
    }}  # fmt: skip
    save_checkpoint(out / NAMES[0], net, info)
    return out / NAMES[0]


def words_loss(
    head: LandCoverHead,
    lessons: Lessons,
    words: tuple[Tensor, Tensor],
    water: Tensor,
    config: WordsConfig,
    generator: Generator,
) -> dict[str, Tensor]:
    """Draw a batch and compute the terms, see the module's text.

    Args:
        head: in training mode.
        lessons: what to draw from.
        words: (N,) and (M,), indices of the words of scenes and of pairs, -1 where they have none.
        water: (K,) bool, words that a flooded cell may bear; none: floods teach nothing.
        config: weights and sizes.
        generator: of what is drawn.
    """
    device = head.none.device
    parts: dict[str, tuple[Tensor, str]] = {}
    scenes = pairs = floods = torch.zeros(0, dtype=torch.long)
    scene_word, pair_word = words
    if (scene_word >= 0).any():
        rare = torch.bincount(scene_word + 1).float().rsqrt()[scene_word + 1] * (scene_word >= 0)
        scenes = torch.multinomial(rare, config.scenes, replacement=True, generator=generator)
        parts["scenes"] = lessons.scenes[scenes], "optical"
    if len(lessons.optical):
        weights = torch.where(pair_word >= 0, 1.0, 0.6)
        pairs = torch.multinomial(weights, max(1, config.scenes // 3), replacement=True, generator=generator)
        parts |= {"optical": (lessons.optical[pairs], "optical"), "sar": (lessons.sar[pairs], "sar")}
    if len(lessons.flooded) and water.any():
        floods = torch.randint(len(lessons.flooded), (max(1, config.scenes // 4),), generator=generator)
        parts["flooded optical"] = lessons.flooded_optical[floods], "optical"
        parts["flooded sar"] = lessons.flooded_sar[floods], "sar"
    rows = [draw_part(next(iter(parts.values()))[0].shape[axis], generator) for axis in (2, 3)]
    features = torch.cat([part[:, :, *rows] for part, _ in parts.values()]).to(device).float()
    modality = modality_weights([name for part, name in parts.values() for _ in part]).to(device)
    y, x = torch.randint(config.stride, (2,), generator=generator).tolist()
    cells = slice(y, None, config.stride), slice(x, None, config.stride)
    found = head(features, modality, cells=cells).split([len(part) for part, _ in parts.values()])
    maps = dict(zip(parts, found, strict=True))  # (n, K, h, w) each, of the asked cells
    terms: dict[str, Tensor] = {}
    if len(scenes):
        loss = naming_loss(maps["scenes"], scene_word[scenes].to(device), config.smoothing)
        terms["scenes"] = config.naming * loss
    if len(pairs):
        named = (pair_word[pairs] >= 0).nonzero().flatten()
        if len(named):
            word = pair_word[pairs][named].to(device)
            sides = [naming_loss(maps[name][named], word, config.smoothing) for name in ("optical", "sar")]
            terms["pairs' scenes"] = (sides[0] + sides[1]) / 2
        terms["agreement"] = config.agreement * agreement_loss(maps["optical"].detach(), maps["sar"])
    if len(floods):
        share = lessons.flooded[floods][:, *rows][:, *cells].to(device)
        weight = torch.where(share > 0.5, 1.0, config.dry)
        wet = [maps[name][:, water].sum(1).clamp(1e-5, 1 - 1e-5) for name in ("flooded optical", "flooded sar")]
        losses = [F.binary_cross_entropy(one, share, weight=weight) for one in wet]
        terms["floods"] = config.flood * (losses[0] + losses[1]) / 2
    if told := [maps[name] for name in ("scenes", "optical", "sar") if name in maps]:
        terms["information"] = -config.information * information(torch.cat(told), config.variety)
    return terms


def draw_part(length: int, generator: Generator) -> slice:
    """Draw five eighths or more of ``length`` cells in a row."""
    kept = int(torch.randint(5 * length // 8, length + 1, (1,), generator=generator))
    start = int(torch.randint(length - kept + 1, (1,), generator=generator))
    return slice(start, start + kept)


def word_indices(classes: Sequence[str], words: Sequence[str]) -> Tensor:
    """Find classes among words: (N,) indices, -1 where a class is none of them."""
    index = {word: k for k, word in enumerate(words)}
    return torch.tensor([index.get(name, -1) for name in classes], dtype=torch.long)


def naming_loss(maps: Tensor, word: Tensor, smoothing: float) -> Tensor:
    """How far images (n, K, h, w) are from bearing their word (n,): in half of the cells, and most of all words."""
    cells = maps.flatten(2).clamp_min(1e-6)
    best = cells.topk(max(1, cells.shape[2] // 2), dim=2).values.mean(2)  # (n, K)
    share = cells.mean(2)
    share = (share / share.sum(1, keepdim=True)).log()
    most = (1 - smoothing) * F.nll_loss(share, word) - smoothing * share.mean()
    return (F.nll_loss(best.log(), word) + most) / 2


def agreement_loss(teacher: Tensor, pupil: Tensor) -> Tensor:
    """KL divergence of a pupil's map (n, K, h, w) from its teacher's, mean over cells, nats; "none" is a word, too."""
    t, p = (torch.cat([m, 1 - m.sum(1, keepdim=True)], 1).clamp_min(1e-6) for m in (teacher, pupil))
    return (t * (t.log() - p.log())).sum(1).mean()


def information(maps: Tensor, variety: float = 1.0) -> Tensor:
    """How much maps (n, K, h, w) tell of places, nats: the entropy of the mean over the images, less the cells' own.

    The mean is taken at each of 4×4 places of the frame, or at each cell of fewer, and counts ``variety`` times.
    """
    maps = torch.cat([maps, 1 - maps.sum(1, keepdim=True)], 1).clamp_min(1e-6)
    places = min(PLACES, maps.shape[2]), min(PLACES, maps.shape[3])
    mean = F.adaptive_avg_pool2d(maps.mean(0, keepdim=True), places)
    return (maps * maps.log()).sum(1).mean() - variety * (mean * mean.log()).sum(1).mean()
