"""Where a rollout, a trace or a continuation becomes a row of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hapo_core.gate import Reading
from hapo_core.groups import Group, PlannedGroup, Trace
from hapo_core.objective import Part, RowKind, TrainRow
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


def distilled_rows(group: Group, weight: float) -> tuple[TrainRow, ...]:
    """Every rollout as a row that the teacher is to score."""
    return tuple(
        TrainRow(
            prompt_ids=group.prompt.token_ids,
            response_ids=sample.rollout.token_ids,
            kind=RowKind.DISTILL,
            part=Part.DISTILL,
            weight=weight,
            sample=j,
        )
        for j, sample in enumerate(group.samples)
    )


def scored_rows(planned: PlannedGroup, score: Sequence[Sequence[float]]) -> PlannedGroup:
    """The group with the teacher's log-probs in its rows of distillation, in their order."""
    rest = iter(score)
    rows = tuple(
        replace(row, teacher_logprobs=tuple(next(rest))) if row.kind is RowKind.DISTILL else row
        for row in planned.rows
    )
    return replace(planned, rows=rows)


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
