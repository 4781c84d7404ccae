"""The nearest valid name, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or nothing where no name is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or all names known where none is near."""
    return did_you_mean(name, known) or (f"; known: {', '.join(sorted(known))}" if known else "")
