"""What ``kornia-tar`` and ``tar-hloc`` share: subcommands with an example, errors in one line, the device."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

import torch

from kornia_tar.files import one_line

Run = Callable[[argparse.Namespace], int]
AddCommand = Callable[[str, Run, str, str], argparse.ArgumentParser]  # what adder returns
ERRORS: tuple[type[Exception], ...] = (ValueError, TypeError, ImportError, OSError, MemoryError, RuntimeError)


def adder(parser: argparse.ArgumentParser) -> AddCommand:
    """A function (name, what runs, what it does, example) that adds a subcommand to ``parser`` and returns it."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(run=run)
        return sub

    return command


def run_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, also: tuple[type[Exception], ...] = ()
) -> int:
    """Parse ``argv`` and run its command.

    Args:
        parser: whose commands come from :func:`adder`.
        argv: words, or None for the process's own.
        also: further exceptions that the user, and no bug of ours, causes.

    Returns:
        the exit code: the command's own, 1 after an error, told in one line, 130 after an interrupt.
    """
    words = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(words)
    arguments.line = shlex.join([parser.prog, *words])  # for the record
    try:
        return int(arguments.run(arguments))
    except (*ERRORS, *also) as error:
        print(f"{parser.prog} {arguments.command}: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {arguments.command}: interrupted", file=sys.stderr)
        return 130


def choose_device(name: str) -> str:
    """Resolve "auto", and refuse a device that is not there in one line."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name}: not available here ({one_line(error)})") from None
    return name
