"""The account of a curation: what every rule took, why, with examples; nothing leaves unlisted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

EXAMPLES = 3
EXCERPT = 160


def excerpt(text: str, width: int = EXCERPT) -> str:
    """The start of a text on one line, printable and valid Unicode."""
    line = " ".join(text[: width * 2].split())
    line = line.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")
    return line if len(line) <= width and len(text) <= width * 2 else line[:width] + "…"


@dataclass
class Rule:
    """One rule's count.

    Args:
        name: the rule.
        unit: what a row is: `rows`, `problems` or `traces`.
    """

    name: str
    unit: str
    rows_in: int = 0
    out: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def take(self, reason: str, row: str, detail: str) -> None:
        """Count a row that the rule removes (or, for traces, sets aside)."""
        self.out[reason] += 1
        self._example(reason, row, detail)

    def mend(self, reason: str, row: str, detail: str) -> None:
        """Count a row that stays, changed or remarked on."""
        self.mended[reason] += 1
        self._example(reason, row, detail)

    def _example(self, reason: str, row: str, detail: str) -> None:
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES:
            kept.append({"row": row, "detail": excerpt(detail)})

    def as_json(self) -> dict[str, object]:
        """Canonical JSON: counts in and out, reasons, notes, examples."""
        taken = sum(self.out.values())
        return {
            "rule": self.name,
            "unit": self.unit,
            "rows_in": self.rows_in,
            "rows_out": self.rows_in - taken,
            "taken": dict(sorted(self.out.items())),
            "noted": dict(sorted(self.mended.items())),
            "examples": dict(sorted(self.examples.items())),
        }


@dataclass(frozen=True, slots=True)
class Drop:
    """A problem that left, for `dropped.parquet`."""

    problem_id: str
    source: str
    row: int
    rule: str
    reason: str
    detail: str
    problem: str


class Account:
    """All rules in the order in which they ran, and every dropped problem."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.drops: list[Drop] = []
        self.contamination: list[dict[str, object]] = []

    def rule(self, name: str, unit: str, rows_in: int) -> Rule:
        """Open the count of the next rule."""
        rule = Rule(name, unit, rows_in)
        self.rules.append(rule)
        return rule

    def drop(self, rule: Rule, drop: Drop) -> None:
        """Count a dropped problem and list it."""
        rule.take(drop.reason, drop.problem_id, drop.detail or drop.problem)
        self.drops.append(drop)

    def table(self) -> list[dict[str, object]]:
        """One flat row for every rule and reason, for an artifact or a report."""
        return [
            {
                "rule": r.name,
                "unit": r.unit,
                "in": r.rows_in,
                "out": r.rows_in - sum(r.out.values()),
                "why": "; ".join(f"{why}: {n}" for why, n in _ordered(r)),
            }
            for r in self.rules
        ]


def _ordered(rule: Rule) -> Iterable[tuple[str, int]]:
    return sorted([*rule.out.items(), *rule.mended.items()], key=lambda item: (-item[1], item[0]))
