"""Wrap paragraphs of the documents that are wider than 110 characters; all others stay as they are.

    python bench/wrap_docs.py docs/*.md README.md CONTRIBUTING.md CHANGELOG.md

Code, tables, headings and lines with an URL are left alone.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

WIDEST, WIDTH = 110, 104
_ITEM = re.compile(r"^(\s*)([-*]|\d+\.)\s+")


def wrapped(text: str) -> str:
    """The document with its wide paragraphs wrapped."""
    out: list[str] = []
    block: list[str] = []
    code = False

    def flush() -> None:
        if any(len(line) > WIDEST for line in block):
            item = _ITEM.match(block[0])
            first = item.group(0) if item else re.match(r"\s*", block[0]).group(0)  # type: ignore[union-attr]
            words = " ".join(line.strip() for line in block)[len(first.strip()) :].strip()
            lines = textwrap.wrap(
                words,
                WIDTH,
                initial_indent=first,
                subsequent_indent=" " * len(first),
                break_long_words=False,
                break_on_hyphens=False,
            )
            # A number with a full stop, or a dash, at a line's start would become a list.
            if any(_ITEM.match(line) for line in lines[1:]):
                lines = block[:]
            out.extend(lines)
        else:
            out.extend(block)
        block.clear()

    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        if fence or code or not line.strip() or line.startswith(("|", "#", ">", "<", "    ")):
            flush()
            out.append(line)
            code ^= fence
            continue
        if "://" in line or line.lstrip().startswith("$$"):
            flush()
            out.append(line)
            continue
        if _ITEM.match(line):
            flush()
        block.append(line)
    flush()
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(wrapped(path.read_text()))
