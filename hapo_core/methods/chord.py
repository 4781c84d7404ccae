"""CHORD (METHOD 6, arXiv 2508.11408): GRPO and a batch of expert traces in every step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hapo_core.draws import Purpose
from hapo_core.gate import Decision, Gate, Reading, ScheduledThreshold, Shape
from hapo_core.groups import Demonstrations, Extras, Group, PlannedGroup
from hapo_core.loss import Objective, Part
from hapo_core.methods.base import likelihood_row
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.schedule import prompts_of_round


@dataclass(frozen=True)
class CHORDOptions:
    """`mix`: m over the rounds. `phi`: weigh each expert token by p (1 - p). `expert_rows`: traces
    beside a round's groups."""

    mix: ScheduledThreshold
    phi: bool
    expert_rows: int


CHORD_MU = ScheduledThreshold(Shape.COSINE, 0.9, 0.05, 200)
"""m of CHORD-mu. The paper gives the ends and the rounds, the released code the cosine."""
CHORD_PHI = ScheduledThreshold(Shape.STEP, 0.1, 0.1, 1)
"""m of CHORD-phi: .1 throughout."""


class CHORD(GRPO):
    """(1 - m) GRPO + m SFT. The two parts have normalisers of their own: the rollouts that of the
    objective, the expert tokens a token mean. Expert prompts walk through all prompts with a trace,
    in an order of their own; in rounds without any trace the weights stay as they are.
    """

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        demonstrations: Demonstrations,
        options: CHORDOptions,
        overlong: SoftOverlong | None = None,
    ) -> None:
        super().__init__(gate, objective, seed, None, overlong)
        self._demonstrations, self._options = demonstrations, options

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """GRPO's rows, weighed by 1 - m."""
        planned = super().assemble(group, decision, reading, round_index)
        weight = 1.0 - self._options.mix.at(round_index)
        return replace(planned, rows=tuple(replace(row, weight=weight) for row in planned.rows))

    def extras(self, round_index: int) -> Extras:
        """The round's expert batch, weighed by m."""
        if not self._demonstrations:
            return Extras()
        ids = prompts_of_round(
            list(self._demonstrations),
            self._options.expert_rows,
            self._seed,
            round_index,
            Purpose.EXPERT_ORDER,
        )
        weight = self._options.mix.at(round_index)
        rows = (likelihood_row(*self._demonstrations[i]) for i in ids)
        return Extras(
            beside=tuple(
                replace(row, part=Part.EXPERT, weight=weight, phi=self._options.phi) for row in rows
            )
        )
