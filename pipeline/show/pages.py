"""Pages from templates: styles, filters, Markdown tables."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.show.table import Table

TEMPLATES = Path(__file__).parents[1] / "show" / "templates"
_ELEMENT = re.compile(r"<(?=[A-Za-z/!?])")
"""What begins an element, a comment or a declaration in HTML; `< 0.05` does not."""


def markdown_table(table: Table) -> str:
    """A GitHub table."""
    width, words = len(table.headers), table.text_columns
    rule = ["---" if i < words or _worded(table, i) else "---:" for i in range(width)]
    rows = [table.headers, rule, *table.rows]
    return "\n".join("| " + " | ".join(_pipe(cell) for cell in row) + " |" for row in rows)


def fenced(text: str, language: str = "") -> Markup:
    """A block of code in Markdown, whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def page_styles() -> dict[str, Markup]:
    """The style sheets of a page, by file name."""
    return {name: Markup(style_sheet(name)) for name in ("figure.css", "page.css")}


def page_environment(autoescape: bool) -> Environment:
    """Templates of pages, strict about names."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        finalize=None if autoescape else _plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def style_sheet(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def keep_spaces(text: str) -> Markup:
    """A number stays on one line with its name, its percent sign and its interval's bounds."""
    safe = str(escape(text))
    for loose in (" %", " [", " = "):
        safe = safe.replace(loose, loose.replace(" ", "\u00a0"))
    return Markup(safe)


def _pipe(cell: str) -> str:
    return str(_plain(cell)).replace("|", "\\|").replace("\n", " ")


def _plain(value: object) -> object:
    """Text for Markdown, in which nothing begins an HTML element, a link or an image (which a
    reader's program would fetch from where a row of somebody's data says); Markup stays."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _ELEMENT.sub("&lt;", value).replace("](", "]&#40;").replace("][", "]&#91;")


def _worded(table: Table, column: int) -> bool:
    return table.last != "number" and column == len(table.headers) - 1
