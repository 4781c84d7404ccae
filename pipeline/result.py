"""The outcome of a run in a few lines, from `reports/summary.json`."""

from __future__ import annotations

from typing import Any

from pipeline.places import REPORT


def result_table(summary: dict[str, Any]) -> str:
    """The numbers of `reports/summary.json` as text: benchmark, base, final, n, k."""
    rows = _result_rows(summary)
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([_result_head(summary), *lines])


def result_markdown(summary: dict[str, Any]) -> str:
    """The same as Markdown, with the report's verdict and where the report is."""
    head, *rows = ["| " + " | ".join(row) + " |" for row in _result_rows(summary)]
    lines = [f"# {summary['verdict']}", ""] if summary.get("verdict") else []
    lines += [_result_head(summary), "", head, "|---|---|---|---:|---:|", *rows, ""]
    lines += [f"- {note}" for note in summary.get("notes", ())]
    return "\n".join([*lines, "", f"The report: `{REPORT.absolute()}`", ""])


def _result_head(summary: dict[str, Any]) -> str:
    head = f"method {summary.get('method', '?')}, profile {summary.get('profile', '?')}, "
    return head + f"{summary.get('rounds', '?')} rounds, seed {summary.get('seed', '?')}"


def _result_rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    rows = [("benchmark", "base", "final", "n", "k")]
    base, final = summary.get("base", {}), summary.get("final", {})
    for name in sorted(set(base) | set(final)):
        known = final.get(name) or base.get(name) or {}
        rows.append(
            (
                name,
                _cell(base.get(name)),
                _cell(final.get(name)),
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
