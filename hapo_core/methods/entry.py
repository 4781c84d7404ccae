"""What the rest of the project asks of a method: one `ENTRY` in each method's file.

Everything that knows methods by name asks here (`hapo_core.methods.registry` finds the entries):
the schema of the configuration, its checks, the builder, comparisons, report, audit and tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from hapo_core.gate import ConstantThreshold, Gate, GateSpec, RuleSpec
from hapo_core.groups import Demonstrations
from hapo_core.methods.base import Method
from hapo_core.methods.sampling import DynamicSampling, SoftOverlong
from hapo_core.objective import Objective


class Teaching(StrEnum):
    """When the teacher enters."""

    NEVER = "never"
    GATED = "gated"
    """Groups, where the gate of the configuration is open."""
    GROUPS = "groups"
    """Groups, by a rule of the method's own (`MethodEntry.rule`)."""
    OUTSIDE = "outside"
    """No group: traces train beside the groups or in steps of their own."""
    FIRST = "first"
    """No group: the first rounds are supervised, the others know no teacher."""
    ALONE = "alone"
    """Traces are all that is trained on; nothing is sampled."""


@dataclass(frozen=True)
class Parts:
    """What a method may be made of, beside its own options.

    `prompts`, `group_size`: problems of a round and rollouts of each; `supervised_rounds`: how many
    rounds imitate before reinforcement starts; `waiting`: prompts that the method remembers from
    earlier rounds.
    """

    gate: Gate
    objective: Objective
    seed: int
    prompts: int
    group_size: int
    supervised_rounds: int = 0
    demonstrations: Demonstrations = field(default_factory=dict)
    waiting: Sequence[str] = ()
    dynamic: DynamicSampling | None = None
    overlong: SoftOverlong | None = None
    distill: float | None = None
    """Weight of distillation where the teacher scores rollouts; None: it does not."""


@dataclass(frozen=True)
class MethodEntry:
    """One method: how it is made, and what is said of it. Its name is that of its file."""

    title: str
    teaching: Teaching
    make: Callable[[Parts, Any], Method]
    """The method from its parts and its options."""
    deed: str = ""
    """What the teacher does, as a clause; report and audit end sentences with it."""
    sentence: str = ""
    """The report's sentence on the teacher, if not the usual one of its `Teaching`. May name
    {share} of groups entered, {supervised} and {sampled} rounds, and the {deed}."""
    options: Any = None
    """The options' defaults: an instance of a `hapo_core.settings` class, or None."""
    section: Literal["teacher", "objective"] = "teacher"
    """The section of a configuration in which the options stand, under the method's name."""
    check: Callable[[Any, int], str | None] = lambda options, group_size: None
    """What is wrong with options at this group size: `option: why`, or None."""
    objective: Callable[[Objective, Any], Objective] = lambda base, options: base
    """The objective that it needs, from the one that is configured."""
    rule: Callable[[GateSpec, Any, int], GateSpec] | None = None
    """The gate that the teacher obeys in groups, from the configured gate, the options and the
    group size: what the audit predicts with. None: the configured gate if GATED, else no rule."""
    exact: bool = True
    """False where a group that the rule opens may still stay without the teacher."""
    replaces: bool = False
    """The trace takes the place of a rollout, as a row with the teacher's weight and shape."""
    distils: bool = False
    """Its teacher scores the policy's own rollouts (`teacher.distill`)."""
    overlong: bool = True
    """It takes a penalty on long rollouts."""
    dynamic: bool = False
    """It can set groups aside and sample others for them."""
    ratios: bool = True
    """Its on-policy rows have the ratio of the objective, of tokens or of whole sequences."""
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Settings of it that comparisons know by a name of their own: name -> options."""
    place: int = 100
    """Where it stands in lists; equal ones by name."""

    def __post_init__(self) -> None:
        if self.teaching is Teaching.GROUPS and self.rule is None:
            raise ValueError(f"{self.title}: a teacher that enters groups needs a rule")
        if self.teaching in (Teaching.GROUPS, Teaching.OUTSIDE) and not (
            self.deed or self.sentence
        ):
            raise ValueError(f"{self.title}: say what its teacher does (`deed`)")

    @property
    def enters_groups(self) -> bool:
        """Whether the teacher ever enters a group of rollouts."""
        return self.teaching in (Teaching.GATED, Teaching.GROUPS)

    def group_rule(self, gate: GateSpec, options: Any, group_size: int) -> GateSpec | None:
        """The gate that its teacher obeys in groups; None where it enters none."""
        if self.rule is not None:
            return self.rule(gate, options, group_size)
        return gate if self.teaching is Teaching.GATED else None


def every_group(gate: GateSpec, options: Any, group_size: int) -> GateSpec:
    """The rule of a teacher that is in every group, also in those that the policy solves."""
    return RuleSpec(ConstantThreshold(1.0))


def up_to(successes: int, group_size: int) -> GateSpec:
    """The rule of a teacher that enters iff S <= `successes`: in a whole group the mean
    (S + 1) / (N + 2) lies below the threshold for just these S (docs/consistency.md, 3)."""
    return RuleSpec(ConstantThreshold((successes + 1.5) / (group_size + 2)), cutoff=successes)
