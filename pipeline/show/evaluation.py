"""An evaluation as a table of text: every number with what it needs to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hapo_core.verdicts import UNKNOWN

_HEAD = (
    *("benchmark", "avg@k", "interval", "pass@k", "maj@k", "n", "k", "temperature", "top_p"),
    *("max tokens", "truncated", "unparsed", "unknown", "tokens"),
)


def table_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The table of a metrics.json: one line a benchmark, then what holds for all of them."""
    benchmarks: Mapping[str, Mapping[str, Any]] = metrics["benchmarks"]
    yield from aligned([_HEAD, *(_row(name, entry) for name, entry in benchmarks.items())])
    level = {f"{100 * entry.get('confidence', 0.95):g} %" for entry in benchmarks.values()}
    yield f"interval: {', '.join(sorted(level))}, over problems"
    yield f"model: {metrics['policy']}"
    for template in sorted({str(entry["prompt_template"]) for entry in benchmarks.values()}):
        yield f"prompt: {template}"
    verifier = metrics.get("verifier")
    if verifier:
        box = "a box is required" if verifier["require_box"] else "no box is required"
        yield f"verifier: {verifier['kind']}, {box}, math-verify {verifier['math_verify']}"
    yield from (f"note: {line}" for line in metrics.get("notes", ()))


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = entry["ci"]
    unknown = sum(entry["verdicts"][v] for v in UNKNOWN)
    return (
        name,
        bare(entry["avg"]),
        f"[{bare(low)}, {bare(high)}]",
        bare(entry["pass_k"]),
        bare(entry["maj_k"]),
        str(entry["n"]),
        str(entry["k"]),
        f"{entry['temperature']:g}",
        f"{entry['top_p']:g}",
        str(entry["max_tokens"]),
        f"{bare(entry['truncated_share'])} %",
        f"{bare(entry['unparsed_share'])} %",
        str(unknown),
        f"{entry['mean_tokens']:.0f}",
    )


def bare(share: float) -> str:
    """0.5 as 50.0, for columns whose unit stands elsewhere."""
    return f"{100 * share:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:<{widths[0]}}"
        yield "  ".join(cells).rstrip()
