"""Any terminal can show what we print, also one that has no letters beyond ASCII."""

from __future__ import annotations

import codecs
import sys

_PLAIN = {
    "–": "-",
    "−": "-",
    "→": "->",
    "›": ">",
    "×": "x",
    "·": "-",
    "…": "...",
    "Δ": "delta ",
    "↑": "up",
    "↓": "down",
}
_NAME = "hapo.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the terminal lacks: our own signs in ASCII, others (of a
    user's text, lone surrogates of a model's) as Python writes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(escaped), error.end


def any_terminal() -> None:
    """Let stdout and stderr replace what their encoding lacks, instead of failing in the middle of
    a run; in UTF-8 that is lone surrogates only."""
    codecs.register_error(_NAME, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's or a notebook's own stream may lack it
            stream.reconfigure(errors=_NAME)
