"""``python -m eval run``, see :mod:`eval.benchmark.predict` and :mod:`eval.benchmark.score`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval import peers
from eval.benchmark import jobs, pairs, protocol, turned
from eval.commands.options import GOES_ON, LEVELS_OR_REAL, ROOT, AddParser, data_options, positive, words
from eval.commands.tables import table_options, write_report, write_table
from eval.datasets import open_dataset


def add(add_parser: AddParser) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "run", parents=[data_options(), table_options()], help="match, cache, score",
        epilog=f"matchers:\n{peers.describe()}\n{turned.HELP}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--matchers", type=words, required=True, help="comma-separated, of those listed below; identity always runs"
    )
    parser.add_argument("--level", "--rung", type=words, default=["tar"], help=f"{LEVELS_OR_REAL} (tar)")
    parser.add_argument("--jobs", type=positive, default=1, help="matchers to run at the same time (%(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch and OpenCV, each (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    parser.add_argument(
        "--weights", type=Path, default=ROOT.parent / "shared" / "weights", help="peers' weights (../shared/weights)"
    )
    parser.add_argument("--download", action="store_true", help="let peers' libraries fetch their weights")
    parser.set_defaults(do=_do, kept=GOES_ON)


def _do(args: argparse.Namespace) -> None:
    turned.check(args.matchers)  # a mistyped name fails before any other is matched
    places = {dataset.name: (dataset, path) for path in args.data for dataset in open_dataset(path, args.split)}
    keys = list(dict.fromkeys(["identity", *args.matchers]))
    planned = {name: pairs.subsample(dataset.names, args.limit) for name, (dataset, _) in places.items()}
    levels = {name: protocol.levels_for(dataset, args.level) for name, (dataset, _) in places.items()}
    todo = [
        jobs.Job(
            matcher=key, data=path, split=args.split, dataset=name, names=tuple(planned[name]),
            levels=tuple(levels[name]), threads=args.threads, cache=args.cache, warps=args.warps,
            weights=args.weights, checkpoint=args.checkpoint, download=args.download,
        )
        for name, (_, path) in places.items() for key in keys
    ]  # fmt: skip
    reasons = jobs.run_jobs(todo, args.jobs)
    tables, written = [], {"cache": args.cache, "out": args.out, "limit": args.limit}
    for name in places:
        not_run = {job.matcher: reason for job, reason in reasons.items() if job.dataset == name}
        for level in levels[name]:
            tables.append(write_table(name, level, planned[name], not_run, warps=args.warps, keep=args.keep, **written))
    write_report(tables, [dataset for dataset, _ in places.values()], **written)
