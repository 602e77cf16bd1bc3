"""The documentation names what exists: files, sections, commands, options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval import cli as eval_cli
from hloc_plugin.cli import build_parser as hloc_parser
from kornia_tar.cli.main import build_parser as tar_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "kornia_tar/weights/MODEL_CARD.md", ROOT / "kornia_tar/weights/RECIPE.md",
]  # fmt: skip
PARSERS = {"kornia-tar": tar_parser(), "tar-hloc": hloc_parser(), "python -m eval": eval_cli._parser()}
COMMAND = re.compile(r"(?<![\w./-])(kornia-tar|tar-hloc|python -m eval) ([a-z][^\n]*|--\w[^\n]*)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its fenced code."""
    return re.sub(r"^\s*```.*?^\s*```", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The sections of a page, as GitHub calls them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def code(page: Path) -> list[str]:
    """All pieces of code of a page, one logical line each."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^\s*```\w*\n(.*?)^\s*```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + [" ".join(piece.split()) for piece in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands that a page names: program, and the words after it up to a comment or another command."""
    found = []
    for line in code(page):
        for part in re.split(r"\s#|&&|\||;", line):
            found += [(program, rest.split()) for program, rest in COMMAND.findall(part)]
    return found


def wrong(program: str, words: list[str]) -> str:
    """What is wrong with a command, in words; empty where nothing is."""
    parser = PARSERS[program]
    while subparsers := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]:
        if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            break  # a placeholder such as NAME, or --help
        if words[0] not in subparsers[0].choices:
            return f"{words[0]!r} is none of {', '.join(subparsers[0].choices)}"
        parser, words = subparsers[0].choices[words[0]], words[1:]
    options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    unknown = options - set(parser._option_string_actions)
    return f"{parser.prog} has no {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, section = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: {target} does not exist"
        if section:
            assert section in anchors(file), f"{name(page)}: {target} names no section; there are {anchors(file)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    faults = [
        f"{program} {' '.join(words)}: {fault}" for program, words in commands(page) if (fault := wrong(program, words))
    ]
    assert not faults, "\n".join(faults)


def test_the_check_itself_sees_commands_and_what_is_wrong_with_them():
    assert len({program for page in PAGES for program, _ in commands(page)}) == 3
    assert "none of" in wrong("kornia-tar", ["registre", "a.png"])
    assert "none of" in wrong("python -m eval", ["study", "swap"])
    assert "has no --rungs" in wrong("python -m eval", ["run", "--rungs", "tar"])
    assert not wrong("python -m eval", ["study", "text-ablation", "--data", "DATA", "--limit", "48"])


SELF_EVIDENT = {"--help", "--version"}  # which every program has, and --help says so


def subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from subcommands(sub)


def unnamed(parser: argparse.ArgumentParser, pages: list[str]) -> list[str]:
    """The options of one command that no page names which names the command, too."""
    program, _, command = parser.prog.partition(" ")
    about = [page for page in pages if re.search(rf"`({program} )?{command}[` ]|^{program} {command} ", page, re.M)]
    named = {option for page in about for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", page)}
    options = [set(action.option_strings) for action in parser._actions if action.option_strings]
    return [f"{parser.prog} {max(words, key=len)}" for words in options if not words & (named | SELF_EVIDENT)]


def test_every_option_of_every_command_is_named_in_readme_or_docs():
    pages = [page.read_text("utf-8") for page in PAGES if page.name == "README.md" or page.parent.name == "docs"]
    parsers = [sub for program in ("kornia-tar", "tar-hloc") for sub in subcommands(PARSERS[program])]
    assert len(parsers) > 12
    assert [option for parser in parsers for option in unnamed(parser, pages)] == []
    (match,) = (parser for parser in parsers if parser.prog == "kornia-tar match")
    assert "kornia-tar match --turns" in unnamed(match, ["`match` has `--turns-more`", "`--turns` of another"])


def test_readme_is_short_and_its_two_commands_are_what_ci_runs():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 200
    told = [
        re.sub(r"\s+#.*", "", line)
        for line in re.search(r"## Two commands.*?```bash\n(.*?)```", readme, re.S)[1].splitlines()
    ]
    run = [line for line in (ROOT / ".ci/run").read_text("utf-8").splitlines() if line.startswith("pip install")]
    assert told == run
    assert len(run) == 2


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def test_the_results_in_readme_are_those_of_the_tables():
    """Column by column; the Registrar's row stands there three times."""
    readme = (ROOT / "README.md").read_text("utf-8")
    head, _, *rows = (
        cells(line) for line in re.search(r"^\| SR@5 / SR@10.*?\n\n", readme, re.M | re.S)[0].splitlines()
    )
    rows = [row for row in rows if len(row) > 1]
    names = {"TAR, one forward": "TAR", **{row[0]: "TAR + Registrar" for row in rows if "Registrar" in row[0]}}
    files = [re.sub(r"^val-000 `(\w+)`$", r"val-000.\1", name) for name in head[1:]]
    for column, file in enumerate(files, 1):
        path = ROOT / "eval/results" / f"{file if file.startswith('val') else f'{file}.real'}.md"
        titles, _, *lines = (line for line in path.read_text("utf-8").splitlines() if line.startswith("|"))
        table = {line[0]: dict(zip(cells(titles), line, strict=True)) for line in map(cells, lines)}
        for row in rows:
            found = table[names.get(row[0], row[0])]
            more = " acc." if row[0].endswith("accepted") else ""
            told = found["wrong acc."] if "wrong" in row[0] else f"{found[f'SR@5{more}']} / {found[f'SR@10{more}']}"
            assert row[column] == told, f"README, {row[0]}, {head[column]}: {path.name} says {told}"
    assert len(rows) > 15 and len(files) == 8


def test_every_page_of_docs_is_in_its_index():
    index = (ROOT / "docs/README.md").read_text("utf-8")
    assert [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and f"({page.name})" not in index
    ] == []


def test_every_result_is_in_the_index_of_results():
    index = (ROOT / "docs/results.md").read_text("utf-8")
    tables = [path.name for path in (ROOT / "eval/results").iterdir() if path.suffix in (".md", ".png")]
    kept = [table for table in tables if not table.startswith(("report", "failures.png"))]
    assert [table for table in kept if f"eval/results/{table})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_placeholder_is_left(page):
    assert not re.search(r"\bTABLE:[A-Z]+", page.read_text("utf-8"))
