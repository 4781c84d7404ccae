"""What an update measures, by name: noted in one line where it is computed, put together here.

A metric is noted in parts: once a micro-batch, on whatever rank computes it. Its kind says how the
parts become one number. Every name noted here is a column of `rounds.parquet`, a curve of the
loggers, a column of the rounds page and, where no figure of the report's own shows it, a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hapo_core.exchange import exchanged
from hapo_core.mismatch import Apart


@exchanged
class Kind(StrEnum):
    """How the parts of a metric become one number."""

    SUM = "sum"
    """Their sum, over micro-batches, steps and ranks."""
    MEAN = "mean"
    """Sum of values over sum of weights; none where the weights sum to 0."""
    MAX = "max"
    """The largest."""
    PER_STEP = "per step"
    """Their sum over micro-batches and ranks, divided by optimizer steps; none without a step."""


@exchanged
@dataclass
class _Noted:
    kind: Kind
    value: float
    weight: float = 0.0

    def add(self, other: _Noted) -> None:
        if self.kind is Kind.MAX:
            self.value = max(self.value, other.value)
        else:
            self.value += other.value
            self.weight += other.weight


@exchanged
@dataclass
class Metrics:
    """Metrics of an update that is under way, on one rank.

    `tokens`: through forward and backward, of this rank. `steps`, `skipped`: optimizer steps made
    and left out, the same on every rank. `apart`: sampler against trainer, for the guard.
    """

    tokens: int = 0
    steps: int = 0
    skipped: int = 0
    apart: Apart = field(default_factory=Apart)
    _noted: dict[str, _Noted] = field(default_factory=dict)

    def sum(self, name: str, value: float) -> None:
        """Add to a sum."""
        self._note(name, _Noted(Kind.SUM, value))

    def mean(self, name: str, total: float, weight: float) -> None:
        """Add to a mean: a sum of values, and how many (or how much) they are."""
        self._note(name, _Noted(Kind.MEAN, total, weight))

    def max(self, name: str, value: float) -> None:
        """Take part in a maximum."""
        self._note(name, _Noted(Kind.MAX, value))

    def per_step(self, name: str, value: float) -> None:
        """Add to the sum of a step. What all ranks hold alike is noted on one of them."""
        self._note(name, _Noted(Kind.PER_STEP, value))

    def total(self, name: str) -> tuple[float, float]:
        """(sum or maximum, sum of weights) so far; zeros where nothing was noted."""
        noted = self._noted.get(name)
        return (noted.value, noted.weight) if noted else (0.0, 0.0)

    def _note(self, name: str, part: _Noted) -> None:
        held = self._noted.get(name)
        if held is None:
            if not name.isidentifier():
                raise ValueError(f"metric {name!r}: a name of letters, digits and _")
            self._noted[name] = _Noted(part.kind, part.value, part.weight)
        elif held.kind is not part.kind:
            raise ValueError(f"metric {name!r} is a {held.kind} and is noted as a {part.kind}")
        else:
            held.add(part)

    def add(self, other: Metrics) -> None:
        """Take in the parts of another pass or rank; steps stay those of this one."""
        self.tokens += other.tokens
        self.apart.add(other.apart)
        for name, part in other._noted.items():
            self._note(name, part)

    def result(self) -> UpdateMetrics:
        """The numbers, of all that was noted."""
        values: dict[str, float | None] = {}
        for name, noted in self._noted.items():
            match noted.kind:
                case Kind.MEAN:
                    values[name] = noted.value / noted.weight if noted.weight > 0 else None
                case Kind.PER_STEP:
                    values[name] = noted.value / self.steps if self.steps else None
                case Kind.SUM | Kind.MAX:
                    values[name] = noted.value
        return UpdateMetrics(values, self.tokens, self.steps, self.skipped)


def together(ranks: Sequence[Metrics]) -> UpdateMetrics:
    """The numbers of all ranks' parts, in the order of ranks."""
    whole = ranks[0]
    for part in ranks[1:]:
        whole.add(part)
    return whole.result()


@dataclass(frozen=True)
class UpdateMetrics:
    """What one round's update did.

    `values`: every metric by name; None, or no such name, where nothing of it was trained.
    """

    values: Mapping[str, float | None]
    trained_tokens: int
    optimizer_steps: int
    skipped_steps: int

    def __getitem__(self, name: str) -> float | None:
        return self.values.get(name)

    def with_step(self, step: UpdateMetrics) -> UpdateMetrics:
        """These metrics, tokens and steps of a separate supervised step added; all others stay
        those of the groups."""
        return UpdateMetrics(
            self.values,
            self.trained_tokens + step.trained_tokens,
            self.optimizer_steps + step.optimizer_steps,
            self.skipped_steps + step.skipped_steps,
        )
