"""Statistics of evaluation: avg@k, pass@k, maj@k, intervals over problems, paired tests.

The unit of all uncertainty is the problem, not the sample: k samples of one problem are not k
problems. Nothing here averages over what is there: a missing sample is an error that names it.

How verdicts count. Only `correct` counts as right. `timeout`, `error` and `bad_gold` are *unknown*:
the response may have been right. `avg` counts them as not correct, so it is a lower bound, and
`avg_upper` counts them as correct; they are in `verdicts` and in `unknown`. Leaving them out
instead would reward a policy for responses that the verifier cannot read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hapo_core.errors import DataError
from hapo_core.stats.intervals import PairedResult, align, mean_interval, paired_test
from hapo_core.verdicts import UNKNOWN, VERDICTS

__all__ = [
    "BenchmarkResult",
    "Generation",
    "PairedResult",
    "Protocol",
    "align",
    "avg_at_k",
    "benchmark_result",
    "maj_at_k",
    "mean_interval",
    "paired_test",
    "pass_at_k",
    "verdict_counts",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


# --- point estimates ----------------------------------------------------------------------------


def avg_at_k(correct: npt.ArrayLike) -> float:
    """Mean correctness over problems of the mean over their k samples.

    Args:
        correct: bool [n problems, k samples].
    Raises:
        DataError: if it is empty or not a full table.
    """
    return float(_table(correct).mean(axis=1).mean())


def pass_at_k(correct_count: npt.ArrayLike, n_samples: int, k: int) -> FloatArray:
    """Unbiased estimate per problem that at least one of k fresh samples is correct.

    1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374, Eq 1), in exact integers.

    Args:
        correct_count: int [n problems], correct ones among `n_samples`.
    Returns:
        float64 [n problems].
    Raises:
        ValueError: if not 1 <= k <= n_samples.
        DataError: if a count is outside 0..n_samples.
    """
    if not 1 <= k <= n_samples:
        raise ValueError(f"pass@k needs 1 <= k <= samples, got k={k} of {n_samples}")
    counts = np.asarray(correct_count, dtype=np.int64)
    bad = np.flatnonzero((counts < 0) | (counts > n_samples))
    if bad.size:
        raise DataError(
            f"problem {bad[0]} has {counts.flat[bad[0]]} correct ones of {n_samples} samples"
        )
    whole = math.comb(n_samples, k)
    by_count = np.array(
        [float(1 - Fraction(math.comb(n_samples - c, k), whole)) for c in range(n_samples + 1)]
    )
    return by_count[counts]


def maj_at_k(answers: Sequence[Sequence[str | None]], correct: npt.ArrayLike) -> FloatArray:
    """Per problem: is the most frequent answer correct?

    Answers vote by their extracted text, stripped; None (nothing extracted) does not vote. Equal
    values in different spellings stay apart: merging those that the gold reveals as equal would
    favour the right answer. Tied leaders share the vote evenly (the expectation of a uniform
    tie-break, so nothing is drawn). Where a verifier was inconsistent about one text (a timeout),
    one `correct` decides. No votes: 0.

    Args:
        answers: [n problems][k samples], the extracted answers.
        correct: bool [n problems, k samples].
    Returns:
        float64 [n problems] in [0, 1].
    Raises:
        DataError: if the two shapes differ.
    """
    table = _table(correct)
    if [len(row) for row in answers] != [table.shape[1]] * table.shape[0]:
        raise DataError(f"maj@k needs an answer or None for every sample of {table.shape}")
    return np.array([_majority(a, c) for a, c in zip(answers, table, strict=True)])


def _majority(answers: Sequence[str | None], correct: BoolArray) -> float:
    texts = [None if a is None else a.strip() for a in answers]
    votes = Counter(t for t in texts if t is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    leaders = [t for t, count in votes.items() if count == most]
    right = {t for t, c in zip(texts, correct, strict=True) if c}
    return sum(t in right for t in leaders) / len(leaders)


def verdict_counts(verdicts: Iterable[str]) -> dict[str, int]:
    """How often each verdict occurs, all seven in fixed order, zeros included.

    Raises:
        DataError: on a verdict that does not exist.
    """
    counts = Counter(str(v) for v in verdicts)
    unknown = sorted(set(counts) - set(VERDICTS))
    if unknown:
        raise DataError(f"unknown verdict {unknown[0]!r}", remedy="one of " + ", ".join(VERDICTS))
    return {v: counts[v] for v in VERDICTS}


def _table(correct: npt.ArrayLike) -> BoolArray:
    table = np.asarray(correct)
    if table.ndim != 2 or table.size == 0 or table.dtype != np.bool_:
        raise DataError(
            f"correctness must be a full bool table [problems, samples], got {table.dtype} "
            f"{table.shape}",
            remedy="evaluate the missing samples; an average over fewer is another number",
        )
    return table


# --- one benchmark ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generation:
    """One sampled response to one problem, as far as the statistics need it."""

    problem_id: str
    sample: int
    verdict: str
    extracted: str | None
    tokens: int
    """Length of the response in tokens, EOS counted."""


@dataclass(frozen=True)
class Protocol:
    """How a benchmark was measured; printed with every number."""

    k: int
    temperature: float
    top_p: float
    max_tokens: int
    prompt_template: str


@dataclass(frozen=True)
class BenchmarkResult:
    """One policy on one benchmark."""

    protocol: Protocol
    problem_ids: tuple[str, ...]
    scores: tuple[float, ...]
    """Mean correctness of each problem over its k samples."""
    ci: tuple[float, float]
    pass_k: float
    maj_k: float
    verdicts: dict[str, int]
    mean_tokens: float

    @property
    def n(self) -> int:
        """Problems."""
        return len(self.problem_ids)

    @property
    def avg(self) -> float:
        """avg@k; unknown verdicts count as not correct."""
        return float(np.mean(self.scores))

    @property
    def unknown(self) -> int:
        """Samples about which the verifier could say nothing."""
        return sum(self.verdicts[v] for v in UNKNOWN)

    @property
    def avg_upper(self) -> float:
        """avg@k if every unknown sample were correct."""
        return (self.verdicts["correct"] + self.unknown) / (self.n * self.protocol.k)

    def by_problem(self) -> dict[str, float]:
        """Scores by problem id, for `align`."""
        return dict(zip(self.problem_ids, self.scores, strict=True))

    def pass_at(self) -> dict[str, float]:
        """Unbiased pass@j from these k samples, j = 1, 2, 4, ... and k, keyed by j as text."""
        k = self.protocol.k
        counts = [round(score * k) for score in self.scores]
        powers = {2**i for i in range(k.bit_length()) if 2**i <= k} | {k}
        return {str(j): float(pass_at_k(counts, k, j).mean()) for j in sorted(powers)}

    def to_dict(self) -> dict[str, object]:
        """The benchmark's entry of metrics.json."""
        total = self.n * self.protocol.k
        return {
            "avg": self.avg,
            "n": self.n,
            "k": self.protocol.k,
            "ci": list(self.ci),
            "pass_k": self.pass_k,
            "pass_at": self.pass_at(),
            "maj_k": self.maj_k,
            "temperature": self.protocol.temperature,
            "top_p": self.protocol.top_p,
            "max_tokens": self.protocol.max_tokens,
            "truncated_share": self.verdicts["truncated"] / total,
            "unparsed_share": self.verdicts["unparsed"] / total,
            "verdicts": dict(self.verdicts),
            "mean_tokens": self.mean_tokens,
            "prompt_template": self.protocol.prompt_template,
        }


def benchmark_result(
    generations: Iterable[Generation],
    problem_ids: Sequence[str],
    protocol: Protocol,
    confidence: float = 0.95,
) -> BenchmarkResult:
    """Reduce all generations of one benchmark.

    Args:
        problem_ids: the problems that the benchmark consists of; each needs samples 0..k-1.
    Raises:
        DataError: naming the problem with a missing, double or surplus sample.
    """
    rows = _complete(generations, problem_ids, protocol.k)
    correct = np.array([[g.verdict == "correct" for g in row] for row in rows], dtype=np.bool_)
    scores = correct.mean(axis=1)
    counts = correct.sum(axis=1)
    every = [g for row in rows for g in row]
    return BenchmarkResult(
        protocol=protocol,
        problem_ids=tuple(problem_ids),
        scores=tuple(float(s) for s in scores),
        ci=mean_interval(scores, confidence),
        pass_k=float(pass_at_k(counts, protocol.k, protocol.k).mean()),
        maj_k=float(maj_at_k([[g.extracted for g in row] for row in rows], correct).mean()),
        verdicts=verdict_counts(g.verdict for g in every),
        mean_tokens=float(np.mean([g.tokens for g in every])),
    )


def _complete(
    generations: Iterable[Generation], problem_ids: Sequence[str], k: int
) -> list[list[Generation]]:
    """Rows in the order of `problem_ids`, samples 0..k-1 in each."""
    if not problem_ids or len(set(problem_ids)) != len(problem_ids):
        raise DataError("the benchmark has no problems, or one of them twice")
    found: dict[tuple[str, int], Generation] = {}
    wanted = set(problem_ids)
    for g in generations:
        where = f"problem {g.problem_id}, sample {g.sample}"
        if g.problem_id not in wanted or not 0 <= g.sample < k:
            raise DataError(f"a generation outside the benchmark's {k} samples", where=where)
        if (g.problem_id, g.sample) in found:
            raise DataError("the same sample twice", where=where)
        found[g.problem_id, g.sample] = g
    missing = [(p, s) for p in problem_ids for s in range(k) if (p, s) not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(problem_ids) * k} samples are missing",
            where=f"problem {missing[0][0]}, sample {missing[0][1]}",
            remedy="run the evaluation again; no average is taken over missing samples",
        )
    return [[found[p, s] for s in range(k)] for p in problem_ids]
