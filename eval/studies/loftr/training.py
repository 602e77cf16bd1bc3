"""LoFTR's architecture trained from scratch as our own network is: its row says what the data and minutes bring it.

Alike: the pairs with their weights, warps, photometry, curriculum, sizes of the crops, schedule of the learning rate,
optimiser, precision and average of the weights (:mod:`kornia_tar.training`). LoFTR's own are the network (kornia's,
outdoor configuration, random start), its losses (Sun et al., CVPR 2021, arXiv 2104.00680, sections 3.5 and 3.6), how
it samples the cells to refine, and what :data:`OWN` says. It has no use for modalities, masks and words, and is told
none.

Frame: pixel centres are integers. Every stride of LoFTR's backbone is centred, so coarse cell (x, y) sits on pixel
(8x, 8y), and that is where the truth is taken: these weights owe no half pixel, as the published ones do.
"""

from __future__ import annotations

import json
import pickle
import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from kornia.feature import LoFTR
from safetensors.torch import save_file
from torch import Tensor

from eval.peers.learned.loftr import build
from eval.studies.loftr.matcher import FILE, FORMAT
from kornia_tar.conventions import CELL
from kornia_tar.files import one_line, replacing
from kornia_tar.network.cfdm import cell_centres
from kornia_tar.training.augment import Batch, Deformation, make_batch
from kornia_tar.training.data import Pairs
from kornia_tar.training.loop import TrainConfig, choose_bf16, descend, parameter_groups, schedule
from kornia_tar.training.losses import Truth, focal, ground_truth
from kornia_tar.training.progress import Progress

# Measured in steps of 4: 0.5 to 1.3 pairs a second on one core (RECIPE.md). Extrapolated to our 16, which was not run:
# 60 to 150 steps in half an hour, fewer than our warm-up has. The rate is LoFTR's 8e-3 for 64 pairs, scaled as it does.
OWN: dict[str, Any] = {"batch": 4, "warmup": 50, "learning_rate": 5e-4}
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss, LoFTR's
SAVE_EVERY, LOG_EVERY = 120.0, 20  # seconds, steps
SAYS = "fine error {fine_px:.2f} px"


def truth_on_cells(batch: Batch) -> Truth:
    """Truth with LoFTR's cells on pixels (8x, 8y), told in pixels whose origin makes them :func:`cell_centres`.

    Which cells show data stays as :func:`make_batch` says for its own, half a cell to the right and below.
    """
    to_centres = torch.eye(3, device=batch.matrix.device)
    to_centres[:2, 2] = (CELL - 1) / 2
    return ground_truth(batch._replace(matrix=to_centres @ batch.matrix @ torch.linalg.inv(to_centres)))


def step_loss(net: LoFTR, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass and total loss of one batch.

    Args:
        net: in training mode.
        batch: B pairs of S×S crops; LoFTR samples 0.4·B·(S/8)² windows of them, more than 200.

    Returns:
        the loss, and detached scalars to print: both terms, coarse accuracy and the identity prior's, and the mean
        error of the fine stage, in pixels, of windows that hold the truth.
    """
    stride_c, stride_f = net.config["resolution"]
    features = net.extract_features(torch.cat([batch.image0, batch.image1]))  # one pass: BatchNorm sees both modalities
    rows, columns = features["coarse"].shape[-2:]
    coarse0, coarse1 = net.loftr_coarse(*features["coarse"].flatten(2).transpose(1, 2).contiguous().chunk(2))
    truth = truth_on_cells(batch)
    cells = torch.arange(rows * columns, device=coarse0.device)
    mutual = (truth.target0 >= 0) & (truth.target1.gather(1, truth.target0.clamp_min(0)) == cells)
    b, i = mutual.nonzero(as_tuple=True)
    j = truth.target0[b, i]

    with torch.autocast(coarse0.device.type, enabled=False):
        coarse0, coarse1 = coarse0.float(), coarse1.float()
        scores = coarse0 @ coarse1.transpose(1, 2) / (coarse0.shape[-1] * net.coarse_matching.temperature)
        log_p = scores.log_softmax(1) + scores.log_softmax(2)
        none = b.new_zeros(1)  # as LoFTR does: without a true match, cell 0, which no loss counts
        data: dict[str, Any] = {
            "stride_c": stride_c, "stride_f": stride_f, "hw0_c": (rows, columns), "hw1_c": (rows, columns),
            "spv_b_ids": b if len(b) else none, "spv_i_ids": i if len(b) else none, "spv_j_ids": j if len(b) else none,
        }  # fmt: skip
        with torch.no_grad():
            net.coarse_matching(coarse0, coarse1, data)  # draws the windows: found matches, and true ones
    windows = net.fine_preprocess(*features["fine"].chunk(2), coarse0, coarse1, data)
    fine0, fine1 = net.loftr_fine(*windows)
    with torch.autocast(coarse0.device.type, enabled=False):
        net.fine_matching(fine0.float(), fine1.float(), data)

    at, own, other = data["b_ids"], data["i_ids"], data["j_ids"]
    reach = stride_f * (net.config["fine_window_size"] // 2)  # px
    wanted = (truth.to1[at, own] - cell_centres(other, columns)) / reach
    held = (wanted.abs().amax(-1) < 1) & (truth.target0[at, own] >= 0)
    found = data["expec_f"][held]
    error = (found[:, :2] - wanted[held]).square().sum(-1)
    sureness = 1 / found[:, 2].detach().clamp_min(1e-10)
    terms = {
        "coarse": ALPHA * focal(log_p[b, i, j], GAMMA),
        "fine": (error * sureness).sum() / sureness.sum().clamp_min(1e-10),
    }
    with torch.no_grad():
        at0 = truth.target0 >= 0
        log = {name: term.detach() for name, term in terms.items()}
        log["accuracy"] = (scores.argmax(2) == truth.target0)[at0].float().mean().nan_to_num()
        log["identity"] = (cells == truth.target0)[at0].float().mean().nan_to_num()
        log["fine_px"] = error.sqrt().mean().nan_to_num() * reach
    return sum(terms.values()), log  # type: ignore[return-value]


def train(
    pairs: Pairs,
    out: Path,
    config: TrainConfig,
    *,
    device: str = "cpu",
    resume: bool = False,
    data: tuple[str, ...] = (),
) -> Path:
    """Train, and write ``out/loftr.safetensors``, ``out/state.pt`` (to resume) and ``out/log.jsonl``.

    Args:
        pairs: training pairs.
        out: an existing folder.
        config: with ``minutes``; only what both networks have counts: length, batch, crops, rates, average, seed.
        device: "cpu" or "cuda".
        resume: go on from ``out/state.pt``.
        data: names of the shards, kept with the weights.

    Returns:
        the path of the weights.

    Raises:
        ValueError: no minutes; a state that is not of such a run.
        FileNotFoundError: nothing to resume.
    """
    if config.minutes is None:
        raise ValueError("the length of a run on equal terms is told in minutes")
    where = torch.device(device)
    torch.manual_seed(config.seed)
    generator = torch.Generator(where).manual_seed(config.seed)
    net = build().to(where).train()
    net.pos_encoding.update_position_encoding_size((32, 32))  # it grows where needed; the average copies it each step
    net.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(net).eval().requires_grad_(False)
    groups = parameter_groups(net, config.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    pairs, deformation = pairs.to(where), Deformation()
    step, seconds, drawn = 0, 0.0, 0
    state_path, weights_path = out / "state.pt", out / FILE
    if resume:
        if not state_path.is_file():
            raise FileNotFoundError(f"{state_path}: nothing to resume")
        try:
            state = torch.load(state_path, map_location=where, weights_only=True)
            net.load_state_dict(state["net"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            generator.set_state(state["generator"].cpu())
            torch.set_rng_state(state["windows"].cpu())
            step, seconds, drawn = int(state["step"]), float(state["seconds"]), int(state["drawn"])
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{state_path}: not the state of such a run ({one_line(error)[:120]})") from None

    def save() -> None:
        info = {"minutes": round(seconds / 60, 2), "steps": step, "seed": config.seed, "pairs seen": drawn,
                "pairs": len(pairs), "data": list(data), "train": asdict(config), "deformation": asdict(deformation),
                "threads": torch.get_num_threads(), "bf16": bf16, "device": device,
                "torch": torch.__version__}  # fmt: skip
        with replacing(weights_path) as temporary:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in average.state_dict().items()}
            save_file(tensors, temporary, metadata={"format": FORMAT, "info": json.dumps(info)})
            temporary.chmod(0o644)  # safetensors creates it for the owner alone
        with replacing(state_path) as temporary:
            torch.save({"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                        "generator": generator.get_state(), "windows": torch.get_rng_state(),
                        "step": step, "seconds": seconds, "drawn": drawn}, temporary)  # fmt: skip

    bf16 = choose_bf16(config.precision, where)
    total = 60 * config.minutes
    last_save = time.perf_counter()
    with Progress(out / "log.jsonl", LOG_EVERY, SAYS, resume) as log:
        while (progress := seconds / total) < 1:
            started = time.perf_counter()
            rate, ease, size, batch_size = schedule(progress, step, config)
            for group in optimiser.param_groups:
                group["lr"] = rate
            index = torch.multinomial(pairs.weights, batch_size, replacement=True, generator=generator)
            strength = deformation.finished() if progress > 1 - config.finish else deformation.eased(ease)
            batch = make_batch(pairs, index, size, strength, generator)
            with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
                loss, terms = step_loss(net, batch)
            descend(net, average, optimiser, loss, step, config)
            step, drawn = step + 1, drawn + batch_size
            seconds += time.perf_counter() - started
            log.add(
                terms, pairs=batch_size, progress=progress, step=step, seconds=seconds, lr=rate, size=size, ease=ease
            )
            if time.perf_counter() - last_save > SAVE_EVERY:
                save()
                last_save = time.perf_counter()
    save()
    return weights_path
