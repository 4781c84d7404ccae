"""Two evaluations of the same problems, paired problem by problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hapo_core.errors import DataError
from hapo_core.stats.benchmark import PairedResult, align, paired_test
from pipeline.artifacts import check_manifest, read_json
from pipeline.artifacts.tables import GENERATIONS, read_table
from pipeline.show.evaluation import aligned, bare

_PROTOCOL = ("k", "temperature", "top_p", "max_tokens")
_ASKED = ("prompt_template", "prompts_sha256")
_VERIFIER = ("kind", "require_box", "unevaluated", "timeout_seconds", "math_verify")
_SINCE = {"unevaluated": False}
"""Facts that older records do not have, with what was so then."""
DRAWS = 10_000


def pair(
    a: Path,
    b: Path,
    names: Sequence[str] | None = None,
    any_template: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedResult]:
    """The paired test on every benchmark of two evaluation folders (`hapo evaluate`, or
    `artifacts/evaluation/NAME` of a run).

    Args:
        names: only these benchmarks; None takes all, which must then be the same in both.
        any_template: prompts may differ, as for a base model against its chat model.

    Raises:
        DataError: a folder is no whole evaluation, or problems, protocol or verifier differ.
    """
    both = {path: _metrics(path) for path in (a, b)}
    chosen = _chosen(both, names)
    verifiers = {p: _SINCE | m.get("verifier", {}) for p, m in both.items()}
    _same(both, "the verifier", _VERIFIER, verifiers)
    found = {}
    for name in chosen:
        entries = {path: metrics["benchmarks"][name] for path, metrics in both.items()}
        _same(both, f"{name}: the protocol", _PROTOCOL, entries)
        _same(both, f"{name}: the set of problems", ("n", "problems_sha256"), entries)
        if not any_template:
            _same(both, f"{name}: the prompt", _ASKED, entries)
        scores = [_scores(path / f"{name}.parquet") for path in (a, b)]
        aligned_scores = align(scores[0], scores[1])
        found[name] = paired_test(*aligned_scores, confidence, DRAWS, seed, name)
    return found


def pairing_lines(found: Mapping[str, PairedResult], confidence: float) -> Iterator[str]:
    """The paired test as a table."""
    head = ("benchmark", "b - a", "interval", "p", "n", "b better", "a better", "equal")
    rows: list[tuple[str, ...]] = [head]
    for name, r in found.items():
        low, high = r.ci
        rows.append(
            (
                name,
                f"{100 * r.difference:+.1f}",
                f"[{bare(low)}, {bare(high)}]",
                f"{r.p_value:.3g}",
                *(str(x) for x in (r.n, r.better, r.worse, r.n - r.better - r.worse)),
            )
        )
    yield from aligned(rows)
    yield (
        f"points of avg@k; interval: {100 * confidence:g} %, paired bootstrap over problems; "
        "p: two-sided sign-flip permutation test"
    )


def _metrics(folder: Path) -> dict[str, Any]:
    check_manifest(folder, "evaluation")
    metrics: dict[str, Any] = read_json(folder / "metrics.json")
    return metrics


def _chosen(both: Mapping[Path, Mapping[str, Any]], names: Sequence[str] | None) -> list[str]:
    (a, first), (b, second) = both.items()
    if names is None:
        lone = sorted(set(first["benchmarks"]) ^ set(second["benchmarks"]))
        if lone:
            raise DataError(
                f"only one of the two has the benchmark {lone[0]!r}",
                where=f"{a} and {b}",
                remedy="--benchmark NAME compares what both have",
            )
        return list(first["benchmarks"])
    for name in names:
        for path, metrics in both.items():
            if name not in metrics["benchmarks"]:
                raise DataError(
                    f"benchmark {name!r} was not evaluated",
                    where=str(path),
                    remedy="it has " + ", ".join(metrics["benchmarks"]),
                )
    return list(names)


def _same(
    both: Mapping[Path, object],
    what: str,
    keys: Sequence[str],
    entries: Mapping[Path, Mapping[str, Any]],
) -> None:
    a, b = both
    for key in keys:
        left, right = entries[a].get(key), entries[b].get(key)
        if left is None or right is None:
            raise DataError(
                f"{what} is not recorded ({key})",
                where=str(a if left is None else b),
                remedy="it was written by another version: evaluate again"
                + (", or --any-template" if key in _ASKED else ""),
            )
        if left != right:
            shown = "" if key.endswith("_sha256") else f" ({key} {left!r} against {right!r})"
            raise DataError(
                f"{what} differs{shown}",
                where=f"{a} and {b}",
                remedy="evaluate both in the same way"
                + (", or --any-template" if key in _ASKED else ""),
            )


def _scores(path: Path) -> dict[str, float]:
    """Mean correctness by problem; `check_manifest` has seen that the table is whole."""
    table = read_table(path, GENERATIONS).select(["problem_id", "verdict"])
    counts: dict[str, list[int]] = {}
    for row in table.to_pylist():
        counts.setdefault(row["problem_id"], []).append(row["verdict"] == "correct")
    return {problem: sum(right) / len(right) for problem, right in counts.items()}
