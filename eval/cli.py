"""Command line: ``python -m eval warps | run | score | speed``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval import peers, protocol, report, run
from eval.datasets import Dataset, open_dataset

_ROOT = Path(__file__).resolve().parents[1]

_EXAMPLES = """examples, from the checkout's root:
  python -m eval warps --data ../shared/data/val-000.tar --rung tar,hard --seed 0
  python -m eval run --matchers tar,sift,aliked,xfeat --data ../shared/data/val-000.tar --rung tar --out eval/results
  python -m eval run --matchers tar --checkpoint runs/a/last.safetensors --data ../shared/data --limit 100 --out runs/a
  python -m eval run --matchers sift --data ../shared/data/bench/srif-opt-sar --rung real --out eval/results
  python -m eval speed --size 512 --threads 2
  python -m eval score --set val-000 --rung tar --out eval/results
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns 0, 2 for a user's error (one line on stderr), 130 after an interrupt."""
    args = _parser().parse_args(argv)
    try:
        args.do(args)
    except (ValueError, FileNotFoundError, TypeError) as error:
        print(f"eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("eval: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data", type=Path, nargs="+", required=True, help="WebDataset .tar, folder of val-*.tar, or SRIF folder"
    )
    tables = argparse.ArgumentParser(add_help=False)
    tables.add_argument("--out", type=Path, required=True, help="folder of the tables <set>.<rung>.md and .json")
    tables.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches (%(default)s)")
    tables.add_argument("--warps", type=Path, default=protocol.WARPS, help="folder of the stored warps (eval/warps)")
    tables.add_argument("--limit", type=_positive, help="only this many pairs, spread evenly over the set")
    rungs = f"{', '.join(protocol.RUNGS)}, or {protocol.REAL} for the truth a set brings; commas between several"

    warps = commands.add_parser("warps", parents=[data], help="draw and store the warps of a set, once")
    warps.add_argument("--rung", type=_words, default=list(protocol.RUNGS), help="comma-separated; default: all")
    warps.add_argument("--seed", type=int, default=0, help="seed of the draw (%(default)s)")
    warps.add_argument("--warps", type=Path, default=protocol.WARPS, help="folder to store them in (eval/warps)")
    warps.set_defaults(do=_warps)

    match = commands.add_parser("run", parents=[data, tables], help="match, cache, score")
    match.add_argument(
        "--matchers", type=_words, required=True, help=f"of {', '.join(peers.NAMES)}; identity always runs along"
    )
    match.add_argument("--rung", type=_words, default=["tar"], help=f"{rungs} (tar)")
    match.add_argument("--threads", type=_positive, default=1, help="threads of torch and OpenCV (%(default)s)")
    match.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    match.add_argument(
        "--weights", type=Path, default=_ROOT.parent / "shared" / "weights", help="peers' weights (../shared/weights)"
    )
    match.set_defaults(do=_run)

    speed = commands.add_parser("speed", help="seconds and memory beside kornia's LoFTR on one pair")
    speed.add_argument("--size", type=_positive, default=512, help="side in pixels (%(default)s)")
    speed.add_argument("--threads", type=_positive, default=2, help="CPU threads (%(default)s)")
    speed.add_argument("--repeats", type=_positive, default=5, help="warm calls to take the median of (%(default)s)")
    speed.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    speed.set_defaults(do=_speed)

    score = commands.add_parser("score", parents=[tables], help="score what is cached, without matching")
    score.add_argument("--set", dest="sets", type=_words, required=True, help="names of sets, such as val-000")
    score.add_argument("--rung", type=_words, default=["tar"], help=f"{rungs} (tar)")
    score.set_defaults(do=_score)
    return parser


def _warps(args: argparse.Namespace) -> None:
    for dataset in _datasets(args.data):
        for rung in args.rung:
            path = protocol.warps_path(dataset.name, rung, args.warps)
            warps = protocol.draw_warps(dataset.names, rung, args.seed)
            protocol.write_warps(path, dataset.name, rung, args.seed, warps)
            print(f"{path.name}: {len(warps)} warps")


def _run(args: argparse.Namespace) -> None:
    run.set_threads(args.threads)
    for dataset in _datasets(args.data):
        names = run.thin(dataset.names, args.limit)
        for rung in args.rung:
            not_run = {}
            for key in dict.fromkeys(["identity", *args.matchers]):
                try:
                    matcher = peers.create(key, args.weights, args.checkpoint)
                except peers.NotRun as reason:
                    not_run[key] = str(reason)
                    continue
                run.predict(dataset, rung, matcher, key, args.cache, names, args.warps)
            _table(dataset.name, rung, args, names, not_run)


def _speed(args: argparse.Namespace) -> None:
    from eval.speed import compare

    for name, value in compare(args.checkpoint, args.size, args.threads, args.repeats).items():
        print(f"{name}: {value:.2f}")


def _score(args: argparse.Namespace) -> None:
    for dataset in args.sets:
        for rung in args.rung:
            names = run.thin(run.cached_names(dataset, rung, args.cache), args.limit)
            _table(dataset, rung, args, names, {})


def _table(dataset: str, rung: str, args: argparse.Namespace, names: list[str], not_run: dict[str, str]) -> None:
    path = report.write(run.score(dataset, rung, args.cache, names, not_run, args.warps), args.out, args.limit)
    print(path.read_text())
    print(f"written: {path} and {path.with_suffix('.json').name}", file=sys.stderr)


def _datasets(paths: list[Path]) -> list[Dataset]:
    return [dataset for path in paths for dataset in open_dataset(path)]


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
