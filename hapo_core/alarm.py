"""Does the teacher do harm? An alarm that can shut the gate for good (METHOD 9).

Three witnesses, each with the same chance of a false alarm in a whole run:

- surprise: the traces of open groups surprise the policy, on average, by more than a limit;
- help: at their next visit injected prompts are solved less often than held-out ones;
- benchmark: a benchmark that is not trained on has fallen below the starting policy's score.

A witness is asked often, so its chance is shared out: the k-th look has 1 / (k (k + 1)) of it,
which adds up to 1 over all looks. Surprise and help are looked at when their numbers have doubled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

FIRST = 8
"""Traces, or next visits on either side, at the first look."""
DRAWS = 20_000
"""Sign flips of a benchmark's test: a p-value goes down to 1 / 20,001."""


class Witness(StrEnum):
    """The measurement that raised the alarm."""

    SURPRISE = "surprise"
    HELP = "help"
    BENCHMARK = "benchmark"


@dataclass(frozen=True)
class StopLoss:
    """`limit`: mean excess surprise (nats a token) that is still borne, None: not asked;
    `watched`: how many benchmarks; `shuts`: the gate, else the alarm only speaks."""

    false_alarms: float = 0.05
    limit: float | None = None
    watched: int = 0
    shuts: bool = True


@dataclass(frozen=True)
class Spoken:
    """The alarm. `round`, counted from 1; `value`: mean excess surprise, effect of help, or fall of
    the benchmark (both shares, below 0); `p_value`: one-sided, `level`: what it lies below."""

    witness: str
    round: int
    value: float
    p_value: float
    level: float
    benchmark: str = ""
    shuts: bool = True


@dataclass
class Moments:
    """Number, sum and sum of squares of values."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take in a value."""
        self.n, self.total, self.squares = (
            self.n + 1,
            self.total + value,
            self.squares + value * value,
        )

    @property
    def mean(self) -> float:
        return self.total / self.n

    @property
    def error(self) -> float:
        """Squared standard error of the mean, of two values or more."""
        spread = max(0.0, self.squares - self.total * self.total / self.n)
        return spread / (self.n - 1) / self.n


@dataclass
class Looks:
    """How often a witness was asked, and at which number it will be asked again."""

    taken: int = 0
    due: int = FIRST

    def share(self, n: int) -> float | None:
        """The look's share of the witness's chance; None where it is not due."""
        if n < self.due:
            return None
        while self.due <= n:
            self.due *= 2
        return self.next()

    def next(self) -> float:
        """A look now: 1 / (k (k + 1))."""
        self.taken += 1
        return 1.0 / (self.taken * (self.taken + 1))


@dataclass
class AlarmState:
    """All that the alarm remembers; part of every checkpoint."""

    surprise: Moments = field(default_factory=Moments)
    helped: Moments = field(default_factory=Moments)
    left: Moments = field(default_factory=Moments)
    looks: dict[str, Looks] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    """Prompts whose last visit was injected or held out, and which of both."""
    start: dict[str, dict[str, float]] = field(default_factory=dict)
    """Scores of the starting policy by benchmark and problem."""
    spoken: Spoken | None = None

    @property
    def shut(self) -> bool:
        """Whether the gate is shut for good."""
        return self.spoken is not None and self.spoken.shuts

    def as_json(self) -> dict[str, Any]:
        """For `from_json`: equal to the bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> AlarmState:
        """What `as_json` gave."""
        return cls(
            Moments(**plain["surprise"]),
            Moments(**plain["helped"]),
            Moments(**plain["left"]),
            {name: Looks(**looks) for name, looks in plain["looks"].items()},
            dict(plain["pending"]),
            {name: dict(scores) for name, scores in plain["start"].items()},
            None if plain["spoken"] is None else Spoken(**plain["spoken"]),
        )


class Alarm:
    """Listens to a run. Call `visit` for every group of a round, then `look`; `measured` for every
    measurement of a watched benchmark, the starting policy's first.

    Args:
        spec: what is asked.
        state: what an earlier process left; changed in place.
        seed: keys the sign flips of the benchmarks' test.
    """

    def __init__(self, spec: StopLoss, state: AlarmState, seed: int) -> None:
        self.spec, self.state, self._seed = spec, state, seed

    @property
    def effect(self) -> float | None:
        """The effect of help so far, a share; None until both sides have a next visit."""
        helped, left = self.state.helped, self.state.left
        return helped.mean - left.mean if helped.n and left.n else None

    def visit(
        self, prompt_id: str, decision: str, successes: int, known: int, excess: float | None
    ) -> None:
        """A group. `excess`: `Group.excess_surprise`."""
        state = self.state
        earlier = state.pending.pop(prompt_id, None)
        if earlier is not None and known:
            (state.helped if earlier == "injected" else state.left).add(successes / known)
        if decision in ("injected", "held_out"):
            state.pending[prompt_id] = decision
        if excess is not None and decision in ("injected", "held_out", "refused"):
            state.surprise.add(excess)

    def look(self, round_number: int) -> None:
        """Ask the witnesses of surprise and help, where enough is new."""
        state, limit = self.state, self.spec.limit
        if limit is not None and (share := self._due(Witness.SURPRISE, state.surprise.n)):
            seen = state.surprise
            p = _above(seen.mean - limit, seen.error, seen.n - 1)
            self._judge(Witness.SURPRISE, round_number, seen.mean, p, share)
        helped, left = state.helped, state.left
        if share := self._due(Witness.HELP, min(helped.n, left.n)):
            a, b = helped.error, left.error
            freedom = (a + b) ** 2 / (a * a / (helped.n - 1) + b * b / (left.n - 1)) if a + b else 1
            effect = helped.mean - left.mean
            p = _above(-effect, a + b, freedom)
            self._judge(Witness.HELP, round_number, effect, p, share)

    def measured(self, benchmark: str, scores: Mapping[str, float], round_number: int) -> None:
        """Mean correctness of each problem of a benchmark that is not trained on."""
        from hapo_core.stats.intervals import align, paired_test

        if benchmark not in self.state.start:
            self.state.start[benchmark] = dict(scores)
            return
        before, now = align(self.state.start[benchmark], scores)
        label = f"{benchmark}/{round_number}"
        found = paired_test(before, now, draws=DRAWS, seed=self._seed, label=label)
        # Two-sided: half of it for a fall.
        p = found.p_value / 2 if found.difference < 0 else 1.0
        looks = self.state.looks.setdefault(f"{Witness.BENCHMARK}/{benchmark}", Looks())
        share = looks.next() / max(1, self.spec.watched)
        self._judge(Witness.BENCHMARK, round_number, found.difference, p, share, benchmark)

    def _due(self, witness: Witness, n: int) -> float | None:
        return self.state.looks.setdefault(witness.value, Looks()).share(n)

    def _judge(
        self,
        witness: Witness,
        round_number: int,
        value: float,
        p: float,
        share: float,
        benchmark: str = "",
    ) -> None:
        """Let the witness speak, if it is the first and its p-value lies below its level."""
        level = share * self.spec.false_alarms
        if self.state.spoken is None and p < level:
            self.state.spoken = Spoken(
                witness.value, round_number, value, p, level, benchmark, self.spec.shuts
            )


def _above(difference: float, error: float, freedom: float) -> float:
    """P(a mean lies this far above by chance), Student's t; without any spread 0 or 1."""
    if error <= 0.0:
        return 0.0 if difference > 0 else 1.0
    from scipy.stats import t

    return float(t.sf(difference / math.sqrt(error), freedom))
