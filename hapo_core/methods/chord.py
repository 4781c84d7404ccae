"""CHORD (METHOD 6, arXiv 2508.11408): GRPO and a batch of expert traces in every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hapo_core.gate import Decision, Gate, Reading, ScheduledThreshold, Shape
from hapo_core.groups import Demonstrations, Extras, Group, PlannedGroup
from hapo_core.methods.entry import MethodEntry, Parts, Teaching
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.objective import Objective, Part
from hapo_core.prompt_order import prompts_of_round
from hapo_core.rng import Purpose
from hapo_core.rows import likelihood_row
from hapo_core.settings import Count, Inside, Share, settings

CHORD_MU = ScheduledThreshold(Shape.COSINE, 0.9, 0.05, 200)
"""m of CHORD-mu. The paper gives the ends and the rounds, the released code the cosine."""
CHORD_PHI = ScheduledThreshold(Shape.STEP, 0.1, 0.1, 1)
"""m of CHORD-phi: .1 throughout."""


@settings
class CHORDOptions:
    """`chord` (METHOD 6): (1 - m) GRPO + m SFT. What is unset follows from the variant."""

    variant: Literal["mu", "phi"] = "mu"
    """`phi` weighs each expert token by p (1 - p)."""
    mix_start: Share | None = None
    """m of the first round: .9 for mu, .1 for phi."""
    mix_end: Share | None = None
    """m from `horizon` on: .05 for mu, .1 for phi."""
    shape: Literal["cosine", "linear"] = "cosine"
    """How m falls: `cosine` is the released code's; the paper gives the ends only."""
    horizon: Count = 200
    expert_share: Inside = 0.2
    """Expert traces as a share of all rows of a round (.2 in the released configuration)."""

    @property
    def mix(self) -> ScheduledThreshold:
        """m over the rounds."""
        usual = CHORD_MU if self.variant == "mu" else CHORD_PHI
        return ScheduledThreshold(
            Shape(self.shape),
            usual.start if self.mix_start is None else self.mix_start,
            usual.end if self.mix_end is None else self.mix_end,
            self.horizon,
        )

    def rows(self, rollouts: int) -> int:
        """How many traces stand beside a round's rollouts; at least one."""
        return max(1, round(rollouts * self.expert_share / (1 - self.expert_share)))


class CHORD(GRPO):
    """(1 - m) GRPO + m SFT. The two parts have normalisers of their own: the rollouts that of the
    objective, the expert tokens a token mean. Expert prompts walk through all prompts with a trace,
    in an order of their own; in rounds without any trace the weights stay as they are.

    Args:
        expert_rows: traces beside a round's groups (`CHORDOptions.rows`).
    """

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        demonstrations: Demonstrations,
        options: CHORDOptions,
        expert_rows: int,
        overlong: SoftOverlong | None = None,
    ) -> None:
        super().__init__(gate, objective, seed, None, overlong)
        self._demonstrations, self._expert_rows = demonstrations, expert_rows
        self._mix, self._phi = options.mix, options.variant == "phi"

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """GRPO's rows, weighed by 1 - m."""
        planned = super().assemble(group, decision, reading, round_index)
        weight = 1.0 - self._mix.at(round_index)
        return replace(planned, rows=tuple(replace(row, weight=weight) for row in planned.rows))

    def take_extras(self, round_index: int) -> Extras:
        """The round's expert batch, weighed by m."""
        if not self._demonstrations:
            return Extras()
        ids = prompts_of_round(
            list(self._demonstrations),
            self._expert_rows,
            self._seed,
            round_index,
            Purpose.EXPERT_ORDER,
        )
        weight = self._mix.at(round_index)
        rows = (likelihood_row(*self._demonstrations[i]) for i in ids)
        return Extras(
            beside=tuple(
                replace(row, part=Part.EXPERT, weight=weight, phi=self._phi) for row in rows
            )
        )


def _make(parts: Parts, options: CHORDOptions) -> CHORD:
    rows = options.rows(parts.prompts * parts.group_size)
    return CHORD(
        parts.gate,
        parts.objective,
        parts.seed,
        parts.demonstrations,
        options,
        rows,
        parts.overlong,
    )


ENTRY = MethodEntry(
    "CHORD",
    Teaching.OUTSIDE,
    _make,
    deed="CHORD imitates a batch of traces beside the groups",
    options=CHORDOptions(),
    variants={"chord_phi": {"variant": "phi"}},
    place=9,
)
