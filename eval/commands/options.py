"""Options and their values that several subcommands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from eval.benchmark import protocol

AddParser = Callable[..., argparse.ArgumentParser]  # a subparsers action's add_parser

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
LEVELS_OR_REAL = f"{', '.join(protocol.LEVELS)}, or {protocol.REAL} for the truth a set brings; commas between several"
GOES_ON = "what is matched is kept, the same command goes on from here"  # told after an interrupt


def data_options() -> argparse.ArgumentParser:
    """Which sets to open; a parent of parsers."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="sets: a path whose layout tells the kind, or KIND:PATH (webdataset, srif, sen12, osdataset, qxs, "
        "spacenet9, pairs); a folder of sets opens them all",
    )
    data.add_argument("--split", help="the part to take of sets that have official ones; default: the one to test on")
    return data


def words(text: str) -> list[str]:
    """Words between commas."""
    return [word for word in text.split(",") if word]


def seed(text: str) -> int:
    """A whole number from 0 on."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
