"""Golds that the verifier cannot read would make every reward of their problem unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hapo_core.verify import Job, Verdict, VerifierPool
from hapo_core.verify.gym import reference
from hapo_core.verify.math.fastpath import plain_number
from pipeline.curate.account import Account
from pipeline.curate.problems import Candidate, apply_rule
from pipeline.flows.observer import Observer

CHUNK = 2000
PROBE = "\\boxed{\\frac{987654}{321001}}"
"""An answer that is nobody's: grading it shows whether a gold can be read at all."""
LONGEST = 2000
"""Characters; a longer gold is no final answer, and not worth the grader's time."""


def boxed(answer: str) -> str:
    """An answer as a response would state it, without dollar signs around it."""
    inner = answer.strip()
    if len(inner) > 1 and inner.startswith("$") and inner.endswith("$") and inner.count("$") == 2:
        inner = inner[1:-1]
    return f"\\boxed{{{inner}}}"


def gold_faults(
    golds: Sequence[str], pool: VerifierPool, rewards: Sequence[str] | None = None
) -> list[str | None]:
    """Why each gold is no reference answer for its reward, or None.

    A gold must be `correct` against itself, and readable: against an answer that is nobody's the
    verdict must be one about the answer, not `bad_gold`. A reward of somebody's own
    (`module:function`) may find that answer `unparsed`, as text that is no number.
    """
    faults: list[str | None] = []
    asked = list(zip(golds, rewards or [pool.settings.kind] * len(golds), strict=True))
    short = [(g, kind) for g, kind in asked if not too_long(g, kind) and not _is_number(g, kind)]
    itself = iter(
        pool.verify(Job("gold", g, boxed(_stated(g, kind)), kind=kind) for g, kind in short)
    )
    probed = iter(pool.verify(Job("probe", g, PROBE, kind=kind) for g, kind in short))
    for gold, kind in asked:
        if fault := too_long(gold, kind):
            faults.append(fault)
            continue
        if _is_number(gold, kind):
            faults.append(None)
            continue
        found, probe = next(itself), next(probed)
        about = (Verdict.WRONG, Verdict.CORRECT, *((Verdict.UNPARSED,) if ":" in kind else ()))
        if probe.verdict not in about:
            faults.append(f"verdict {probe.verdict.value}")
        elif found.verdict is not Verdict.CORRECT:
            faults.append(f"not itself: verdict {found.verdict.value}")
        else:
            faults.append(None)
    return faults


def _stated(gold: str, kind: str) -> str:
    return reference(gold) if kind == "reasoning_gym" else gold


def too_long(gold: str, kind: str) -> str | None:
    """What is wrong with a gold that is no final answer by its length alone; None for others.

    A gold of another reward may hold more than an answer (tests, metadata).
    """
    long = kind in ("math", "exact") and len(gold) > LONGEST
    return f"longer than {LONGEST} characters" if long else None


def _is_number(gold: str, kind: str) -> bool:
    """A plain number is its own proof: nothing needs to be parsed (most golds are numbers)."""
    return kind == "math" and plain_number(gold) is not None


def check_golds(
    account: Account, candidates: Sequence[Candidate], pool: VerifierPool, observer: Observer
) -> list[Candidate]:
    """Drop problems whose gold the run's verifier cannot read, or does not find equal to itself."""
    faults = dict(
        zip((c.index for c in candidates), _faults(candidates, pool, observer), strict=True)
    )

    def judge(candidate: Candidate) -> tuple[str, str] | None:
        fault = faults[candidate.index]
        return (fault, candidate.answer) if fault else None

    return apply_rule(account, "gold", candidates, judge)


def _faults(
    candidates: Sequence[Candidate], pool: VerifierPool, observer: Observer
) -> Iterator[str | None]:
    for start in range(0, len(candidates), CHUNK):
        part = candidates[start : start + CHUNK]
        yield from gold_faults([c.answer for c in part], pool, [c.reward for c in part])
        observer.progress(start + len(part), len(candidates), what="golds")
