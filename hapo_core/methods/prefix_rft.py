"""Prefix-RFT (METHOD 6, arXiv 2507.01679): one response of each group starts as the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from hapo_core.advantage import group_advantages
from hapo_core.gate import Decision, Gate, Reading, ScheduledThreshold, Shape
from hapo_core.groups import Group, PlannedGroup, Request, Trace
from hapo_core.methods.base import ReinforcementMethod, on_policy
from hapo_core.methods.entry import MethodEntry, Teaching, every_group
from hapo_core.objective import Objective, RowKind
from hapo_core.rng import Purpose, uniforms
from hapo_core.rows import branch_row, policy_row
from hapo_core.settings import Count, FromZero, Inside, UpToOne, settings


@settings
class PrefixRFTOptions:
    """`prefix_rft` (METHOD 6)."""

    low_start: FromZero = 0.95
    low_end: FromZero = 0.05
    """The share of the trace that is given is uniform between `low`, which falls along a cosine
    from low_start to low_end, and `high`."""
    high: Inside = 0.95
    horizon: Count = 500
    top_share: UpToOne = 0.2
    """Share of the prefix tokens that train: those of the highest entropy."""
    prefix_tokens: Literal["ratio", "teacher"] = "ratio"
    """Objective of these tokens: the ratio to pi_old as everywhere, or the teacher's shape."""

    def __post_init__(self) -> None:
        if max(self.low_start, self.low_end) > self.high:
            raise ValueError("low_start and low_end must not exceed high")

    @property
    def low(self) -> ScheduledThreshold:
        """The least share of the trace that is given, over the rounds."""
        return ScheduledThreshold(Shape.COSINE, self.low_start, self.low_end, self.horizon)


class PrefixRFT(ReinforcementMethod):
    """N - 1 rollouts, and one that continues a prefix of the trace; A over all N. All tokens of the
    hybrid row count in the normaliser, its prefix with those that do not train."""

    def __init__(
        self, gate: Gate, objective: Objective, seed: int, options: PrefixRFTOptions | None = None
    ) -> None:
        super().__init__(gate, objective, seed)
        self._options = options or PrefixRFTOptions()

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """Both kinds of samples at once; N rollouts where there is no prefix to give."""
        requests = []
        for group in groups:
            if group.samples:
                continue
            prompt_id = group.prompt.prompt_id
            prefix = self._length(group.trace, prompt_id, round_index)
            if prefix:
                requests.append(Request(prompt_id, 1, prefix))
            requests.append(Request(prompt_id, size - 1 if prefix else size))
        return requests

    def _length(self, trace: Trace | None, prompt_id: str, round_index: int) -> int:
        if trace is None:
            return 0
        u = float(uniforms(1, self._seed, Purpose.PREFIX, round_index, prompt_id)[0])
        low = self._options.low.at(round_index)
        # Below `high` < 1: the end token is never given.
        return int((low + u * (self._options.high - low)) * len(trace.token_ids))

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Where there is a continuation, and (missing) where there is no trace for one."""
        if group.continuations or group.trace is None:
            return Decision.INJECTED
        return on_policy(group)

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """The rollouts and the hybrid row."""
        if decision is not Decision.INJECTED:
            return super().assemble(group, decision, reading, round_index)
        (branch,) = group.continuations
        *own, hybrid = group_advantages([*group.rewards, branch.reward], self._objective.advantage)
        taught = self._options.prefix_tokens == "teacher"
        kind = RowKind.TEACHER if taught else RowKind.ON_POLICY
        row = branch_row(group, 0, hybrid, prefix_in_loss=True)
        rows = [policy_row(group, j, a) for j, a in enumerate(own)]
        rows.append(replace(row, prefix_kind=kind, confidence=reading.confidence))
        return PlannedGroup(group, tuple(rows), decision, None, reading)


def prefix_rft_objective(base: Objective, options: PrefixRFTOptions) -> Objective:
    """`base` with the share of prefix tokens that train."""
    return replace(base, prefix_share=options.top_share)


ENTRY = MethodEntry(
    "Prefix-RFT",
    Teaching.GROUPS,
    lambda parts, options: PrefixRFT(parts.gate, parts.objective, parts.seed, options),
    deed="Prefix-RFT gives one response of every group a head start",
    options=PrefixRFTOptions(),
    objective=prefix_rft_objective,
    rule=every_group,
    overlong=False,
    ratios=False,
    place=10,
)
