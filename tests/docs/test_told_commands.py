"""Every command that an error, a page or a document tells somebody to type is one that exists."""

from __future__ import annotations

import argparse
import ast
import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO

from hapo_core.errors import DataError
from pipeline import cli
from pipeline.artifacts import read_json
from pipeline.artifacts.tables import ROUNDS, read_table

COMMAND = re.compile(r"`((?:hapo|dvc|make) [^`]+)`")
_LINE = re.compile(r"(?:\w+=\S+ )*(?:hapo|dvc|make) [\w.-]")
_OPEN = re.compile(r"[|\[\]…]|\.\.\.")
"""In forms of a command (`hapo server start|stop`), which nobody types as they stand."""


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
        )
    return None


def _pages() -> list[Path]:
    return [*sorted((REPO / "docs").glob("*.md")), REPO / "README.md"]


def _told() -> Iterator[tuple[str, str]]:
    """(command, where it stands), of all texts of the code and of all documents."""
    for package in ("hapo_core", "pipeline"):
        for path in sorted((REPO / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            joined = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
            inner = {id(part) for node in joined for part in node.values}
            for node in ast.walk(tree):
                text = None if id(node) in inner else _text(node)
                for command in COMMAND.findall(text or ""):
                    yield from _each(command, path)
    for path in _pages():
        text = path.read_text()
        for command in [*COMMAND.findall(text), *_in_blocks(text)]:
            yield from _each(command, path)


def _in_blocks(text: str) -> Iterator[str]:
    """Commands of fenced and indented blocks, without prompt, comment, pipe and second column."""
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        words = line.strip().removeprefix("$ ")
        if (fenced or line.startswith("    ")) and _LINE.match(words):
            yield re.split(r"\s+#|\s+[|>]\s|\s{2,}", words)[0]


def _each(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for command in text.split("&&"):
        yield re.sub(r"^(\w+=\S+ )+", "", " ".join(command.split())), str(path.relative_to(REPO))


TOLD = sorted({(c, w) for c, w in _told() if not _OPEN.search(c)})


def _parser(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The innermost parser of a command, and the words that are left for it."""
    parser, left = cli.build_parser(), list(words)
    while left:
        subs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not subs or left[0] not in subs[0].choices:
            break
        parser = subs[0].choices[left.pop(0)]
    return parser, left


def _fault(command: str) -> str | None:
    """What is wrong with a command, or None."""
    try:
        name, *words = shlex.split(command.replace("KEY=VALUE", "seed=1"))
    except ValueError:
        return "it cannot be split into words"
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        return None if words[0] in targets else "no such target"
    if name == "dvc":
        return _dvc_fault(words)
    parser, left = _parser(words)
    if words and parser.prog == cli.build_parser().prog and not words[0].startswith("-"):
        return f"no command {words[0]!r}"
    options = {o: a for a in parser._actions for o in a.option_strings}
    for word in left:
        if word == "--x":  # of a value that is known when it is told
            continue
        option = word.split("=")[0]
        if option.startswith("-") and not re.fullmatch(r"-\d+", option) and option not in options:
            return f"no option {option}"
    needed = [a for a in parser._actions if not a.option_strings and a.nargs is None]
    plain = [w for w in left if not w.startswith("-")]
    if left and len(plain) < len(needed):
        return f"it needs {needed[len(plain)].dest}"
    return None


def _dvc_fault(words: list[str]) -> str | None:
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    if words[-1] == "-S" or "modify" in words:
        return None  # named, not told
    logging.disable()  # DVC may log to a stream that an earlier test of this process has closed
    try:
        get_main_parser().parse_args(words)
    except (DvcParserError, SystemExit):
        return "dvc does not take it"
    finally:
        logging.disable(logging.NOTSET)
    return None


def test_there_are_many() -> None:
    assert len(TOLD) > 150


@pytest.mark.parametrize("name", ["hapo", "dvc", "make"])
def test_each_exists(name: str) -> None:
    told = [(c, w) for c, w in TOLD if c.startswith(name + " ")]
    wrong = [f"{c} ({w}): {fault}" for c, w in told if (fault := _fault(c)) is not None]
    assert told and not wrong, "\n".join(wrong)


def test_a_line_that_stands_by_itself_is_taken_as_it_stands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a block a command is there to be typed: kinds, choices and all that it needs."""
    lines = [(line, page) for page in _pages() for line in _in_blocks(page.read_text())]
    told = sorted({pair for line, page in lines for pair in _each(line, page)})
    hapo = [(c, w) for c, w in told if c.startswith("hapo ") and not _OPEN.search(c)]
    wrong = []
    for command, page in hapo:
        try:
            cli.build_parser().parse_args(shlex.split(command)[1:])
        except SystemExit as end:
            if end.code:
                wrong.append(f"{command} ({page}): {capsys.readouterr().err.splitlines()[-1]}")
    assert len(hapo) > 40 and not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "command",
    [
        "hapo rnu",
        "hapo run --no-sever",
        "dvc reproo",
        "make nothing",
        "hapo pair A",
    ],
)
def test_a_wrong_one_is_seen(command: str) -> None:
    assert _fault(command) is not None


@pytest.mark.parametrize(
    "folder", [".hapo/scratch/train@1-0123", "evaluations/.m.unfinished/evaluate-0123"]
)
def test_damage_in_unfinished_work(folder: str, tmp_path: Path) -> None:
    """DVC knows nothing of it: the remedy is to delete it, and names the folder."""
    path = tmp_path / folder / "out" / "rounds.parquet"
    path.parent.mkdir(parents=True)
    for read in (lambda: read_table(path, ROUNDS), lambda: read_json(path)):
        for content in (None, b"torn"):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(DataError) as caught:
                read()
            assert f"delete {tmp_path / folder} and run the same command" in str(caught.value)
