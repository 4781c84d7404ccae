"""The nearest valid name, for messages."""

from __future__ import annotations

import difflib


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?`, or all names known where none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
