"""Rule `plain-number`: two plain numbers need no computer algebra and no worker."""

from __future__ import annotations

import re

from hapo_core.verify.verdict import Verdict

NAME = "plain-number"
_PLAIN = re.compile(r"([+-]?)((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+))(\.[0-9]+)?")


def plain_number(text: str) -> str | None:
    """The canonical form of a plain integer or decimal (`1,200.50` -> `1200.5`), else None."""
    match = _PLAIN.fullmatch(text.strip().strip("$").strip())
    if not match:
        return None
    sign, whole, fraction = match.groups()
    whole = whole.replace(",", "").lstrip("0") or "0"
    fraction = (fraction or "").rstrip("0").rstrip(".")
    number = whole + fraction
    return f"-{number}" if sign == "-" and number != "0" else number


def decide(gold: str, answer: str) -> Verdict | None:
    """CORRECT for equal numbers, WRONG for two different integers, None where the rule is mute.

    Two different decimals are left to the grader, which knows how far rounding is forgiven.
    """
    left, right = plain_number(gold), plain_number(answer)
    if left is None or right is None:
        return None
    if left == right:
        return Verdict.CORRECT
    return None if "." in left or "." in right else Verdict.WRONG
