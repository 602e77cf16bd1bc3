"""``kornia-tar train``."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kornia_tar import __version__
from kornia_tar.cli.command import AddCommand, choose_device
from kornia_tar.cli.options import add_overwrite, seed
from kornia_tar.files import check_outputs, output_folder
from kornia_tar.network.checkpoint import resolve_weights
from kornia_tar.network.net import SIZES, TARNet, with_landcover, with_padding, with_second_look
from kornia_tar.text import TextBank, available_text_priors, embed_classes, load_text_prior

if TYPE_CHECKING:
    from kornia_tar.training.words import WordsConfig  # needs tqdm, an extra


def add(command: AddCommand) -> None:
    """Add the subcommand."""
    parser = command(
        "train", _do, "train a checkpoint from WebDataset shards of aligned pairs",
        "kornia-tar train --data shards/ --text bank.npz --minutes 60 -o run/",
    )  # fmt: skip
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with train-*.tar (and optical_only-*.tar; for --only words *-floods.tar)",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for checkpoint, state and log")
    parser.add_argument(
        "--text", metavar="BANK|PRIOR", help="a text bank (.npz, .safetensors, .h5), or a prior by its name, with our "
        "prompts: random, learned (training moves it); without it a model without text"
    )  # fmt: skip
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="length of the run in minutes of stepping")
    length.add_argument("--steps", type=int, help="length of the run in steps")
    parser.add_argument("--batch", type=int, help="pairs per step (default: 16), or scenes with --only words (24)")
    parser.add_argument("--size", type=int, default=128, help="side of the crops, a multiple of 16 (default: 128)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate; with --from and without "
                        "--only, half of it; with --only words, twice (default: %(default)s)")  # fmt: skip
    parser.add_argument("--net", choices=tuple(SIZES), help="size of the network: 0.8, 3.0, 5.3 or 10.9 million "
                        "parameters (default: XS; with --from, that of the weights)")  # fmt: skip
    parser.add_argument("--padding", choices=("zeros", "replicate"), help="what MSFL sees beyond an image's border: "
                        "with replicate its features do not tell where that is (default: zeros; with --from, "
                        "as in the weights)")  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--limit", type=int, help="use only so many pairs, e.g. 64 to see it overfit")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    parser.add_argument("--from", dest="start", metavar="WEIGHTS", help="go on from these weights: no curriculum, "
                        "a lower rate")  # fmt: skip
    parser.add_argument("--only", choices=("fine", "text", "second", "look", "words"), help="with --from: train a part "
                        "alone: the fine stage; what reads the text and compares cells; the second look's head; that "
                        "head and the fine stage; or the land-cover head, which changes no match")  # fmt: skip
    parser.add_argument("--features", type=Path, metavar="FILE", help="with --only words: keep the encoded images in "
                        "this file, .safetensors, or take them from there: a second run needs no encoding")  # fmt: skip
    parser.add_argument("--hold-out", metavar="WORDS", help="with --only words: words that training must not see, "
                        "comma-separated, to ask what the map makes of them")  # fmt: skip
    add_overwrite(parser)


def _do(a: argparse.Namespace) -> int:
    from kornia_tar.network.checkpoint import load_checkpoint
    from kornia_tar.network.tafe import TAFEConfig

    if importlib.util.find_spec("tqdm") is None:
        raise ImportError('training shows its progress with tqdm: pip install "kornia-tar[train]"')
    from kornia_tar.training import words
    from kornia_tar.training.data import find_shards, read_optical, read_pairs
    from kornia_tar.training.loop import NAMES, TrainConfig, train
    from kornia_tar.training.losses import step_loss
    from kornia_tar.training.second_look import joint_loss, second_look_loss

    if a.size < 64 or a.size % 16:
        raise ValueError(f"--size must be a multiple of 16 and at least 64, got {a.size}")
    for name in ("minutes", "steps", "batch", "limit", "learning_rate"):
        if getattr(a, name) is not None and not getattr(a, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {getattr(a, name)}")
    if a.net is not None and a.start is not None:
        raise ValueError("--net and --from exclude each other: the weights say how large the network is")
    start, told = (None, {}) if a.start is None else load_checkpoint(resolve_weights(a.start))
    if start is not None and a.only in ("second", "look") and start.second_look is None:
        start = with_second_look(start, a.seed)
    if (a.hold_out is not None or a.features is not None) and a.only != "words":
        raise ValueError("--hold-out and --features go with --only words")
    if a.padding is not None and a.only is not None:
        raise ValueError("--padding changes what all layers see: leave out --only, and train all of the network")
    shards, device = find_shards(a.data), choose_device(a.device)
    alone = sorted(a.data.glob("optical_only-*.tar")) if a.limit is None else []
    read = [
        *shards,
        *alone,
        *([] if a.start is None else [resolve_weights(a.start)]),
        *([] if a.text is None else [Path(a.text)]),
    ]
    if a.only == "words":
        if start is None or a.text is None or a.resume:
            raise ValueError("--only words needs --from and --text, and cannot --resume: it takes minutes")
        check_outputs((a.out / name for name in words.NAMES), read, overwrite=a.overwrite)
        held_out = () if a.hold_out is None else tuple(word.strip() for word in a.hold_out.split(",") if word.strip())
        batch = words.WordsConfig.scenes if a.batch is None else a.batch
        settings = words.WordsConfig(a.steps, a.minutes, batch, 2 * a.learning_rate, seed=a.seed, held_out=held_out)
        path = _train_words(
            start, told, _text_bank(a.text), shards, sorted(a.data.glob("optical_only-*.tar")),
            sorted(a.data.glob("*-floods.tar")), a.limit, device, a.precision, a.features, output_folder(a.out),
            settings,
        )  # fmt: skip
        print(f"written: {path}")
        return 0
    if start is not None and start.landcover is not None and a.only is None:
        print("the land-cover head belongs to the features that now change: train it anew with --only words")
        start = with_landcover(start, None)
    check_outputs((a.out / name for name in NAMES), read, overwrite=a.overwrite or a.resume)
    bank = None if a.text is None else _text_bank(a.text)
    tafe = TAFEConfig(classes=0) if bank is None else TAFEConfig(text_dim=bank.dim, classes=len(bank))
    model = replace(SIZES[a.net or "XS"], tafe=tafe) if start is None else start.config
    if a.padding is not None:
        model = replace(model, msfl=replace(model.msfl, padding=a.padding))
        start = None if start is None else with_padding(start, a.padding)
    out = output_folder(a.out)
    pairs = read_pairs(shards, limit=a.limit)
    pairs = pairs + read_optical(alone, size=pairs.sar.shape[-1]) if alone else pairs
    config = TrainConfig(steps=a.steps, minutes=a.minutes, batch=a.batch or TrainConfig.batch, size=a.size, seed=a.seed,
                         learning_rate=a.learning_rate, precision=a.precision, only=a.only,
                         learn_text=a.text == "learned", compile=device.startswith("cuda"))  # fmt: skip
    provenance = {"data": [s.name for s in shards + alone], "kornia_tar": __version__}
    if start is not None:
        config = config if a.only else config.onward()
        config = replace(config, warmup=50) if a.only in ("second", "look") else config
        part = {key: told[key] for key in ("step", "minutes", "train", "deformation", "loss") if key in told}
        provenance["earlier_parts"] = [*told.get("earlier_parts", []), part]
        if bank is None and "text" in told:  # the tokens stay as they are
            provenance["text"] = told["text"]
        if start.landcover is not None and "landcover" in told:
            provenance["landcover"] = told["landcover"]
    loss = second_look_loss if a.only == "second" else step_loss
    if a.only in (None, "look") and model.second_look is not None:
        loss = joint_loss
    path = train(
        pairs, out, text=bank, config=config, model=model, device=device, resume=a.resume,
        start=start, loss=loss, provenance=provenance,
    )  # fmt: skip
    print(f"written: {path}")
    return 0


def _train_words(
    start: TARNet, told: dict[str, Any], bank: TextBank, shards: list[Path], alone: list[Path], floods: list[Path],
    limit: int | None, device: str, precision: str, kept: Path | None, out: Path, config: WordsConfig,
) -> Path:  # fmt: skip
    """Train the land-cover head of weights, on what a folder of data teaches; ``limit`` pairs and images alone each."""
    import torch

    from kornia_tar.training.data import read_optical, read_pairs
    from kornia_tar.training.lessons import VIEWS, Lessons, name_features, prepare_lessons, read_floods
    from kornia_tar.training.loop import choose_bf16
    from kornia_tar.training.words import train_words

    if unknown := [word for word in config.held_out if word not in bank.names]:
        raise ValueError(f"--hold-out: the bank has no {unknown[0]!r}; its words are {', '.join(bank.names)}")
    net, bf16 = start.to(device), choose_bf16(precision, torch.device(device))
    files = [*shards, *alone, *floods]
    sizes = [(path.name, path.stat().st_size) for path in files]
    name = name_features(net, bank.names, config.seed, limit, sizes, bf16)
    if kept is not None and kept.exists():
        lessons = Lessons.load(kept, name)
    else:
        pairs = read_pairs(shards, limit=limit)
        side = pairs.sar.shape[-1]
        scenes = read_optical(alone, side, views=VIEWS, seed=config.seed, limit=limit) if alone else None
        masks = {name: mask for path in floods for name, mask in read_floods(path, pairs.names).items()}
        lessons = prepare_lessons(net, pairs, scenes, masks, bank.names, bf16=bf16)
        if kept is not None:
            lessons.save(kept, name)
    return train_words(net, lessons, bank, out, config, told, [path.name for path in files])


def _text_bank(text: str) -> TextBank:
    if Path(text).suffix or text not in available_text_priors():
        return TextBank.load(text)
    return embed_classes(load_text_prior(text))
