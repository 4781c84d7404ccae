"""Exact and near duplicates. The first of several stays and keeps the traces of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from datasketch import MinHash, MinHashLSH

from pipeline.curate.account import Account
from pipeline.curate.problems import Candidate, drop_of
from pipeline.curate.text import exact_key, numbers, words
from pipeline.flows.observer import Observer

SHINGLE = 3
"""Words of one shingle."""
PERMUTATIONS = 128
MINIMUM_WORDS = 8
"""Shorter problems are compared exactly only: a few words say too little."""


@dataclass
class Owners:
    """Which candidate owns the traces of a row read; duplicates hand theirs to the first."""

    merged: dict[int, int] = field(default_factory=dict)

    def merge(self, duplicate: Candidate, first: Candidate) -> None:
        """`first` takes over the traces of `duplicate` (and all that it had taken over)."""
        self.merged[duplicate.index] = first.index
        first.traces += duplicate.traces

    def owner_of(self, kept: Sequence[Candidate]) -> dict[int, Candidate]:
        """Row index -> owner, for all rows whose problem (or its first copy) is in `kept`."""
        by_index = {c.index: c for c in kept}
        owners = dict(by_index)
        for duplicate in self.merged:
            root = duplicate
            while root in self.merged:
                root = self.merged[root]
            if root in by_index:
                owners[duplicate] = by_index[root]
        return owners


def drop_exact(
    account: Account, candidates: Sequence[Candidate], owners: Owners
) -> list[Candidate]:
    """Drop problems whose `exact_key` came before.

    A copy with another answer hands over no traces: they argue for the other answer.
    """
    rule = account.rule("exact duplicates", "problems", len(candidates))
    first: dict[bytes, Candidate] = {}
    kept: list[Candidate] = []
    for candidate in candidates:
        original = first.setdefault(exact_key(candidate.problem), candidate)
        if original is candidate:
            kept.append(candidate)
            continue
        same = exact_key(original.answer) == exact_key(candidate.answer)
        reason = "same problem" if same else "same problem, another answer (the first is kept)"
        detail = f"of {original.problem_id}: {original.answer} / {candidate.answer}"
        account.drop(rule, drop_of(candidate, rule.name, reason, detail))
        if same:
            owners.merge(candidate, original)
    return kept


def drop_near(
    account: Account,
    candidates: Sequence[Candidate],
    owners: Owners,
    threshold: float,
    observer: Observer,
) -> list[Candidate]:
    """Drop problems that say the same with other words (MinHash over word shingles).

    Two problems are near duplicates if their shingles' estimated Jaccard similarity is at least
    `threshold` and both their numbers and their answers agree: variants with other numbers are
    other problems. `threshold` 0 switches the rule off.
    """
    rule = account.rule("near duplicates", "problems", len(candidates))
    if not threshold:
        rule.mended["switched off"] = len(candidates)
        return list(candidates)
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    by_key: dict[str, tuple[Candidate, MinHash]] = {}
    kept: list[Candidate] = []
    for done, candidate in enumerate(candidates):
        sketch = None if candidate.generated else _sketch(candidate.problem)
        original = None
        if sketch is not None:
            original = _similar(candidate, sketch, index, by_key, threshold)
            if original is None:
                key = str(candidate.index)
                by_key[key] = (candidate, sketch)
                index.insert(key, sketch)
        if original is None:
            kept.append(candidate)
        else:
            detail = f"of {original.problem_id}: {candidate.problem}"
            account.drop(rule, drop_of(candidate, rule.name, "nearly the same problem", detail))
            owners.merge(candidate, original)
        if done % 1000 == 0:
            observer.progress(done, len(candidates), what="near duplicates")
    return kept


def _sketch(problem: str) -> MinHash | None:
    found = words(problem)
    if len(found) < MINIMUM_WORDS:
        return None
    shingles = {" ".join(found[i : i + SHINGLE]) for i in range(len(found) - SHINGLE + 1)}
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([s.encode() for s in shingles])
    return sketch


def _similar(
    candidate: Candidate,
    sketch: MinHash,
    index: MinHashLSH,
    by_key: dict[str, tuple[Candidate, MinHash]],
    threshold: float,
) -> Candidate | None:
    """The earliest candidate that this one nearly repeats."""
    for key in sorted(index.query(sketch), key=int):
        other, other_sketch = by_key[key]
        if (
            sketch.jaccard(other_sketch) >= threshold
            and numbers(other.problem) == numbers(candidate.problem)
            and exact_key(other.answer) == exact_key(candidate.answer)
        ):
            return other
    return None
