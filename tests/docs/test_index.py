"""The index of docs/architecture.md, "Where is what": every file, name and section is there."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import REPO

from pipeline.flows.flow import STAGES

PAGE = REPO / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
INDEX = TEXT[TEXT.index("## Where is what") : TEXT.index("## Rooms")]
TABLES = [t.splitlines()[2:] for t in re.findall(r"(?:^\|.*\n)+", INDEX, re.MULTILINE)]
ROWS = [row for table in TABLES for row in table]
PLACE = re.compile(r"(?<![\w/])(?:hapo_core|pipeline|docs|tests)/[\w./]*\w|dvc\.yaml")


def defined(path: str) -> set[str]:
    """Names that a module defines: functions, classes, constants, and `Class.method`."""
    found: set[str] = set()
    if not path.endswith(".py"):
        return found
    for node in ast.parse((REPO / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            inside = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            found |= {name for n in inside for name in (n.name, f"{node.name}.{n.name}")}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id for t in targets if isinstance(t, ast.Name)}
    return found


def files_of(row: str) -> list[str]:
    return PLACE.findall(row)


def names_of(row: str) -> list[str]:
    """What stands in backticks and is the name of something in a module."""
    words = re.findall(r"`([^`]+)`", row)
    return [w for w in words if re.fullmatch(r"\w+(\.\w+)?", w) and not PLACE.fullmatch(w)]


def sections(row: str) -> list[str]:
    return re.findall(r'"([^"]+)"', row)


def missing(row: str) -> list[str]:
    """What a row names and nobody finds."""
    files = files_of(row)
    gone = [f for f in files if not (REPO / f).exists()]
    here = set().union(*(defined(f) for f in files if f not in gone))
    texts = [(REPO / f).read_text("utf-8") for f in files if f.endswith(".md")]
    heads = {h for t in (*texts, TEXT) for h in re.findall(r"^#+ (.+)$", t, re.MULTILINE)}
    gone += [n for n in names_of(row) if n not in here | OF_OTHERS]
    return gone + [s for s in sections(row) if s not in heads]


OF_OTHERS = {"hapo", "admits", "TrainRow", "batch_loss"}
"""The flow, a name of every method's file, and two whose files the second table has."""


def test_the_ten_questions_are_there() -> None:
    assert [len(table) for table in TABLES[:1]] == [10] and len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.split("|")[1].strip()[:40])
def test_what_a_row_names_is_there(row: str) -> None:
    assert files_of(row) or "this page" in row
    assert missing(row) == []


@pytest.mark.parametrize("row", TABLES[0], ids=lambda r: r.split("|")[1].strip()[:40])
def test_a_question_needs_at_most_three_files(row: str) -> None:
    """README.md names this page, this page names one file to open."""
    assert "docs/architecture.md" in (REPO / "README.md").read_text(encoding="utf-8")
    to_open = row.split("|")[2]
    assert len(files_of(to_open)) == 1 or to_open.strip().startswith("this page")


def test_the_tree_of_the_flow_is_the_declared_one() -> None:
    """docs/architecture.md, "Prefect observes": every stage's task runs, below its name."""
    part = TEXT[TEXT.index("## Prefect observes") : TEXT.index("A stage that DVC skips")]
    branches = re.split(r"^ +[|`]-- ", part, flags=re.MULTILINE)[1:]
    said: dict[str, str] = {}
    for branch in branches:
        stage = re.split(r"[@\s]", branch)[0]
        said[stage] = said.get(stage, "") + " ".join(branch.replace("|", " ").split())
    assert list(said) == [stage.name for stage in STAGES]
    for flow in STAGES:
        words = [task.rstrip("* ") for task in flow.tasks]
        assert [w for w in words if w not in said[flow.name]] == [], flow.name


def test_the_line_that_is_quoted_is_where_it_is_said() -> None:
    source = (REPO / "hapo_core" / "injection.py").read_text(encoding="utf-8")
    body = ast.get_source_segment(
        source, next(n for n in ast.parse(source).body if getattr(n, "name", "") == "inject")
    )
    assert body is not None and body.splitlines()[-2].strip().startswith(
        "rows[replaced] = teacher_row("
    )


@pytest.mark.parametrize(
    "row",
    [
        "| a | `hapo_core/gates.py` | `Reading.open` |",
        "| a | `hapo_core/gate.py` | `Reading.closed` |",
        '| a | docs/methods.md, "Add a thing" | a |',
    ],
)
def test_what_is_gone_is_seen(row: str) -> None:
    assert missing(row)
