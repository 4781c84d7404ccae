"""Does the verifier understand these golds and traces? Asked before anything trains on them.

Every gold is put to the run's own verifier as an answer to itself, respelled (the same answer,
written otherwise) and mutated (an answer that looks like it and is wrong). A verifier that refuses
the first two costs signal; one that accepts the third is a reward that a policy finds without
solving anything. Traces are put to it as they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hapo_core.errors import DataError
from hapo_core.verify import Job, Verdict, VerifierPool, reward_of
from hapo_core.verify.properties import mutate, respell
from pipeline.curate.account import EXAMPLES, excerpt
from pipeline.curate.rules.golds import gold_faults

_WIDTH = 60
_CHUNK = 500
_MEANT = {
    "bad_gold": " (prose, or no mathematics that can be read)",
    "unparsed": " (no mark, or nothing in it that can be compared)",
}
"""Beside a verdict's name, for who has not read docs/verification.md."""
CURATED = 200
"""Problems that curation checks."""


@dataclass(frozen=True)
class Limits:
    """Largest tolerated shares; a larger one is a problem (exit status 1).

    `rows` that cannot be read, `golds` that the verifier cannot read or finds unlike themselves,
    `respelled` golds that it refuses, `mutated` golds that it accepts, `traces` that are not right.
    Five real sources with `math` lie below all of them (docs/data.md); curation drops the golds.
    """

    rows: float = 0.05
    golds: float = 0.1
    respelled: float = 0.02
    mutated: float = 0.005
    traces: float = 0.5


@dataclass(frozen=True)
class Sample:
    """One problem: where it is from, its gold, what grades it, its traces."""

    where: str
    gold: str
    reward: str
    traces: tuple[str, ...] = ()


@dataclass
class Tally:
    """A count of trials, and of those that went wrong, by kind with up to three examples."""

    trials: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    tried: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, fault: str | None, example: str) -> None:
        """Count one trial of `kind`; `fault` names what went wrong."""
        self.trials += 1
        self.tried[kind] += 1
        if fault is None:
            return
        self.faults[fault] += 1
        kept = self.examples.setdefault(fault, [])
        if len(kept) < EXAMPLES:
            kept.append(excerpt(example, _WIDTH))

    @property
    def bad(self) -> int:
        """Trials that went wrong."""
        return sum(self.faults.values())

    @property
    def share(self) -> float:
        """Share of the trials that went wrong."""
        return self.bad / self.trials if self.trials else 0.0


@dataclass
class DataCheck:
    """The outcome; `problems` are the sentences over their limit."""

    limits: Limits
    rows: Tally = field(default_factory=Tally)
    golds: Tally = field(default_factory=Tally)
    respelled: Tally = field(default_factory=Tally)
    mutated: Tally = field(default_factory=Tally)
    traces: Tally = field(default_factory=Tally)
    rewards: set[str] = field(default_factory=set)

    @property
    def problems(self) -> list[str]:
        """What is over its limit, each with what to do."""
        found = []
        for tally, limit, what, remedy in self._parts():
            if tally.share > limit:
                share = f"{tally.bad} of {tally.trials} ({100 * tally.share:.3g} %, the limit is "
                found.append(f"{share}{100 * limit:.3g} %) {what}; {remedy}")
        if not self.golds.trials:
            found.append("no gold could be read; `hapo data peek SOURCE` shows the rows")
        return found

    def _parts(self) -> Iterator[tuple[Tally, float, str, str]]:
        at = self.limits
        yield self.rows, at.rows, "rows cannot be read", "mend them, or see `hapo data peek`"
        yield (
            self.golds, at.golds, "golds are no reference answers for this verifier",
            "write them as the verifier reads them, or set `reward` of the source",
        )  # fmt: skip
        yield (
            self.respelled, at.respelled, "right answers in another spelling are refused",
            "use `reward: math`, or let your verifier read what is listed above",
        )  # fmt: skip
        yield (
            self.mutated, at.mutated, "wrong answers are accepted: a reward without the solution",
            "use another `reward`, or make your verifier compare the whole answer",
        )  # fmt: skip
        yield self.traces, at.traces, "traces are not right as they stand", self._traces_remedy()

    def _traces_remedy(self) -> str:
        """By what is wrong with most of them."""
        wrong, unmarked = (self.traces.faults[v.value] for v in (Verdict.WRONG, Verdict.UNPARSED))
        if wrong > unmarked:
            return (
                "they end in another answer: is the column right, does each row have its own gold?"
            )
        if not unmarked:
            return "look at golds and traces (docs/data.md)"
        return (
            "the mark of their answer is not read: set `mark` of the source (`--mark last_number`, "
            "`--mark '####'`); `hapo data peek SOURCE` says which one fits"
        )

    def lines(self) -> Iterator[str]:
        """One screen: a line a part, then its faults by kind with examples."""
        for name, tally, wrong in (
            ("rows", self.rows, "not read"),
            ("golds against themselves", self.golds, "refused"),
            ("golds respelled", self.respelled, "refused"),
            ("golds mutated", self.mutated, "accepted"),
            ("traces", self.traces, "not right"),
        ):
            if not tally.trials:
                yield f"{name:<25} none"
                continue
            share = f"{100 * tally.share:.3g} %"
            tried = "distinct" if tally is self.golds else "tried"
            yield f"{name:<25} {tally.trials:>7,} {tried}, {tally.bad:>6,} {wrong} ({share})"
            ordered = tally.faults.most_common()
            for fault, count in ordered[:6]:
                tried = f" of {tally.tried[fault]}" if tally.tried[fault] else ""
                meant = _MEANT.get(fault.removeprefix("verdict "), "")
                yield f"    {count}{tried} {fault}{meant}: " + " | ".join(tally.examples[fault])
            if ordered[6:]:
                rest = ", ".join(f"{count} {fault}" for fault, count in ordered[6:14])
                yield f"    and {len(ordered[6:])} more kinds: {rest}"


def check_data(
    samples: Iterable[Sample],
    pool: VerifierPool,
    limits: Limits | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> DataCheck:
    """Put golds, their variants and traces to the verifier.

    Args:
        samples: in reading order; golds that were asked before are not asked again.
        tell: gets the number of problems done so far.
    """
    found = DataCheck(limits or Limits())
    seen: set[tuple[str, str]] = set()
    batch: list[Sample] = []
    done = 0
    for sample in samples:
        batch.append(sample)
        if len(batch) == _CHUNK:
            _check(batch, pool, found, seen)
            done += len(batch)
            tell(done)
            batch = []
    _check(batch, pool, found, seen)
    return found


def _check(
    batch: Sequence[Sample], pool: VerifierPool, found: DataCheck, seen: set[tuple[str, str]]
) -> None:
    new = []
    for sample in batch:
        if (sample.gold, sample.reward) not in seen:
            seen.add((sample.gold, sample.reward))
            new.append(sample)
    found.rewards.update(s.reward for s in batch)
    faults = gold_faults([s.gold for s in new], pool, [s.reward for s in new])
    readable = []
    for sample, fault in zip(new, faults, strict=True):
        found.golds.add("gold", fault, f"{sample.where}: {sample.gold}")
        if fault is None and sample.reward != "reasoning_gym":  # its golds are no answers
            readable.append(sample)
    _variants(readable, pool, found)
    _traces(batch, pool, found)


def _variants(samples: Sequence[Sample], pool: VerifierPool, found: DataCheck) -> None:
    asked = []
    for sample in samples:
        for right, make in ((True, respell), (False, mutate)):
            asked += [(sample, right, variant) for variant in make(sample.gold)]
    jobs = (Job("variant", s.gold, boxed_as_is(v.text), kind=s.reward) for s, _, v in asked)
    for (sample, right, variant), verdict in zip(asked, pool.verify(jobs), strict=True):
        accepted = verdict.verdict is Verdict.CORRECT
        tally = found.respelled if right else found.mutated
        example = f"{sample.where}: {sample.gold} / {variant.text}"
        tally.add(variant.kind, None if accepted is right else variant.kind, example)


def boxed_as_is(text: str) -> str:
    """A response that states exactly this answer."""
    return f"\\boxed{{{text}}}"


def _traces(batch: Sequence[Sample], pool: VerifierPool, found: DataCheck) -> None:
    asked = [(s, t) for s in batch for t in s.traces]
    jobs = (Job("trace", s.gold, t, kind=s.reward) for s, t in asked)
    for (sample, text), verdict in zip(asked, pool.verify(jobs), strict=True):
        fault = None
        if verdict.verdict is not Verdict.CORRECT:
            unknown = " (unknown)" if reward_of(verdict.verdict) is None else ""
            fault = verdict.verdict.value + unknown
        said = verdict.extracted if verdict.extracted is not None else "…" + text[-30:]
        found.traces.add("trace", fault, f"{sample.where}: gold {sample.gold}, says {said}")


def spread(items: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many of them, evenly over all."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


USELESS = 0.5
"""Share of accepted mutations above which a run would train on a reward that anything earns."""


def check_verifier(
    samples: Sequence[Sample], pool: VerifierPool, warn: Callable[[str], None]
) -> None:
    """The check as a step of curation, on a sample: problems are warnings.

    Raises:
        DataError: the verifier accepts most wrong answers.
    """
    # Whoever chose `exact` wants no other spelling.
    limits = Limits(respelled=1.0) if pool.settings.kind == "exact" else Limits()
    found = check_data(spread(samples, CURATED), pool, limits)
    useless = found.mutated.share > USELESS
    if useless:
        raise DataError(
            f"the verifier accepts {found.mutated.bad} of {found.mutated.trials} wrong answers: "
            + "; ".join(e[0] for e in list(found.mutated.examples.values())[:EXAMPLES]),
            where="rewards.verifier",
            remedy="make it compare the whole answer; `hapo data check SOURCE` lists the kinds",
        )
    for problem in found.problems if samples else ():
        warn(
            f"data check on {min(len(samples), CURATED)} problems: {problem}; all of it: "
            "`hapo data check SOURCE`"
        )
