"""``python -m eval speed``, see :mod:`eval.benchmark.speed.measure`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from eval.benchmark.speed.contenders import CONTENDERS, MODES, PRECISIONS
from eval.commands.options import AddParser, positive, words

if TYPE_CHECKING:
    from eval.benchmark.speed.measure import Group, Result

EXAMPLES = """examples:
  python -m eval speed                                     TAR beside kornia's LoFTR at 512², two threads
  python -m eval speed --sizes 256,512 --threads 1 --out eval/results
  python -m eval speed --device cuda --sizes 512 --batches 1,16 --precisions float32,bfloat16 --modes fused,compiled \\
      --matchers tar,tar_one_look,loftr,eloftr,xfeat,aliked --minutes 4 --out out
"""


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "speed",
        help="milliseconds, memory and operations of networks beside each other",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    matchers = "tar,tar_one_look,loftr"
    parser.add_argument("--matchers", type=_chosen(CONTENDERS), default=matchers, help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--modes", type=_chosen(MODES), default="eager,fused", help=f"of {', '.join(MODES)}")
    parser.add_argument("--precisions", type=_chosen(PRECISIONS), default="float32", help=f"of {', '.join(PRECISIONS)}")
    parser.add_argument("--sizes", type=_numbers, default="512", help="sides in pixels (%(default)s)")
    parser.add_argument("--batches", type=_numbers, default="1", help="pairs at once (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (%(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=5, help="rounds (%(default)s)")
    parser.add_argument("--minutes", type=float, help="end after about so many: what is not begun then is left out")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="folder of peers' weights; else random")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument("--out", type=Path, help="folder of table, roofline and JSON; else printed alone")
    parser.set_defaults(do=_do)


def _chosen(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Words between commas, all of them known."""

    def split(text: str) -> list[str]:
        if unknown := sorted(set(words(text)) - set(known)):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
        return words(text)

    return split


def _numbers(text: str) -> list[int]:
    return [positive(word) for word in words(text)]


def _do(args: argparse.Namespace) -> None:
    from eval.benchmark.provenance import provenance
    from eval.benchmark.speed.measure import Plan, measure
    from eval.report import speed
    from kornia_tar.matching.device import choose_device

    made = provenance()
    plan = Plan(
        args.matchers, args.modes, args.precisions, args.sizes, args.batches, choose_device(args.device), args.threads,
        args.repeats, args.weights, args.checkpoint, args.minutes,
    )  # fmt: skip

    def keep(result: Result, group: Group) -> None:
        print(group, flush=True)
        if args.out:
            speed.write(args.out, result, made)

    result = measure(plan, keep)
    print(speed.markdown(result, made))
    for path in speed.write(args.out, result, made) if args.out else ():
        print(path)
