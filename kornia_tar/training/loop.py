"""The training loop: plain, one process, the same on CPU and GPU.

Kinds of run. A full one trains everything. One that starts from trained weights may train a part only, which is
cheap, for no gradient enters the trunk: ``only="fine"`` keeps the coarse stage as it is and polishes what comes after
it; ``only="text"`` keeps MSFL and with it the fine features, and trains what reads the text and compares cells;
``only="second"`` trains the second look's head alone, ``only="look"`` the fine features with it.

Curriculum: relative deformation eases in over the first part of the run, since a net that starts with hard pairs
stays at the identity prior. Learning rate: warm-up, constant, linear to 2 %. Weights that are kept
are an exponential moving average. Progress is counted in steps or, with ``minutes``, in seconds spent stepping.
"""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kornia_tar.files import replacing
from kornia_tar.network.checkpoint import save_checkpoint
from kornia_tar.network.net import TARConfig, TARNet
from kornia_tar.text import TextBank
from kornia_tar.training.augment import Deformation, make_batch
from kornia_tar.training.data import Pairs
from kornia_tar.training.losses import LossWeights, step_loss
from kornia_tar.training.progress import Progress


@dataclass(frozen=True)
class TrainConfig:
    """A run. ``minutes`` and ``steps``: whichever is set decides its length."""

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    size: int = 128
    finish_size: int = 192  # side of the crops in the last part, when matches must hold over larger images
    finish: float = 0.4  # length of the last part, of the whole: the learning rate falls, pairs are as in use
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200  # steps
    ease: float = 0.35  # share of the run over which deformation grows to full
    attention_from: float = 0.35  # share of the run after which CFDM's attention layers join
    per_pair: int = 24  # true and own matches refined per pair
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"  # "fp32", "bf16", or bf16 where the device computes it natively
    compile: bool = False
    only: str | None = None  # train this part alone, see PARTS
    learn_text: bool = False  # the text features are a start that training moves: the control of what words bring

    def onward(self) -> TrainConfig:
        """For trained weights: no curriculum, half the rate; it falls in the second half, with pairs as in use."""
        rate = self.learning_rate / 2
        return replace(self, ease=0.0, finish=0.5, finish_size=self.size, learning_rate=rate, warmup=self.warmup // 2)


PARTS = {
    # Nothing of it feeds the coarse stage.
    "fine": ("msfl.top2", "msfl.merge2", "msfl.modality", "cfdm.fine_descriptor", "cfdm.fine_head"),
    # The head reads coarse tokens, so it must follow them.
    "text": ("tafe", "cfdm.self_attention", "cfdm.cross_attention", "cfdm.descriptor", "cfdm.fine_head"),
    "second": ("second_look",),
    "look": ("second_look", "msfl.top2", "msfl.merge2", "cfdm.fine_descriptor", "cfdm.fine_head"),
}


def freeze_all_but(net: TARNet, part: str) -> None:
    """Leave only a part of :data:`PARTS` trainable and in training mode."""
    net.requires_grad_(False).eval()
    for name in PARTS[part]:
        net.get_submodule(name).requires_grad_(True).train()


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bf16: as told, or where the hardware has it."""
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision must be auto, fp32 or bf16, got {precision!r}")
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels; leave norms, gates, biases and temperatures alone."""
    decay = [p for p in net.parameters() if p.requires_grad and p.ndim >= 2]
    keep = [p for p in net.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


@torch.no_grad()
def update_ema(average: nn.Module, net: nn.Module, decay: float) -> None:
    """``average ← decay·average + (1 - decay)·net`` for parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
    for a, b in zip(average.buffers(), net.buffers(), strict=True):
        a.copy_(b)


def descend(
    net: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, step: int, config: TrainConfig
) -> None:
    """Follow a loss's gradient by one step, not where it is not finite, and let the average follow the network."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip)
    if torch.isfinite(norm):
        optimiser.step()
    update_ema(average, net, min(config.ema, (step + 1) / (step + 10)))


def schedule(progress: float, step: int, config: TrainConfig) -> tuple[float, float, int, int]:
    """Learning rate, ease (1 easy … 0 full), crop side and batch size at ``progress`` in [0, 1]."""
    rate = config.learning_rate * min(1.0, (step + 1) / config.warmup)
    rate *= min(1.0, max(0.02, (1 - progress) / config.finish)) if config.finish else 1.0
    ease = max(0.0, 1 - progress / config.ease) if config.ease else 0.0
    late = progress > 1 - config.finish
    size = config.finish_size if late else config.size
    batch = max(2, round(config.batch * (config.size / size) ** 2))
    return rate, ease, size, batch


#: What a run writes into its folder.
NAMES = ("checkpoint.safetensors", "state.pt", "log.jsonl")


def train(
    pairs: Pairs,
    out: Path,
    *,
    text: TextBank | None,
    config: TrainConfig = TrainConfig(minutes=60),
    model: TARConfig = TARConfig(),
    deformation: Deformation = Deformation(),
    weights: LossWeights = LossWeights(),
    device: str = "cpu",
    resume: bool = False,
    start: TARNet | None = None,
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]] = step_loss,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Train and write ``out/checkpoint.safetensors``, ``out/state.pt`` (to resume) and ``out/log.jsonl``.

    Args:
        pairs: training pairs.
        out: an existing folder.
        text: text features, or None for a model without text.
        config: length, rates, seed.
        model: sizes; its TAFE must fit ``text``.
        deformation: the full strength of the warps.
        weights: of the losses.
        device: "cpu" or "cuda".
        resume: go on from ``out/state.pt``.
        start: a trained network to go on from, of the sizes of ``model``: to polish it, or to tune it to other data.
        loss: called as :func:`kornia_tar.training.losses.step_loss` is, and returns what that returns.
        provenance: kept in the checkpoint.

    Returns:
        the checkpoint's path.

    Raises:
        ValueError: neither or both of steps and minutes; text that does not fit the model.
        FileNotFoundError: nothing to resume.
    """
    if (config.steps is None) == (config.minutes is None):
        raise ValueError("set exactly one of steps and minutes")
    if config.only is not None and (config.only not in PARTS or start is None):
        raise ValueError(f"only is {config.only!r}: it names a part ({', '.join(PARTS)}) of a network to start from")
    if config.only in ("second", "look") and model.second_look is None:
        raise ValueError(
            f"only is {config.only!r}, but these weights have no second look: add one with "
            "kornia_tar.network.net.with_second_look"
        )
    if (
        text is None and model.tafe.classes and config.only not in ("second", "look")
    ):  # which use the tokens as they are stored
        raise ValueError(f"the model expects {model.tafe.classes} text classes, but there is no text")
    if text is not None and (len(text), text.dim) != (model.tafe.classes, model.tafe.text_dim):
        raise ValueError(
            f"the model expects {model.tafe.classes} text features of {model.tafe.text_dim}, "
            f"the bank has {len(text)} of {text.dim}"
        )
    where = torch.device(device)
    torch.manual_seed(config.seed)
    generator = torch.Generator(where)
    net = TARNet(model) if start is None else deepcopy(start).requires_grad_(True)
    net = net.to(where).train()
    average = deepcopy(net).eval().requires_grad_(False)
    if config.only is not None:
        freeze_all_but(net, config.only)
    features = None if text is None else text.features.to(where)
    groups = parameter_groups(net, config.weight_decay)
    if features is not None and config.learn_text:
        features = nn.Parameter(features.clone())
        groups[1]["params"].append(features)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    pairs = (pairs if text is None else pairs.with_scenes(text.names)).to(where)
    step, seconds = 0, 0.0
    checkpoint, state_path, log_path = (out / name for name in NAMES)
    if resume:
        if not state_path.is_file():
            raise FileNotFoundError(f"{state_path}: nothing to resume")
        try:
            state = torch.load(state_path, map_location=where, weights_only=True)
            net.load_state_dict(state["net"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            if isinstance(features, nn.Parameter):
                features.data.copy_(state["features"])
            step, seconds = int(state["step"]), float(state["seconds"])
            sizes = state.get("model", json.dumps(model.to_dict()))  # earlier states do not tell it
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{state_path}: not the state of such a run ({reason})") from None
        if sizes != json.dumps(model.to_dict()):
            raise ValueError(
                f"{state_path}: the state of a network of other settings; give the options that it began with"
            )
    total = float(config.steps if config.steps is not None else 60 * config.minutes)  # type: ignore[operator]
    reached = (step if config.steps is not None else seconds) / total
    net.cfdm.attend = start is not None or reached >= config.attention_from

    def save() -> None:
        if features is not None:
            average.tafe.set_text(features.detach())
        info = {**(provenance or {}), "step": step, "minutes": round(seconds / 60, 1), "train": asdict(config),
                "deformation": asdict(deformation), "loss": asdict(weights), "pairs": len(pairs),
                "torch": torch.__version__, "device": device}  # fmt: skip
        if text is not None:
            info["text"] = {"encoder": text.encoder, "names": list(text.names), "templates": list(text.templates)}
        save_checkpoint(checkpoint, average, info)
        with replacing(state_path) as temporary, io.BytesIO() as stream:  # Python's own write tells of a full disk
            torch.save({"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                        "step": step, "seconds": seconds, "model": json.dumps(model.to_dict()),
                        "features": torch.empty(0) if features is None else features.detach()}, stream)  # fmt: skip
            temporary.write_bytes(stream.getbuffer())

    forward = torch.compile(loss) if config.compile and where.type == "cuda" else loss
    bf16 = choose_bf16(config.precision, where)
    last_save = time.perf_counter()
    with Progress(log_path, 50, "precision@3 {precision:.3f}", resume) as log:
        while (progress := (step if config.steps is not None else seconds) / total) < 1:
            started = time.perf_counter()
            # What a step draws depends on seed and step alone: runs of one seed see the same data, whatever they learn.
            generator.manual_seed(1_000_003 * config.seed + step)
            rate, ease, size, batch_size = schedule(progress, step, config)
            for group in optimiser.param_groups:
                group["lr"] = rate
            if not net.cfdm.attend and progress >= config.attention_from:
                net.cfdm.open_gates()
            index = torch.multinomial(pairs.weights, batch_size, replacement=True, generator=generator)
            strength = deformation.finished() if progress > 1 - config.finish else deformation.eased(ease)
            if config.only in ("second", "look"):  # no curriculum: the trunk is trained; confidence is learned here
                strength = replace(deformation.finished(), negative=0.25)
            if config.only == "fine":  # sub-pixel offsets are learned best where both images show the same
                strength = replace(deformation.finished(), same_modality=0.4)
            batch = make_batch(pairs, index, size, strength, generator)
            with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
                total_loss, terms = forward(net, batch, features, weights, config.per_pair, generator)
            descend(net, average, optimiser, total_loss, step, config)
            step += 1
            seconds += time.perf_counter() - started
            log.add(
                terms, pairs=batch_size, progress=progress, step=step, seconds=seconds, lr=rate, size=size, ease=ease
            )
            if time.perf_counter() - last_save > 120:
                save()
                last_save = time.perf_counter()
    save()
    return checkpoint
