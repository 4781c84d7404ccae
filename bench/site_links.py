"""A hook of mkdocs: a page named in the text of another (docs/compare.md) is a link on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_CODE = re.compile(r"(```.*?```|`[^`\n]*`|^(?: {4}|\t).*$|\[[^\]\n]*\]\([^)\n]*\))", re.S | re.M)
_PAGE = re.compile(r"(?<![\w/.\[-])docs/([\w.-]+\.md)\b")


def linked(text: str, pages: set[str]) -> str:
    """The text with links in place of `docs/NAME.md`, outside code and links."""
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = _PAGE.sub(
            lambda m: f"[{m[1].removesuffix('.md')}]({m[1]})" if m[1] in pages else m[0], parts[i]
        )
    return "".join(parts)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs for every page."""
    return linked(markdown, {p.name for p in Path(config["docs_dir"]).glob("*.md")})
