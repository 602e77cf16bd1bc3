"""What text does in a finished checkpoint: the same network with other words, without training again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eval.benchmark.provenance import provenance
from eval.report.markdown import grid
from eval.studies.text.ablation import PER_PROMPT, REMOTECLIP, fit_width
from eval.studies.text.single_pass import FIGURES, Answers, Question, examine
from eval.studies.text.uses import ShuffledTAFE
from kornia_tar.files import write_json, write_text
from kornia_tar.network.net import TARNet
from kornia_tar.text import RandomPrior, TextBank

SHIPPED = "as trained"
FEW = ("farmland", "forest", "mountain", "residential", "river")


def variants(net: TARNet, text: Path) -> dict[str, TARNet]:
    """The network under other texts, by what they are; its own first.

    Args:
        net: trained with RemoteCLIP ViT-B-32's 19 names.
        text: folder of text banks.

    Raises:
        FileNotFoundError: a bank that is not there.
        ValueError: a network without text, or whose text features are of another width than the banks'.
    """
    if not len(net.tafe.tokens):
        raise ValueError("the checkpoint has no text to exchange")
    bank = TextBank.load(text / REMOTECLIP)
    with np.load(text / PER_PROMPT, allow_pickle=False) as arrays:
        one = TextBank(bank.names, _tensor(arrays["per_prompt"][0]), bank.encoder, (str(arrays["prompts"][0]),))
    banks = {
        "random unit vectors": TextBank(bank.names, RandomPrior(bank.dim).encode(bank.names)),
        "CLIP ViT-B-32": TextBank.load(text / "clip_vitb32_whurs19_mean.npz"),
        "GeoRSCLIP ViT-B-32": TextBank.load(text / "georsclip_vitb32_whurs19_mean.npz"),
        "SkyCLIP50 ViT-B-32": TextBank.load(text / "skyclip50_vitb32_whurs19_mean.npz"),
        "RemoteCLIP RN50, 40 land covers": fit_width(TextBank.load(text / "remoteclip_rn50_landcover40.npz"), bank.dim),
        f"one template alone, {one.templates[0]!r}": one,
        f"{len(FEW)} names alone, {', '.join(FEW)}": bank.subset(FEW),
    }
    made = {SHIPPED: net}
    made["text off"] = _changed(net, lambda n: setattr(n.tafe, "tokens", n.tafe.tokens[:0]))
    made["a single token, the mean of all"] = _changed(
        net, lambda n: setattr(n.tafe, "tokens", n.tafe.tokens.mean(0, keepdim=True))
    )
    made["each name reads the next one's value"] = _changed(net, lambda n: setattr(n.tafe, "__class__", ShuffledTAFE))
    for label, other in banks.items():
        made[label] = _changed(net, lambda n, b=other: n.tafe.set_text(b.features))  # type: ignore[misc]
    return made


def measure(made: dict[str, TARNet], questions: Sequence[Question]) -> dict[str, Answers]:
    """Examine every variant."""
    with tqdm(total=len(made) * len(questions), unit="pair") as bar:
        return {label: examine(net, questions, bar.update) for label, net in made.items()}


def write(folder: Path, name: str, answers: dict[str, Answers]) -> Path:
    """Write ``text-substitution.md`` and ``.json``; ``name`` says what was asked. Returns the former's path."""
    own, pairs = answers[SHIPPED], len(answers[SHIPPED].corner)
    lines = [
        f"## Other words for a finished checkpoint: {name}, {pairs} pairs, a single pass", "",
        f"The figure, and its difference to \"{SHIPPED}\" ± standard error over the pairs.", "",
        *(f"- {key}: {meaning}" for key, meaning in FIGURES.items()), "",
    ]  # fmt: skip
    rows = []
    for label, found in answers.items():
        cells = []
        for key, value in found.figures().items():
            digits = 3 if key == "loss" else 1
            cell = f"{value:.{digits}f}"
            if label != SHIPPED and key != "ranking":
                change = found.each()[key] - own.each()[key]
                error = change.std(ddof=1) / np.sqrt(pairs) if pairs > 1 else np.nan
                cell += f" ({change.mean():+.{digits}f} ± {error:.{digits}f})"
            cells.append(cell)
        rows.append([label, *cells])
    made = provenance()
    lines += [
        *grid(["text", *FIGURES], rows),
        "",
        f"Made by `{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['date']}.",
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    figures = {label: found.figures() for label, found in answers.items()}
    write_json(folder / "text-substitution.json", {"asked": name, "pairs": pairs, "figures": figures, "made": made})
    return write_text(folder / "text-substitution.md", "\n".join(lines))


def _changed(net: TARNet, change: Callable[[TARNet], object]) -> TARNet:
    other = deepcopy(net)
    change(other)
    return other


def _tensor(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows).float()
