"""The site (mkdocs.yml, `make site`): it names every page, and every link leads somewhere. Asked
without mkdocs, which is no part of the test environment."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import REPO
from ruamel.yaml import YAML

sys.path.insert(0, str(REPO / "bench"))
from site_links import linked

DOCS = REPO / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), REPO / "README.md", REPO / "CONTRIBUTING.md"]
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`|^(?: {4}|\t).*$", re.S | re.M)


def named(entry: object) -> list[str]:
    """The files of a part of `nav`."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    assert isinstance(parts, list | type({}.values()))
    return [name for part in parts for name in named(part)]


def anchors(text: str) -> set[str]:
    """The ids that headings get: small letters, blanks as dashes, nothing else but letters."""
    heads = re.findall(r"^#+ (.+)$", _CODE.sub("", text), re.M)
    plain = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere; those to other hosts are not asked."""
    found = []
    for match in _LINK.finditer(_CODE.sub("", page.read_text())):
        link = match[1] or match[2]
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        lost = not target.exists()
        if not lost and anchor and target.suffix == ".md":
            lost = anchor not in anchors(target.read_text())
        if lost:
            found.append(link)
    return found


def test_the_site_names_every_page_once() -> None:
    config = YAML(typ="safe").load(REPO / "mkdocs.yml")
    pages = named(config["nav"])
    assert sorted(pages) == sorted(p.name for p in DOCS.glob("*.md"))
    parts = [next(iter(part)) for part in config["nav"]]
    assert parts == ["Home", "Start", "Use", "Understand", "Reference", "Results"]
    assert config["strict"] and all((REPO / hook).is_file() for hook in config["hooks"])
    home = (DOCS / "index.md").read_text()
    assert all(f"]({name})" in home for name in pages if name != "index.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# A head, here\n[a](b.md) [b](#a-head-here) [c](#nowhere) `[d](e.md)`\n")
    assert broken(page) == ["b.md", "#nowhere"]


def test_pages_named_in_text_become_links() -> None:
    text = "See docs/data.md, `docs/data.md`, [it](docs/data.md), docs/n.o.md (docs/data.md).\n"
    made = linked(text, {"data.md"})
    assert made == (
        "See [data](data.md), `docs/data.md`, [it](docs/data.md), docs/n.o.md ([data](data.md)).\n"
    )
