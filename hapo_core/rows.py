"""Where a rollout, a trace or a continuation becomes a row of the loss."""

from __future__ import annotations

from dataclasses import replace

from hapo_core.gate import Reading
from hapo_core.groups import Group, Trace
from hapo_core.objective import RowKind, TrainRow
from hapo_core.rollout.protocol import Prompt


def policy_row(group: Group, j: int, advantage: float) -> TrainRow:
    """Rollout `j` as an on-policy row."""
    rollout = group.samples[j].rollout
    return TrainRow(
        prompt_ids=group.prompt.token_ids,
        response_ids=rollout.token_ids,
        kind=RowKind.ON_POLICY,
        advantage=advantage,
        sampler_logprobs=rollout.logprobs,
        sample=j,
    )


def teacher_row(group: Group, advantage: float, reading: Reading) -> TrainRow:
    """The trace of the group as a teacher row."""
    assert group.trace is not None
    return TrainRow(
        prompt_ids=group.prompt.token_ids,
        response_ids=group.trace.token_ids,
        kind=RowKind.TEACHER,
        advantage=advantage,
        confidence=reading.confidence,
    )


def likelihood_row(prompt: Prompt, trace: Trace) -> TrainRow:
    """A trace as an NLL row."""
    return TrainRow(prompt.token_ids, trace.token_ids, RowKind.SFT)


def branch_row(group: Group, index: int, advantage: float, *, prefix_in_loss: bool) -> TrainRow:
    """Continuation `index` as an on-policy row.

    Args:
        prefix_in_loss: whether the teacher's tokens belong to the response (and the normaliser)
            or, with the prompt, to what is given.
    """
    branch = group.continuations[index].rollout
    assert group.trace is not None
    head, own = group.trace.token_ids[: branch.prefix], branch.token_ids
    row = TrainRow(
        prompt_ids=(*group.prompt.token_ids, *head),
        response_ids=own,
        kind=RowKind.ON_POLICY,
        advantage=advantage,
        sampler_logprobs=branch.logprobs,
        branch=index,
    )
    if not prefix_in_loss:
        return row
    return replace(
        row,
        prompt_ids=group.prompt.token_ids,
        response_ids=(*head, *own),
        prefix=branch.prefix,
    )
