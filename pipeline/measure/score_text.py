"""The summary of `hapo score` as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hapo_core.verdicts import UNKNOWN
from pipeline.show.evaluation import aligned, bare


def summary_lines(summary: Mapping[str, Any], shown: int) -> Iterator[str]:
    """Verdicts, averages, agreement with the file's labels, and the first differences."""
    total = summary["generations"]
    yield f"{summary['file']}: {total} generations of {summary['problems']} problems"
    if summary["limit"] is not None:
        yield f"note: the first {summary['limit']} rows only (--limit)"
    rows = [("verdict", "count", "share")]
    rows += [
        (verdict, str(count), f"{bare(count / total)} %")
        for verdict, count in summary["verdicts"].items()
        if count
    ]
    yield from aligned(rows)
    yield from _average_lines(summary)
    verifier = summary["verifier"]
    box = "required" if verifier["require_box"] else "not required"
    yield (
        f"verifier: {verifier['kind']}, mark {verifier['mark']} {box}, "
        f"math-verify {verifier['math_verify']}"
    )
    bad = summary["bad_golds"]
    if bad:
        yield (
            f"note: {len(bad)} golds are empty or cannot be graded, the first at "
            f"{bad[0]['where']}: {bad[0]['gold']!r:.80}; mend them or take them from --benchmark"
        )
    if summary["labelled"]:
        yield from _agreement_lines(summary, shown)


def _average_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["avg"] is None:
        yield f"no average: {summary['no_avg']}"
        return
    low, high = summary["ci"]
    unknown = sum(summary["verdicts"][v] for v in UNKNOWN)
    line = (
        f"avg@{summary['k']} {bare(summary['avg'])} % [{bare(low)}, {bare(high)}] "
        f"(95 %, over {summary['problems']} problems)"
    )
    if summary["k"] > 1:
        line += f"  pass@{summary['k']} {bare(summary['pass_k'])} %"
        line += f"  maj@{summary['k']} {bare(summary['maj_k'])} %"
    yield line
    if unknown:
        yield f"note: {unknown} unknown verdicts count as not correct"


def _agreement_lines(summary: Mapping[str, Any], shown: int) -> Iterator[str]:
    labelled, agreed = summary["labelled"], summary["agreed"]
    yield f"the file's own labels: {agreed} of {labelled} agree ({bare(agreed / labelled)} %)"
    rows = [("label", "verdict here", "count", "")]
    for item in summary["agreement"]:
        same = item["label"] == (item["verdict"] == "correct")
        label = "right" if item["label"] else "wrong"
        rows.append((label, item["verdict"], str(item["count"]), "" if same else "differs"))
    yield from aligned(rows)
    differences = summary["differences"]
    for item in differences[:shown]:
        label = "right" if item["label"] else "wrong"
        yield f"{item['where']}: label {label}, here {item['verdict']} ({item['detail']})"
        yield f"    gold {item['gold']!r:.70}  extracted {item['extracted']!r:.70}"
        if item["extracted"] is None:
            yield f"    ends: ...{item['response_end'][-100:]}"
    if len(differences) > shown:
        yield f"... {len(differences) - shown} more differences in summary.json"
