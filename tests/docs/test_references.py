"""Documents and files that the repository refers to are there."""

from __future__ import annotations

import re

import pytest
from conftest import REPO

ROOMS = ("README.md", "CONTRIBUTING.md", "docs", "hapo_core", "pipeline", "hapo_trl", "tests")
TEXTS = [
    p
    for room in ROOMS
    for p in ([REPO / room] if (REPO / room).is_file() else sorted((REPO / room).rglob("*")))
    if p.suffix in (".md", ".py")
]


def test_every_document_that_is_named_is_there() -> None:
    named = {
        (str(p.relative_to(REPO)), name)
        for p in TEXTS
        for name in re.findall(r"\bdocs/[\w-]+\.md\b", p.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert [pair for pair in sorted(named) if not (REPO / pair[1]).is_file()] == []


def test_every_section_of_the_contract_that_is_named_is_there() -> None:
    """ "METHOD 3.1" means section 3.1 of docs/method.md."""
    contract = (REPO / "docs" / "method.md").read_text(encoding="utf-8")
    there = set(re.findall(r"^#+ (\d+(?:\.\d+)?)", contract, re.MULTILINE))
    named = {
        (str(p.relative_to(REPO)), number)
        for p in TEXTS
        for number in re.findall(r"\bMETHOD (\d+(?:\.\d+)?)", p.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert [pair for pair in sorted(named) if pair[1] not in there] == []


@pytest.mark.parametrize("page", ["glossary.md"])
def test_every_file_that_the_page_names_is_there(page: str) -> None:
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    places = re.findall(r"`((?:hapo_core|pipeline)/[\w/.]*)`", text)
    assert len(places) > 15
    assert [place for place in places if not (REPO / place).exists()] == []
