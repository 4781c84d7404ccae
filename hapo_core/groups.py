"""Groups: what rollout and verification hand to a method, and what it hands to the update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hapo_core.gate import Decision, Reading
from hapo_core.graded import Graded
from hapo_core.objective import Objective, TrainRow
from hapo_core.rng import Purpose, generator
from hapo_core.rollout.protocol import Prompt, Rollout
from hapo_core.surprise import P_MIN, Surprise, surprise


@dataclass(frozen=True)
class Trace:
    """A verified teacher trace that fits the response budget. `token_ids` ends with EOS."""

    trace_id: str
    token_ids: tuple[int, ...]
    text: str


def trace_of_round(
    traces: Sequence[Trace], seed: int, prompt_id: str, round_index: int
) -> Trace | None:
    """The trace that a visit of a prompt may use: the only one, one of several by chance (METHOD
    8), or None where there is none."""
    if len(traces) < 2:
        return traces[0] if traces else None
    draw = generator(seed, Purpose.TRACE_TURN, round_index, prompt_id)
    return traces[int(draw.integers(len(traces)))]


Demonstrations = Mapping[str, tuple[Prompt, Trace]]
"""All prompts with a usable trace, by prompt id."""


@dataclass(frozen=True)
class Request:
    """`n` samples that a method wants of one prompt, continuing the first `prefix` tokens of its
    trace (0: from the prompt alone)."""

    prompt_id: str
    n: int
    prefix: int = 0


@dataclass(frozen=True)
class Group:
    """The graded rollouts of one prompt in one round, in sample order.

    A supervised round has groups without rollouts. `continuations` are what the policy made of the
    first tokens of the trace (`Rollout.prefix`): a rollout of them holds the policy's own tokens,
    its text and its reward are those of the whole response. They are not among `samples`: S, the
    success rate and the gate never see what the policy reached with a teacher's head start.
    `surprise`: of the trace, under the policy that sampled; None where it was not measured.
    """

    prompt: Prompt
    samples: tuple[Graded, ...]
    trace: Trace | None
    continuations: tuple[Graded, ...] = ()
    surprise: Surprise | None = None

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        """The rollouts, without what was found of them."""
        return tuple(s.rollout for s in self.samples)

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """Their rewards: 1 or 0, or None where the verdict is unknown."""
        return tuple(s.reward for s in self.samples)

    @property
    def successes(self) -> int:
        """S: rollouts that the policy really solved, before any injection."""
        return sum(1 for s in self.samples if s.reward is not None and s.reward > 0)

    @property
    def known(self) -> int:
        """Rollouts with a known reward."""
        return sum(1 for s in self.samples if s.reward is not None)

    @property
    def own_surprise(self) -> float | None:
        """What the policy's own rollouts surprise it by: mean over them of their trimmed mean
        nats a token, from the sampler's log-probs; None without any."""
        own = [surprise(s.rollout.logprobs, P_MIN).nll for s in self.samples if s.rollout.logprobs]
        return math.fsum(own) / len(own) if own else None

    @property
    def excess_surprise(self) -> float | None:
        """Nats a token by which the trace surprises more than the own rollouts (METHOD 9); None
        where either was not measured."""
        if self.surprise is None or (own := self.own_surprise) is None:
            return None
        return self.surprise.nll - own

    @property
    def mixed(self) -> bool:
        """Whether there are both right and wrong rollouts."""
        return 0 < self.successes < self.known


@dataclass(frozen=True)
class PlannedGroup:
    """What a method made of a group.

    `rows`: all that counts in the normaliser; a row names the rollout or the continuation that it
    holds. `replaced`: index of the rollout whose place the trace took; `reading`: None without
    rollouts.
    """

    group: Group
    rows: tuple[TrainRow, ...]
    decision: Decision
    replaced: int | None = None
    reading: Reading | None = None

    def dead(self, objective: Objective) -> bool:
        """Whether no row of the group learns from a reward or from the teacher. An entropy bonus
        is no signal (METHOD 5): with one, all rows have a gradient, and nothing would be dead."""
        signal = replace(objective, entropy_coefficient=0.0)
        return not any(row.trains(signal) for row in self.rows)


@dataclass(frozen=True)
class Extras:
    """Rows of traces that a round trains outside of its groups.

    `beside`: in the very optimizer steps of the groups, spread over the minibatches (CHORD);
    `after`: each entry one supervised step of its own, after them (ReLIFT).
    """

    beside: tuple[TrainRow, ...] = ()
    after: tuple[tuple[TrainRow, ...], ...] = ()

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.beside) + sum(len(batch) for batch in self.after)


def success_rate(groups: list[Group]) -> float | None:
    """Share of successes among the known rollouts; None if nothing is known."""
    known = sum(g.known for g in groups)
    return sum(g.successes for g in groups) / known if known else None
