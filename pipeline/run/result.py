"""The outcome of a run in a few lines, from `reports/summary.json`."""

from __future__ import annotations

import os
import sys
from typing import Any

from pipeline.artifacts.places import REPORT
from pipeline.config import Params

FELL, UNCLEAR = "fell", "not clear"
"""The report's outcome of a paired test: a fall, and a change that chance may have made."""
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def result_table(summary: dict[str, Any], *, colour: bool = False) -> str:
    """The numbers of `reports/summary.json` as text: benchmark, base, final, change, n, k.

    Args:
        colour: a benchmark on which the final policy is clearly below the start stands in red.
    """
    rows = _result_rows(summary)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line = "  ".join(cells).rstrip()
        lines.append(f"{_RED}{line}{_PLAIN}" if colour and FELL in row[3] else line)
    if alarm := summary.get("alarm"):
        said = str(alarm["sentence"])
        lines.append(f"{_RED}{said}{_PLAIN}" if colour else said)
    return "\n".join([_result_head(summary), *lines])


def may_colour() -> bool:
    """Whether the standard output is a terminal that wants colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def next_steps(params: Params) -> str:
    """What somebody may do after a run, a line each."""
    other = "hapo" if params.method == "grpo" else "grpo"
    more = f"hapo segments {len(params.segments) + 1} --rounds 20 && hapo run"
    steps = [
        ("hapo samples", "read what the policy wrote; --page makes a page of it"),
        (f"hapo compare --methods {params.method} {other} --seeds 0", "beside another method"),
        (more, "20 more rounds"),
    ]
    width = max(len(command) for command, _ in steps)
    lines = [f"{command:<{width}}  {what}" for command, what in steps]
    return "next    " + "\n        ".join(lines)


def result_markdown(summary: dict[str, Any]) -> str:
    """The same as Markdown, with the report's verdict and where the report is."""
    head, *rows = ["| " + " | ".join(row) + " |" for row in _result_rows(summary)]
    lines = [f"# {summary['verdict']}", ""] if summary.get("verdict") else []
    lines += [_result_head(summary), "", head, "|---|---|---|---|---:|---:|", *rows, ""]
    lines += [f"- {note}" for note in summary.get("notes", ())]
    return "\n".join([*lines, "", f"The report: `{REPORT.absolute()}`", ""])


def _result_head(summary: dict[str, Any]) -> str:
    head = f"method {summary.get('method', '?')}, profile {summary.get('profile', '?')}, "
    return head + f"{summary.get('rounds', '?')} rounds, seed {summary.get('seed', '?')}"


def _result_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    start = str(summary.get("start", "base"))
    rows: list[tuple[str, ...]] = [("benchmark", start, "final", "change", "n", "k")]
    base, final = summary.get("base", {}), summary.get("final", {})
    outcomes = summary.get("difference", {})
    for name in sorted(set(base) | set(final)):
        known = final.get(name) or base.get(name) or {}
        rows.append(
            (
                name,
                _cell(base.get(name)),
                _cell(final.get(name)),
                _change(base.get(name), final.get(name), outcomes.get(name, {}).get("outcome")),
                str(known.get("n", "-")),
                str(known.get("k", "-")),
            )
        )
    return rows


def _cell(entry: dict[str, Any] | None) -> str:
    if not entry or entry.get("avg") is None:
        return "-"
    text = f"{100 * entry['avg']:.1f} %"
    if entry.get("ci"):
        low, high = entry["ci"]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text


def _change(
    before: dict[str, Any] | None, after: dict[str, Any] | None, outcome: str | None
) -> str:
    """Points between both, and what the report's paired test makes of them."""
    if not before or not after or before.get("avg") is None or after.get("avg") is None:
        return "-"
    points = 100 * (after["avg"] - before["avg"])
    text = f"{points:+.1f}".replace("-0.0", "+0.0")
    if outcome == "unclear" and abs(points) >= 0.05:
        return f"{text} {UNCLEAR}"
    fell = outcome == "lower" or (outcome is None and points <= -0.05)
    return f"{text} {FELL}" if fell else text
