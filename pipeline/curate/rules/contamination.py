"""Training problems that are, or contain, a benchmark's problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.curate.account import Account, excerpt
from pipeline.curate.benchmarks import Benchmark
from pipeline.curate.problems import Candidate, drop_of
from pipeline.curate.text import exact_key, words

SAME_WORDS = 6
"""Two problems of at least so many words count as one when all words agree in order."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What a training problem shares with one benchmark problem.

    `coverage` is the share of words (of the training or the benchmark problem, the larger) that
    lie in shared n-grams; `shared` is the first of these n-grams.
    """

    benchmark: str
    row: str
    how: str
    coverage: float = 1.0
    shared: str = ""

    def as_json(self, problem_id: str) -> dict[str, object]:
        """The line of curation.json."""
        return {
            "problem_id": problem_id,
            "benchmark": self.benchmark,
            "row": self.row,
            "how": self.how,
            "coverage": round(self.coverage, 3),
            "shared": self.shared,
        }


class Index:
    """All benchmarks' problems by exact key, by all their words, and by their word n-grams.

    Args:
        n: words of an n-gram; 0 compares whole problems only.
    """

    def __init__(self, benchmarks: Mapping[str, Benchmark], n: int) -> None:
        self.n = n
        self._rows: list[tuple[str, str]] = []
        self._words: list[list[str]] = []
        self._exact: dict[bytes, list[int]] = {}
        self._whole: dict[tuple[str, ...], list[int]] = {}
        self._grams: dict[tuple[str, ...], list[int]] = {}
        for name, benchmark in benchmarks.items():
            for row in benchmark.rows:
                self._add(name, row.problem_id, row.problem)

    def _add(self, benchmark: str, row: str, problem: str) -> None:
        at, found = len(self._rows), words(problem)
        self._rows.append((benchmark, row))
        self._words.append(found)
        self._exact.setdefault(exact_key(problem), []).append(at)
        if len(found) >= SAME_WORDS:
            self._whole.setdefault(tuple(found), []).append(at)
        for gram in set(ngrams(found, self.n)):
            self._grams.setdefault(gram, []).append(at)

    def hits(self, problem: str) -> list[Hit]:
        """One hit for every benchmark problem that shares something, the strongest first."""
        found = words(problem)
        exact = self._exact.get(exact_key(problem), [])
        whole = self._whole.get(tuple(found), [])
        grams = list(ngrams(found, self.n))
        near = {at for gram in grams for at in self._grams.get(gram, ())}
        hits = [Hit(*self._rows[at], "exact") for at in exact]
        hits += [Hit(*self._rows[at], "same words") for at in whole if at not in exact]
        for at in sorted(near.difference(exact, whole)):
            theirs = list(ngrams(self._words[at], self.n))
            both = set(grams) & set(theirs)
            coverage = max(_coverage(grams, both, self.n), _coverage(theirs, both, self.n))
            first = next(gram for gram in grams if gram in both)
            hits.append(Hit(*self._rows[at], f"{self.n} words", coverage, " ".join(first)))
        return sorted(hits, key=lambda h: -h.coverage)


def ngrams(sequence: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """All runs of n words; none for n = 0."""
    if n:
        for start in range(len(sequence) - n + 1):
            yield tuple(sequence[start : start + n])


def _coverage(grams: Sequence[tuple[str, ...]], shared: set[tuple[str, ...]], n: int) -> float:
    """Share of a text's words inside shared n-grams, from all its n-grams in order."""
    covered: set[int] = set()
    for start, gram in enumerate(grams):
        if gram in shared:
            covered.update(range(start, start + n))
    return len(covered) / (len(grams) + n - 1)


def drop_contaminated(
    account: Account,
    candidates: Sequence[Candidate],
    benchmarks: Mapping[str, Benchmark],
    n: int,
    coverage: float,
) -> list[Candidate]:
    """Drop problems that repeat a benchmark problem, or share n-grams that cover `coverage` of it.

    Every hit of a dropped problem is listed in `account.contamination`; what stays in spite of a
    shared n-gram is counted with examples.
    """
    index = Index(benchmarks, n)
    rule = account.rule("decontamination", "problems", len(candidates))
    kept: list[Candidate] = []
    for candidate in candidates:
        hits = index.hits(candidate.problem)
        if candidate.generated:  # its problems may differ in an operator only
            hits = [hit for hit in hits if hit.how == "exact"]
        if not hits or hits[0].coverage < coverage:
            kept.append(candidate)
            if hits:
                detail = f"{hits[0].row} ({hits[0].coverage:.2f}): {hits[0].shared}"
                rule.mend("a phrase shared with a benchmark, kept", candidate.problem_id, detail)
            continue
        first = hits[0]
        reason = f"{first.how} shared with {first.benchmark}"
        detail = f"{first.row}: {first.shared or excerpt(candidate.problem)}"
        account.drop(rule, drop_of(candidate, rule.name, reason, detail))
        account.contamination += [
            h.as_json(candidate.problem_id) for h in hits if h.coverage >= coverage
        ]
    return kept
