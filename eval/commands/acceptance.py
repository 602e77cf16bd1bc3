"""``python -m eval acceptance``, see :mod:`eval.calibration.acceptance`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.benchmark import predict, protocol
from eval.commands.options import GOES_ON, LEVELS_OR_REAL, AddParser, one_set, positive, words


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser("acceptance", help="fit and judge when the registrar trusts a transform")
    parser.add_argument(
        "--pairs", nargs="+", required=True, metavar="SET:LEVEL:TRUE:MISMATCHED[:SIDE]",
        help=f"path of a set, a level ({LEVELS_OR_REAL}), how many true and mismatched pairs, and the side in px to "
        "which the middle of both images is cut",
    )  # fmt: skip
    parser.add_argument("--min-probability", type=float, default=0.9, help="least that is accepted (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (%(default)s)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    weights.add_argument(
        "--store", type=Path, metavar="CHECKPOINT", help="as --checkpoint, and store the fit to all pairs in that file"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of kept outcomes (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval.calibration import acceptance, confidence
    from eval.calibration.outcomes import measure

    predict.set_threads(args.threads)
    plans = [_plan(text) for text in args.pairs]
    kinds = []
    with tqdm(total=sum(true + mismatched for _, _, true, mismatched, _ in plans), unit="pair") as bar:
        for path, level, true, mismatched, side in plans:
            dataset = one_set(path)
            found = measure(
                dataset,
                level,
                true,
                mismatched,
                args.store or args.checkpoint,
                args.cache,
                bar.update,
                side,
                align_all=True,
            )
            kinds.append(acceptance.Kind(" ".join(words(f"{dataset.name},{level},{side or ''}")), *found))
    print(acceptance.write(args.out, kinds, args.min_probability).read_text())
    if args.store is not None:
        confidence.store(args.store, f"to {', '.join(args.pairs)}", registration=acceptance.fit(kinds))
        print(f"stored in {args.store}", file=sys.stderr)


def _plan(text: str) -> tuple[str, str, int, int, int | None]:
    """Read ``SET:LEVEL:TRUE:MISMATCHED[:SIDE]``; the path of a set may hold colons itself."""
    parts = text.split(":")
    level = next((k for k in range(len(parts) - 1, 0, -1) if parts[k] in (*protocol.LEVELS, protocol.REAL)), 0)
    numbers = parts[level + 1 :]
    if not level or len(numbers) not in (2, 3) or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"--pairs {text!r}: need SET:LEVEL:TRUE:MISMATCHED[:SIDE], such as val-000.tar:tar:60:60:128")
    true, mismatched, *side = map(int, numbers)
    return ":".join(parts[:level]), parts[level], true, mismatched, side[0] if side else None
