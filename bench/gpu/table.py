"""The kit's figures as one Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 6
"""Figures of a part that go into its cell, unless it has more to say line by line."""


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per part, and one per entry where a part has `lines`."""
    out = ["| part | status | s | figures |", "|---|---|---|---|"]
    for name, part in found.items():
        figures = dict(part.get("figures", {}))
        lines = figures.pop("lines", {})
        said = _flat(figures)
        if part.get("wrong"):
            said = "**wrong: " + "; ".join(part["wrong"]) + "** " + said
        if part["status"] in ("failed", "out of time", "left out") and "error" in part:
            said = _last_line(part["error"])
        out.append(f"| {name} | {part['status']} | {part['seconds']:.0f} | {said} |")
        out += [f"| {name}: {label} | | | {_flat(line)} |" for label, line in lines.items()]
    return "\n".join(out) + "\n"


def _flat(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in figures.items())


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "/").replace("\n", " ")


def _last_line(error: str) -> str:
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return _value(lines[-1]) if lines else ""
