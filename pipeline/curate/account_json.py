"""`curation.json`: the account of a run as canonical JSON (see docs/data.md)."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.curate.account import Account
from pipeline.curate.benchmarks import Benchmark
from pipeline.curate.rules.traces import TraceRules


def account_json(
    account: Account,
    sources: Mapping[str, object],
    benchmarks: Mapping[str, Benchmark],
    rules: TraceRules,
    facts: Mapping[str, object],
) -> dict[str, object]:
    """All counts, hits and exceptions. It holds no times: equal inputs give equal bytes."""
    return {
        "sources": dict(sources),
        "rules": [rule.as_json() for rule in account.rules],
        "contamination": account.contamination,
        "benchmarks": {n: {"source": b.facts, **b.checks} for n, b in benchmarks.items()},
        "traces": {
            "verdicts": dict(sorted(rules.verdicts.items())),
            "source_labels": dict(sorted(rules.labels.items())),
            "label_disagreements": rules.disagreements,
            "tokens": rules.tokens,
        },
        "result": dict(facts),
    }
