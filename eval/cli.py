"""Command line: ``python -m eval --help`` lists the subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import estimators, jobs, peers, protocol, report, run
from eval.datasets import Dataset, open_dataset

_ROOT = Path(__file__).resolve().parents[1]

_EXAMPLES = """examples, from the checkout's root:
  python -m eval warps --data ../shared/data/val-000.tar --rung tar,hard --seed 0
  python -m eval run --matchers tar,sift,aliked,xfeat --data ../shared/data/val-000.tar --rung tar --out eval/results
  python -m eval run --matchers tar --checkpoint runs/a/last.safetensors --data ../shared/data --limit 100 --out runs/a
  python -m eval run --matchers sift --data ../shared/data/bench/srif-opt-sar --rung real --out eval/results
  python -m eval estimators --set val-000 --rung tar,hard --matcher tar --out eval/results
  python -m eval refusals --data ../shared/data/val-000.tar --rung tar --mismatched 500 --out eval/results
  python -m eval calibration --data ../shared/data/val-000.tar --rung tar --out eval/results
  python -m eval starts --data ../shared/data/val-000.tar --rung hard --limit 60 --threads 1 --out eval/results
  python -m eval failures --data ../shared/data/val-000.tar --rung hard --matcher tar_registrar --count 4 --out runs
  python -m eval landcover --data ../shared/data/optical_only-000.tar --out eval/results
  python -m eval speed --size 512 --threads 2
  python -m eval train-loftr --data ../shared/data --minutes 30 --threads 1 -o runs/loftr
  python -m eval run --matchers loftr_ours --weights runs/loftr --data ../shared/data/val-000.tar --out eval/results
  python -m eval ablation --data ../shared/data --text ../shared/text --runs runs/ablation --out eval/results
  python -m eval swap --data ../shared/data/val-000.tar --text ../shared/text --limit 200 --out eval/results
  python -m eval score --set val-000 --rung tar --out eval/results
"""
_KEPT = "what is matched is kept, the same command goes on from here"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns 0, 2 for a user's error (one line on stderr), 130 after an interrupt."""
    args = _parser().parse_args(argv)
    try:
        args.do(args)
    except (ValueError, FileNotFoundError, TypeError) as error:
        print(f"eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"eval: interrupted; {args.kept}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(kept="nothing is kept, the same command starts over")
    commands = parser.add_subparsers(required=True, metavar="command")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="sets: a path whose layout tells the kind, or KIND:PATH (webdataset, srif, sen12, osdataset, qxs, "
        "spacenet9, pairs); a folder of sets opens them all",
    )
    data.add_argument("--split", help="the part to take of sets that have official ones; default: the one to test on")
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
    warps.set_defaults(do=_warps, kept="finished files stay, the same command draws all again, alike")

    match = commands.add_parser(
        "run", parents=[data, tables], help="match, cache, score", epilog=f"matchers:\n{peers.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    match.add_argument(
        "--matchers", type=_words, required=True, help="comma-separated, of those listed below; identity always runs"
    )
    match.add_argument("--rung", type=_words, default=["tar"], help=f"{rungs} (tar)")
    match.add_argument("--jobs", type=_positive, default=1, help="matchers to run at the same time (%(default)s)")
    match.add_argument("--threads", type=_positive, default=1, help="threads of torch and OpenCV, each (%(default)s)")
    match.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    match.add_argument(
        "--weights", type=Path, default=_ROOT.parent / "shared" / "weights", help="peers' weights (../shared/weights)"
    )
    match.add_argument("--download", action="store_true", help="let peers' libraries fetch their weights")
    match.set_defaults(do=_run, kept=_KEPT)

    refuse = commands.add_parser("refusals", help="does the registrar refuse images of different places?")
    refuse.add_argument("--data", required=True, help="a set with stored warps")
    refuse.add_argument("--rung", choices=tuple(protocol.RUNGS), default="tar", help="deformation (%(default)s)")
    refuse.add_argument("--true", type=_positive, default=200, help="true pairs (%(default)s)")
    refuse.add_argument("--mismatched", type=_positive, default=500, help="mismatched pairs (%(default)s)")
    refuse.add_argument("--threads", type=_positive, default=2, help="CPU threads (%(default)s)")
    refuse.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    refuse.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of kept outcomes (%(default)s)")
    refuse.add_argument("--out", type=Path, required=True, help="folder of the results")
    refuse.set_defaults(do=_refusals, kept=_KEPT)

    calibrate = commands.add_parser("calibration", help="do TAR's confidence and std mean what they say?")
    calibrate.add_argument("--data", required=True, help="an optical–SAR set with stored warps")
    calibrate.add_argument("--rung", choices=tuple(protocol.RUNGS), default="tar", help="deformation (%(default)s)")
    calibrate.add_argument(
        "--limit", type=_positive, default=200, help="pairs matched in one pass, and a fourth as many of each modality "
        "with itself (%(default)s)"
    )  # fmt: skip
    calibrate.add_argument("--registrations", type=_positive, default=80, help="likewise registered (%(default)s)")
    calibrate.add_argument("--threads", type=_positive, default=1, help="CPU threads (%(default)s)")
    weights = calibrate.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    weights.add_argument(
        "--store", type=Path, metavar="CHECKPOINT", help="the same, and write the fit into it, in place of any before"
    )
    calibrate.add_argument(
        "--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches, %(default)s"
    )
    calibrate.add_argument("--out", type=Path, required=True, help="folder of the results")
    calibrate.set_defaults(do=_calibration, kept=_KEPT)

    start = commands.add_parser("starts", help="accuracy and time of the registrar by where it starts")
    start.add_argument("--data", required=True, help="a set with stored warps")
    start.add_argument("--rung", choices=tuple(protocol.RUNGS), default="hard", help="deformation (%(default)s)")
    start.add_argument("--limit", type=_positive, help="only this many pairs, spread evenly over the set")
    start.add_argument("--threads", type=_positive, default=1, help="threads of torch and OpenCV, each (%(default)s)")
    start.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    start.add_argument("--warps", type=Path, default=protocol.WARPS, help="folder of the stored warps (eval/warps)")
    start.add_argument("--out", type=Path, required=True, help="folder of <set>.<rung>.starts.md, .json and .png")
    start.set_defaults(do=_starts)

    fail = commands.add_parser("failures", help="pictures of the worst pairs, from the cached matches")
    fail.add_argument("--data", required=True, help="the set")
    fail.add_argument(
        "--rung", default="tar", help=f"{', '.join(protocol.RUNGS)}; {protocol.REAL} of itself (%(default)s)"
    )
    fail.add_argument("--matcher", default="tar_registrar", help="whose matches (%(default)s)")
    fail.add_argument("--count", type=_positive, default=4, help="number of pairs (%(default)s)")
    fail.add_argument("--drawing", action="store_true", help="outlines and arrows alone, nothing of the images")
    fail.add_argument("--cache", type=Path, default=Path("runs/eval"), help="folder of cached matches (%(default)s)")
    fail.add_argument("--out", type=Path, required=True, help="folder of failures.png or failures-drawing.png")
    fail.set_defaults(do=_failures)

    cover = commands.add_parser("landcover", help="is the land-cover map true? scenes whose class is known by name")
    cover.add_argument(
        "--data", type=Path, required=True, help="a WebDataset tar of RSSCN7 or SEN1-2 images, named by their classes"
    )
    cover.add_argument("--limit", type=_positive, help="only so many images of each modality, spread over the classes")
    cover.add_argument("--threads", type=_positive, default=2, help="CPU threads (%(default)s)")
    cover.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    cover.add_argument("--out", type=Path, required=True, help="folder of the results")
    cover.set_defaults(do=_landcover)

    speed = commands.add_parser("speed", help="seconds and memory beside kornia's LoFTR on one pair")
    speed.add_argument("--size", type=_positive, default=512, help="side in pixels (%(default)s)")
    speed.add_argument("--threads", type=_positive, default=2, help="CPU threads (%(default)s)")
    speed.add_argument("--repeats", type=_positive, default=5, help="warm calls to take the median of (%(default)s)")
    speed.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    speed.set_defaults(do=_speed)

    learn = commands.add_parser(
        "train-loftr", help="train LoFTR's architecture from scratch as our own network is, for the matcher loftr_ours",
        epilog="example: python -m eval train-loftr --data ../shared/data --minutes 30 --threads 1 -o runs/loftr",
    )  # fmt: skip
    learn.add_argument("--data", type=Path, required=True, help="folder with train-*.tar (and optical_only-*.tar)")
    learn.add_argument("--minutes", type=float, required=True, help="length of the run in minutes of stepping")
    learn.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    learn.add_argument("--threads", type=_positive, default=1, help="CPU threads (%(default)s)")
    learn.add_argument("--limit", type=_positive, help="use only so many pairs, such as 16 to see it overfit")
    learn.add_argument("--resume", action="store_true", help="go on from the folder's state")
    learn.add_argument("-o", "--out", type=Path, required=True, help="folder for weights, state and log")
    learn.set_defaults(
        do=_train_loftr,
        kept="--resume goes on from the last state, one is saved every two minutes; without it the run starts over",
    )

    ablate = commands.add_parser(
        "ablation", help="what text brings: a small network trained and examined, row by row; goes on where it stopped",
        epilog="example: python -m eval ablation --data ../shared/data --text ../shared/text --rows learned,remoteclip"
        " --out eval/results",
    )  # fmt: skip
    ablate.add_argument("--data", type=Path, required=True, help="folder of the train shards, val-000.tar and bench/")
    ablate.add_argument("--text", type=Path, required=True, help="folder of the text banks")
    ablate.add_argument("--rows", type=_words, help="comma-separated; default: all")
    ablate.add_argument("--seeds", type=_positive, default=3, help="runs of each row (%(default)s)")
    ablate.add_argument("--steps", type=_positive, default=200, help="of 8 pairs, each run (%(default)s)")
    ablate.add_argument(
        "--base-steps", type=_positive, default=1200, help="of 16 pairs, the common start (%(default)s)"
    )
    ablate.add_argument("--limit", type=_positive, default=80, help="pairs of each set in the exam (%(default)s)")
    ablate.add_argument("--threads", type=_positive, default=1, help="CPU threads (%(default)s)")
    ablate.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder of the runs (%(default)s)")
    ablate.add_argument("--out", type=Path, required=True, help="folder of text-ablation.md, .json and .png")
    ablate.set_defaults(
        do=_ablation,
        kept="finished runs and the last state of their common start are kept, the same command goes on from there",
    )

    other = commands.add_parser(
        "swap", help="what text does in a checkpoint: other words, no training",
        epilog="example: python -m eval swap --data ../shared/data/val-000.tar --text ../shared/text --out runs/a",
    )  # fmt: skip
    other.add_argument("--data", required=True, help="a set of optical and SAR images with stored warps")
    other.add_argument("--text", type=Path, required=True, help="folder of the text banks")
    other.add_argument("--rung", default="tar", help=f"{rungs.split(';')[0]} (%(default)s)")
    other.add_argument("--limit", type=_positive, default=200, help="pairs (%(default)s)")
    other.add_argument("--threads", type=_positive, default=1, help="CPU threads (%(default)s)")
    other.add_argument("--checkpoint", type=Path, help="TAR's checkpoint instead of the shipped one")
    other.add_argument("--out", type=Path, required=True, help="folder of text-swap.md and .json")
    other.set_defaults(do=_swap)

    score = commands.add_parser("score", parents=[tables], help="score what is cached, without matching")
    score.add_argument("--data", nargs="+", default=[], help="the sets themselves, for pictures in the report")
    score.add_argument("--split", help="as in run")
    score.add_argument("--set", dest="sets", type=_words, required=True, help="names of sets, such as val-000")
    score.add_argument("--rung", type=_words, default=["tar"], help=f"{rungs} (tar)")
    score.set_defaults(do=_score, kept="finished tables stay, the same command scores all again")

    estimate = commands.add_parser("estimators", parents=[tables], help="compare robust estimators on cached matches")
    estimate.add_argument("--set", dest="sets", type=_words, required=True, help="names of sets, such as val-000")
    estimate.add_argument("--rung", type=_words, default=["tar"], help=f"{rungs} (tar)")
    estimate.add_argument("--matcher", default="tar", help="whose matches (%(default)s)")
    estimate.set_defaults(do=_estimators)
    return parser


def _warps(args: argparse.Namespace) -> None:
    for dataset in (found for path in args.data for found in open_dataset(path, args.split)):
        for rung in args.rung:
            path = protocol.warps_path(dataset.name, rung, args.warps)
            warps = protocol.draw_warps(dataset.names, rung, args.seed)
            protocol.write_warps(path, dataset.name, rung, args.seed, warps)
            print(f"{path.name}: {len(warps)} warps")


def _run(args: argparse.Namespace) -> None:
    places = {dataset.name: (dataset, path) for path in args.data for dataset in open_dataset(path, args.split)}
    keys = list(dict.fromkeys(["identity", *args.matchers]))
    planned = {name: run.thin(dataset.names, args.limit) for name, (dataset, _) in places.items()}
    rungs = {name: protocol.rungs_for(dataset, args.rung) for name, (dataset, _) in places.items()}
    todo = [
        jobs.Job(
            matcher=key, data=path, split=args.split, dataset=name, names=tuple(planned[name]),
            rungs=tuple(rungs[name]), threads=args.threads, cache=args.cache, warps=args.warps,
            weights=args.weights, checkpoint=args.checkpoint, download=args.download,
        )
        for name, (_, path) in places.items() for key in keys
    ]  # fmt: skip
    reasons = jobs.run_jobs(todo, args.jobs)
    tables = []
    for name in places:
        not_run = {job.matcher: reason for job, reason in reasons.items() if job.dataset == name}
        for rung in rungs[name]:
            tables.append(_table(name, rung, args, planned[name], not_run))
    _report(tables, args, [dataset for dataset, _ in places.values()])


def _estimators(args: argparse.Namespace) -> None:
    tables = [
        estimators.compare(dataset, rung, args.matcher, args.cache, args.limit)
        for dataset in args.sets for rung in args.rung
    ]  # fmt: skip
    path = report.write_text(args.out / "estimators.md", estimators.markdown(tables))
    print(path.read_text())
    print(f"written: {path}", file=sys.stderr)


def _refusals(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from eval import refusals

    torch.set_num_threads(args.threads)
    dataset = _one(args.data)
    count = len(dataset.names)
    with tqdm(total=min(args.true, count) + min(args.mismatched, count), unit="pair") as bar:
        found = refusals.measure(
            dataset, args.rung, args.true, args.mismatched, args.checkpoint, args.cache, bar.update
        )
    print(refusals.write(args.out, dataset.name, args.rung, *found).read_text())


def _calibration(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval import calibration

    run.set_threads(args.threads)
    dataset, checkpoint = _one(args.data), args.store or args.checkpoint
    todo = calibration.plans(dataset.names, args.limit, args.registrations)
    with tqdm(total=sum(len(plan.names) for plan in todo), unit="pair") as bar:
        found = calibration.collect(dataset, args.rung, todo, checkpoint, args.cache, bar.update)
    rows, fits = calibration.judge(found)
    print(calibration.write(args.out, dataset.name, args.rung, rows, fits).read_text())
    if args.store is not None:
        words = f"to {dataset.name}, rung {args.rung}, {args.limit} pairs, {args.registrations} of them registered"
        calibration.store(args.store, fits, words)
        print(f"stored in {args.store}", file=sys.stderr)


def _starts(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from eval import starts

    run.set_threads(args.threads)
    dataset = _one(args.data)
    names = run.thin(dataset.names, args.limit)
    with tqdm(total=len(names) * (1 + len(starts.VARIANTS)), unit="call") as bar:
        found = starts.measure(dataset, args.rung, names, args.checkpoint, args.warps, bar.update)
    print(starts.write(found, args.out, args.limit).read_text())


def _failures(args: argparse.Namespace) -> None:
    from eval import failures  # it needs matplotlib, which no table needs

    dataset = _one(args.data)
    (rung,) = protocol.rungs_for(dataset, [args.rung])
    found = failures.worst(dataset, rung, args.matcher, args.count, args.cache)
    for failure in found.failures:
        print(f"{failure.pair.name}: {failure.caption}")
    if args.drawing:
        path = failures.draw_outlines(found, args.out / "failures-drawing.png")
    else:
        path = failures.draw_images(found, args.out / "failures.png")
    print(f"written: {path}", file=sys.stderr)


def _one(data: str) -> Dataset:
    datasets = open_dataset(data)
    if len(datasets) != 1:
        raise ValueError(f"--data {data} holds {len(datasets)} sets, name one: {', '.join(d.name for d in datasets)}")
    return datasets[0]


def _ablation(args: argparse.Namespace) -> None:
    from eval import ablation

    run.set_threads(args.threads)
    rows, results = args.rows or list(ablation.ROWS), []
    budget = args.seeds, args.steps, args.base_steps
    try:
        for result in ablation.measure(rows, *budget, args.data, args.text, args.runs, args.limit):
            results.append(result)
    finally:  # also after an interrupt: what there is makes a table
        if results:
            _ablation_table(args, results)


def _ablation_table(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    from eval import ablation, ablation_table

    labels = {"base": "the common start"} | {key: row.label for key, row in ablation.ROWS.items()}
    about = (
        f"A network of size XXS, trained without text for {args.base_steps} steps of {ablation.BASE.batch} pairs, then"
        f" {args.steps} steps of {ablation.RUN.batch} pairs with each text: all parameters, the same crops for all rows"
        f" of a seed, TAFE's gate open by {ablation.GATE:g} at the start. Single pass, {args.limit} pairs a set."
    )
    path = ablation_table.write(args.out, "text-ablation", results, labels, ablation.PLAIN, about)
    print(path.read_text())


def _swap(args: argparse.Namespace) -> None:
    from eval import exam, swap
    from eval.peers.tar import TAR

    run.set_threads(args.threads)
    datasets = open_dataset(args.data)
    if len(datasets) != 1:
        raise ValueError(
            f"--data {args.data} holds {len(datasets)} sets, name one: {', '.join(d.name for d in datasets)}"
        )
    made = swap.variants(TAR(args.checkpoint).net.net, args.text)
    answers = swap.measure(made, exam.read_questions(datasets[0], args.rung, args.limit))
    print(swap.write(args.out, f"{datasets[0].name}, {args.rung}", answers).read_text())


def _landcover(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from eval import landcover
    from kornia_tar import TARMatcher

    torch.set_num_threads(args.threads)
    if not args.data.is_file():
        raise FileNotFoundError(f"{args.data}: no such file; need a tar of images")
    matcher = TARMatcher(args.checkpoint or "optical-sar").fuse()
    rows, same = landcover.measure(args.data, matcher, args.limit, lambda names: tqdm(names, unit="image"))
    print(landcover.write(args.out, args.data, rows, same).read_text())


def _speed(args: argparse.Namespace) -> None:
    from eval.speed import compare

    for name, value in compare(args.checkpoint, args.size, args.threads, args.repeats).items():
        print(f"{name}: {value:.2f}")


def _train_loftr(args: argparse.Namespace) -> None:
    import torch

    from eval import loftr_training
    from kornia_tar.raster import output_folder
    from kornia_tar.training.data import find_shards, read_optical, read_pairs
    from kornia_tar.training.loop import TrainConfig

    if args.minutes <= 0:
        raise ValueError(f"--minutes must be positive, got {args.minutes:g}")
    torch.set_num_threads(args.threads)
    shards, out = find_shards(args.data), output_folder(args.out)
    alone = sorted(args.data.glob("optical_only-*.tar")) if args.limit is None else []
    pairs = read_pairs(shards, limit=args.limit)
    pairs = pairs + read_optical(alone, size=pairs.sar.shape[-1]) if alone else pairs
    config = TrainConfig(minutes=args.minutes, seed=args.seed, **loftr_training.OWN)
    names = tuple(shard.name for shard in (*shards, *alone))
    print(f"written: {loftr_training.train(pairs, out, config, resume=args.resume, data=names)}")


def _score(args: argparse.Namespace) -> None:
    tables = []
    for dataset in args.sets:
        for rung in args.rung:
            names = run.thin(run.cached_names(dataset, rung, args.cache), args.limit)
            tables.append(_table(dataset, rung, args, names, {}))
    _report(tables, args, [dataset for path in args.data for dataset in open_dataset(path, args.split)])


def _table(
    dataset: str, rung: str, args: argparse.Namespace, names: list[str], not_run: dict[str, str]
) -> report.Table:
    table = run.score(dataset, rung, args.cache, names, not_run, args.warps)
    path = report.write(table, args.out, args.limit)
    written = f"{path} and {path.with_suffix('.json').name}"
    if rung in protocol.RUNGS:
        from eval import deformation  # it needs matplotlib, which no table needs

        written += f", {deformation.draw(table, path.with_suffix('.png')).name}"
    print(path.read_text())
    print(f"written: {written}", file=sys.stderr)
    return table


def _report(tables: list[report.Table], args: argparse.Namespace, datasets: list[Dataset]) -> None:
    page = report.write_report(tables, args.out, args.cache, datasets, args.limit)
    print(f"written: {page} and report.md beside it", file=sys.stderr)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
