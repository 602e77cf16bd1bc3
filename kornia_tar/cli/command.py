"""What ``kornia-tar`` and ``tar-hloc`` share: subcommands with an example, errors in one line, the device.

``python -m eval`` shares how words that are not understood are told.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from kornia_tar.files import one_line
from kornia_tar.matching.device import choose_device as choose_device  # for tar-hloc, too

Step = Callable[[str], None]  # says what goes on now
Run = Callable[[argparse.Namespace], int]
AddCommand = Callable[[str, Run, str, str], argparse.ArgumentParser]  # what adder returns
ERRORS: tuple[type[Exception], ...] = (ValueError, TypeError, ImportError, OSError, MemoryError, RuntimeError)

BAD_INPUT = 1  # exit code, of words as of files


class Parser(argparse.ArgumentParser):
    """Tells in one line what is wrong with its words, and which option may have been meant; so do its subcommands'."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words as argparse does, but leave none over: a subcommand refuses those of its own."""
        self._words = [*(sys.argv[1:] if args is None else args)]
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """End with :data:`BAD_INPUT`, and say why."""
        unknown = self._unknown()
        if unknown and not message.startswith("unrecognized"):  # argparse misses the required option first
            message += f"; unrecognized arguments: {' '.join(unknown)}"
        known = self._option_string_actions
        meant = dict.fromkeys(close for name in unknown for close in get_close_matches(name, known, 1))
        hint = f" (did you mean {', '.join(meant)}?)" if meant else ""
        self.exit(BAD_INPUT, f"{self.prog}: {' '.join(message.split())}{hint}; see {self.prog} --help\n")

    def _unknown(self) -> list[str]:
        """The options among the words that there are not; behind a subcommand they are that one's."""
        words = itertools.takewhile(lambda word: word != "--", self._words)
        if self._subparsers is not None:
            words = itertools.takewhile(lambda word: word.startswith("-"), words)
        names = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        return [name for name in names if not any(self._may_be(name, known) for known in self._option_string_actions)]

    @staticmethod
    def _may_be(name: str, known: str) -> bool:
        """Whether argparse takes a word for an option: for its beginning, or for a letter and its value."""
        return known.startswith(name) or (name[1] != "-" and name[:2] == known)


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

    Raises:
        SystemExit: ``argv`` is not understood, or asks for help.
    """
    words = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(words)
    arguments.line = shlex.join([parser.prog, *words])  # for the record
    try:
        return int(arguments.run(arguments))
    except (*ERRORS, *also) as error:
        print(f"{parser.prog} {arguments.command}: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
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
