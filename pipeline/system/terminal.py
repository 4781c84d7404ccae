"""Any terminal can show what we print, also one that has no letters beyond ASCII."""

from __future__ import annotations

import codecs
import re
import sys
from typing import TextIO

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
_GUARDED = "hapo_guarded"
_CONTROL = re.compile(
    "(\x1b\\[(?:0|31)m|\r\x1b\\[K|\r\n)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
"""What steers a terminal, and in the group what we print of it ourselves: red, and the line that is
written anew. A row of somebody's file, or a response of a model, holds the rest."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the terminal lacks: our own signs in ASCII, others (of a
    user's text, lone surrogates of a model's) as Python writes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(escaped), error.end


def _guard(stream: TextIO) -> None:
    write = stream.write

    def guarded(text: str) -> int:
        return write(_CONTROL.sub(_spelt, text))

    stream.write = guarded  # type: ignore[method-assign]
    setattr(stream, _GUARDED, True)


def _spelt(found: re.Match[str]) -> str:
    return found[1] or found[0].encode("unicode_escape").decode()


def any_terminal() -> None:
    """Let stdout and stderr replace what their encoding lacks, instead of failing in the middle of
    a run (in UTF-8 that is lone surrogates only), and spell out what would steer a terminal."""
    codecs.register_error(_NAME, _plain)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not hasattr(stream, _GUARDED):
            _guard(stream)
        if hasattr(stream, "reconfigure"):  # a test's or a notebook's own stream may lack it
            stream.reconfigure(errors=_NAME)
