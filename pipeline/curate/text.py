"""Normal forms of problem texts: what is stored, what counts as equal, what counts as a word."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2028\u2029\u2060\ufeff]")
_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_GAPS = re.compile(r"\n{3,}")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~")
_LATEX_SIZE = re.compile(r"\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![a-zA-Z])")
_LATEX_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_LATEX_MATH = re.compile(r"\\[()\[\]]|\$")
_LATEX_SINGLE = re.compile(r"\{(\w)\}")
_CLAUSE = re.compile(r"[,;:](?=\s+[a-z]{2})")
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_FUNCTION = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|sum|prod|int|lim|binom|max|min|gcd|lcm)(?![a-zA-Z])"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def normalise(text: str) -> str:
    """The stored form: NFC, LF line ends, no invisible characters, no trailing blanks."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    return _GAPS.sub("\n\n", _TRAILING.sub("", text)).strip()


def exact_key(text: str) -> bytes:
    """A digest that two texts share when they differ only in case, blanks, LaTeX spacing and
    sizing, math delimiters, braces around one character, commas before a word, or a final stop.
    Operators and numbers always count: `z^4-z^2+1` is not `z^4+z^2+1`."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _LATEX_SIZE.sub("", _LATEX_SPACE.sub("", text))
    text = _LATEX_MATH.sub("", _LATEX_FRACTION.sub(r"\\frac", text))
    text = _CLAUSE.sub("", _LATEX_SINGLE.sub(r"\1", text))
    text = "".join(text.split()).rstrip(".?!:")
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def words(text: str) -> list[str]:
    """Words, functions and numbers in order, without case, markup and drawings."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _FUNCTION.sub(r" \1 ", without_drawings(text))
    return _WORD.findall(_COMMAND.sub(" ", text))


def without_drawings(text: str) -> str:
    """A problem without its Asymptote code."""
    return _DRAWING.sub(" ", text)


def numbers(text: str) -> tuple[str, ...]:
    """All numbers of a text, sorted: problems that differ here are different problems."""
    return tuple(sorted(_NUMBER.findall(text)))


def content_id(problem: str) -> str:
    """The id of a problem whose source has no row ids: 16 hex digits of its `exact_key`."""
    return exact_key(problem)[:8].hex()


def unicode_fault(text: str) -> str | None:
    """Why a text cannot be stored and tokenised, or None."""
    if "\x00" in text:
        return "null byte"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "lone surrogate (not valid Unicode)"
    return None
