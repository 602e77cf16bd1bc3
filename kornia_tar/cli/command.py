"""What ``kornia-tar`` and ``tar-hloc`` share: subcommands with an example, errors in one line, the device."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence

from kornia_tar.files import one_line
from kornia_tar.matching.device import choose_device as choose_device  # for tar-hloc, too

Step = Callable[[str], None]  # says what goes on now
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


def steps(total: int, shown: bool) -> Step:
    """A function that says on stderr which of ``total`` steps begins, as ``[2/4] reading``; silent unless shown."""
    count = itertools.count(1)

    def step(text: str) -> None:
        if shown:
            print(f"[{next(count)}/{total}] {text}", file=sys.stderr, flush=True)

    return step
