"""What the documents say about files and keys is so; their lines can be read in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPO

from pipeline.config import reference

PAGES = [*sorted((REPO / "docs").glob("*.md")), REPO / "README.md", REPO / "CONTRIBUTING.md"]
EXAMPLES = {"hapo_core/methods/half.py"}
"""Files that a guide tells its reader to write."""
LINE = 110
NAMED = re.compile(
    r"(?<![\w/.~-])((?:hapo_core|hapo_trl|pipeline|tests|bench|docs|params)/[\w./*-]*\w[/]?)"
)


def test_the_reference_of_keys_is_fresh() -> None:
    """`make reference` makes it anew."""
    assert (REPO / "docs" / "configuration.md").read_text() == reference.reference()


def test_the_reference_holds_every_key_of_a_section_with_its_meaning() -> None:
    text = reference.reference()
    assert "## `gate`: Gate" in text and "delta of the prompt posterior" in text
    assert "- `prior_successes`: float; > 0; default `1.0`." in text
    assert "## `evaluate.benchmarks.NAME`" in text


def _long_lines(path: Path) -> list[str]:
    """Lines over LINE characters. Table rows, code and lines that an URL makes long may be."""
    found, code = [], False
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        code ^= line.lstrip().startswith("```")
        if len(line) > LINE and not (code or line.startswith("|") or "://" in line):
            found.append(f"{path.name}:{number}: {len(line)}")
    return found


@pytest.mark.parametrize("page", [*PAGES, REPO / "CHANGELOG.md"], ids=lambda p: p.name)
def test_lines_fit_a_terminal(page: Path) -> None:
    """`python bench/wrap_docs.py PAGE` wraps paragraphs that are too wide."""
    assert not _long_lines(page)


def test_the_first_page_is_short() -> None:
    """Who wants to know more follows its links."""
    assert len((REPO / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing = []
    for name in NAMED.findall(page.read_text()):
        plain = name.rstrip("/.")
        if "NAME" in name or "..." in name or name in EXAMPLES:
            continue
        if not any(REPO.glob(plain)):
            missing.append(name)
    assert not missing


def test_the_map_names_every_room() -> None:
    """docs/architecture.md, "Rooms": each folder of both packages, and no other."""
    text = (REPO / "docs/architecture.md").read_text()
    rooms = text[text.index("## Rooms") : text.index("## Stages and artifacts")]
    there = {
        p.parent.name for k in ("hapo_core", "pipeline") for p in REPO.glob(f"{k}/*/__init__.py")
    }
    missing = {room for room in there if f"`{room}/`" not in rooms}
    assert not missing


def test_no_file_is_over_400_lines() -> None:
    """CONTRIBUTING.md: what grows longer is two things."""
    rooms = ("hapo_core", "pipeline", "hapo_trl", "tests", "bench")
    files = [p for room in rooms for p in (REPO / room).rglob("*.py")]
    long = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert len(files) > 400 and [f"{p}: {n}" for p, n in long.items() if n > 400] == []
