"""Chains of additions and subtractions: a small task on which sparse rewards are real.

A problem is `157a+8b-3c+6=?`: a start value and named steps. A solution writes one step a line with
its running result and boxes the last: `a157+8=165`, `b165-3=162`, `c162+6=168`, `\\boxed{168}`. A
*slip* writes a result that is too high and goes on from it. Slips only ever add, so two of them
cannot cancel to a right answer by luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hapo_core.tasks.distinct import distinct

LOWEST, HIGHEST = 100, 999
"""Running results stay in this range: numbers of one width, so that a small policy learns the
arithmetic fast, and so many of them that no blind guess is right in 1 % of the cases."""

NAMES = "abcdefghijklmnopqrstuvwxyz"
"""Names of the steps, in order."""

SYMBOLS = ["\\boxed{", "}", "\n", "=", "?", "+", "-", *"0123456789", *NAMES]
"""Every token of the task's text, one symbol a token."""


@dataclass(frozen=True)
class Chain:
    """One problem: a start value and signed single-digit steps."""

    start: int
    steps: tuple[int, ...]

    @property
    def problem(self) -> str:
        named = zip(NAMES, self.steps, strict=False)
        return f"{self.start}{''.join(f'{name}{step:+d}' for name, step in named)}=?"

    @property
    def answer(self) -> str:
        return str(self.start + sum(self.steps))

    def leaping_solution(self, stride: int) -> str:
        """A solution that does `stride` steps at once on each line (`a157+8b-3=162`), or without
        any line where `stride` is 0: right answers in a style that is hard to imitate, as the
        sums of a line have to be done in one go.

        Raises:
            ValueError: a negative stride.
        """
        if stride < 0:
            raise ValueError(f"a line does 0 or more steps, not {stride}")
        value, lines = self.start, []
        for first in range(0, len(self.steps) if stride else 0, stride or 1):
            part = self.steps[first : first + stride]
            named = "".join(
                f"{NAMES[first + i] if i else ''}{step:+d}" for i, step in enumerate(part)
            )
            lines.append(f"{NAMES[first]}{value}{named}={value + sum(part)}")
            value += sum(part)
        return "\n".join([*lines, f"\\boxed{{{self.answer}}}"])

    def solution(self, slips: tuple[int, ...] = ()) -> str:
        """The written solution; `slips[i]` (default 0) is added to the result of step i."""
        value, lines = self.start, []
        for i, step in enumerate(self.steps):
            result = value + step + (slips[i] if i < len(slips) else 0)
            lines.append(f"{NAMES[i]}{value}{step:+d}={result}")
            value = result
        return "\n".join([*lines, f"\\boxed{{{value}}}"])


@dataclass(frozen=True)
class Habit:
    """How a careless solver errs: on chains of at least `min_steps` steps, each result from step
    `first_step` (counted from 1) on slips with `probability`, by 1..`max_offset`.

    A blind spot is an error that the policy hardly ever samples its way around: steps of at least
    `blind_from` in size slip with `blind_probability` instead (10: no blind spot).
    """

    min_steps: int
    first_step: int
    probability: float
    max_offset: int = 1
    blind_from: int = 10
    blind_probability: float = 0.0

    def slips(self, chain: Chain, rng: np.random.Generator) -> tuple[int, ...]:
        """What to add to the result of every step."""
        n = len(chain.steps)
        draws, offsets = rng.random(n), rng.integers(1, self.max_offset + 1, n)
        if n < self.min_steps:
            return (0,) * n
        return tuple(
            int(offsets[i])
            if i + 1 >= self.first_step and draws[i] < self._probability(chain.steps[i])
            else 0
            for i in range(n)
        )

    def _probability(self, step: int) -> float:
        return self.blind_probability if abs(step) >= self.blind_from else self.probability


def draw_chain(
    rng: np.random.Generator, steps: int, start_low: int = LOWEST, start_high: int = HIGHEST
) -> Chain:
    """One chain with `steps` steps whose running results stay in [LOWEST, HIGHEST]."""
    value = start = int(rng.integers(start_low, start_high + 1))
    signed: list[int] = []
    for _ in range(steps):
        step = int(rng.integers(1, 10)) * (1 if rng.random() < 0.5 else -1)
        if not LOWEST <= value + step <= HIGHEST:
            step = -step
        signed.append(step)
        value += step
    return Chain(start, tuple(signed))


def distinct_chains(
    count: int,
    seed: int,
    split: str,
    min_steps: int,
    max_steps: int,
    taken: set[str] | None = None,
    start_low: int = LOWEST,
    start_high: int = HIGHEST,
) -> list[Chain]:
    """`count` different chains of one split, none of them in `taken` (see `distinct`).

    Raises:
        ConfigError: the range of steps is empty, or there are not so many different chains.
    """

    def draw(rng: np.random.Generator, steps: int) -> Chain:
        return draw_chain(rng, steps, start_low, start_high)

    return distinct(draw, count, seed, split, (min_steps, max_steps), "chains", taken or ())
