"""The curation account as tables: its rules in order, everything else by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.show.table import Table
from pipeline.show.text import NOTHING, number

MAX_ROWS = 60
LONG = 6  # items of a list that are spelled out
ELSEWHERE = "in artifacts/data/curation.json"


def curation_tables(account: Mapping[str, Any]) -> list[Table]:
    """The rules with their rows in and out first; then results, sources, benchmarks, traces."""
    tables = []
    rules = account.get("rules")
    if isinstance(rules, list) and rules and all(isinstance(r, Mapping) for r in rules):
        tables.append(_rules(rules))
    for section in sorted(set(account) - {"rules"}, key=lambda name: (name != "result", name)):
        facts = _flatten(account[section], "")
        if facts:
            tables.append(_facts(section, facts))
    return tables


def _rules(rules: list[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            str(rule.get("rule", NOTHING)),
            str(rule.get("unit", NOTHING)),
            _reasons(rule.get("taken")),
            _reasons(rule.get("noted")),
            _cell(rule.get("rows_in")),
            _cell(rule.get("rows_out")),
        )
        for rule in rules[:MAX_ROWS]
    )
    headers = ("rule", "unit", "taken out", "noted, kept", "in", "out")
    note = f"In the order in which they ran; examples of every reason are {ELSEWHERE}."
    return Table(headers, rows, title="rules", note=note, text_columns=4)


def _reasons(counts: object) -> str:
    if not isinstance(counts, Mapping) or not counts:
        return NOTHING
    return "; ".join(f"{why}: {_cell(n)}" for why, n in counts.items())


def _facts(section: str, facts: list[tuple[str, str]]) -> Table:
    rows = tuple(facts[:MAX_ROWS])
    cut = len(facts) - len(rows)
    note = f"{cut} more lines {ELSEWHERE}." if cut else ""
    return Table(("", ""), rows, title=section.replace("_", " "), note=note)


def _flatten(value: Any, path: str) -> list[tuple[str, str]]:
    """Leaves as (path in words, text). Lists of records are only counted."""
    if isinstance(value, Mapping):
        return [
            leaf
            for key, inner in value.items()
            for leaf in _flatten(inner, f"{path} › {key}" if path else str(key))
        ]
    return [(path.replace("_", " ") or "count", _cell(value))]


def _cell(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, list):
        if len(value) > LONG or any(isinstance(v, Mapping | list) for v in value):
            return f"{len(value):,} {ELSEWHERE}" if value else "none"
        return ", ".join(_cell(v) for v in value) or "none"
    return str(value)
