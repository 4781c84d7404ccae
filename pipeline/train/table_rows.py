"""Rows of the training tables, from what a round produced."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from hapo_core.gate import Decision, GateState
from hapo_core.graded import Graded
from hapo_core.groups import PlannedGroup, success_rate
from hapo_core.methods import Phase
from hapo_core.metrics import UpdateMetrics
from hapo_core.objective import Objective, RowKind
from hapo_core.surprise import too_surprising
from hapo_core.update import supervised
from hapo_core.verify import Verdict
from pipeline.artifacts.tables import GROUPS, ROLLOUTS, ROUNDS, read_table, write_table
from pipeline.build.optimizer import update_spec
from pipeline.config import Params

Row = dict[str, object]


def rollout_rows(index: int, planned: Sequence[PlannedGroup]) -> list[Row]:
    """The ROLLOUTS table of a round: every rollout, and every teacher row that entered."""
    rows: list[Row] = []
    for group in planned:
        rows.extend(_policy_rows(index, group))
        rows.extend(_branch_rows(index, group))
        rows.extend(_teacher_rows(index, group))
    return rows


def _policy_rows(index: int, planned: PlannedGroup) -> Iterator[Row]:
    rows = (row for row in planned.rows if row.kind is not RowKind.DISTILL)
    advantages = {row.sample: row.advantage for row in rows}
    for j, sample in enumerate(planned.group.samples):
        yield _sampled(index, sample, advantages.get(j)) | {
            "kind": "policy",
            "replaced": j == planned.replaced,
        }


def _branch_rows(index: int, planned: PlannedGroup) -> Iterator[Row]:
    advantages = {row.branch: row.advantage for row in planned.rows}
    for i, sample in enumerate(planned.group.continuations):
        yield _sampled(index, sample, advantages.get(i)) | {
            "kind": "continuation",
            "prefix_tokens": sample.rollout.prefix,
            "replaced": False,
        }


def _sampled(index: int, sample: Graded, advantage: float | None) -> Row:
    """What all rows of responses of the policy have."""
    rollout = sample.rollout
    return {
        "round": index + 1,
        "prompt_id": rollout.prompt_id,
        "sample": rollout.sample,
        "token_ids": rollout.token_ids,
        "logprobs": rollout.logprobs,
        "finish": rollout.finish.value,
        "text": rollout.text,
        "verdict": sample.found.verdict.value,
        "extracted": sample.found.extracted,
        "reward": sample.reward,
        "injected": False,
        "advantage": advantage,
    }


def _teacher_rows(index: int, planned: PlannedGroup) -> Iterator[Row]:
    trace = planned.group.trace
    for j, row in enumerate(planned.rows):
        if row.kind in (RowKind.ON_POLICY, RowKind.DISTILL) or trace is None:
            continue
        yield {
            "round": index + 1,
            "prompt_id": planned.group.prompt.prompt_id,
            "sample": j,
            "kind": "teacher",
            "token_ids": trace.token_ids,
            "logprobs": None,
            "finish": "teacher",
            "text": trace.text,
            "verdict": Verdict.CORRECT.value,
            "extracted": None,
            "reward": 1.0,
            "replaced": False,
            "injected": True,
            "advantage": row.advantage,
        }
        return  # a trace that trains twice (SRFT) is one row of the table


def group_rows(
    index: int,
    planned: Sequence[PlannedGroup],
    state: GateState,
    objective: Objective,
    params: Params,
) -> list[Row]:
    """The GROUPS table of a round."""
    measured, bound = params.measures_surprise, params.gate.max_surprise
    limit = math.inf if bound is None else bound
    rows: list[Row] = []
    for p in planned:
        reading = p.reading
        after = state.posteriors.get(p.group.prompt.prompt_id) if reading else None
        rows.append(
            {
                "round": index + 1,
                "prompt_id": p.group.prompt.prompt_id,
                "successes": p.group.successes,
                "known": p.group.known,
                "size": len(p.group.samples),
                "prior_a": reading.prior_a if reading else None,
                "prior_b": reading.prior_b if reading else None,
                "posterior_a": after.a if after else None,
                "posterior_b": after.b if after else None,
                "confidence": reading.confidence if reading else None,
                "gamma": reading.gamma if reading else None,
                "has_trace": p.group.trace is not None,
                "decision": p.decision.value,
                "dead": p.dead(objective),
                **(_surprise(p, limit) if measured else {}),
            }
        )
    return rows


def _surprise(planned: PlannedGroup, limit: float) -> Row:
    """What a group's trace is to the policy."""
    group = planned.group
    found = group.surprise
    return {
        "trace_id": group.trace.trace_id if group.trace else None,
        "surprise": found.nll if found else None,
        "impossible": found.impossible if found else None,
        "own_surprise": group.own_surprise,
        "refused": too_surprising(group.excess_surprise, limit),
    }


def injection_rate(planned: Sequence[PlannedGroup]) -> float:
    """Share of groups that the teacher entered."""
    return sum(p.decision is Decision.INJECTED for p in planned) / len(planned)


def dead_rate(planned: Sequence[PlannedGroup], objective: Objective) -> float:
    """Share of groups that nothing is learnt from."""
    return sum(p.dead(objective) for p in planned) / len(planned)


def round_row(
    segment: str,
    params: Params,
    index: int,
    phase: Phase,
    planned: Sequence[PlannedGroup],
    metrics: UpdateMetrics,
    objective: Objective,
    extra_rows: int = 0,
    surprise_tokens: int | None = None,
) -> Row:
    """The round's row of the ROUNDS table (without the probe). `surprise_tokens`: what measuring
    the traces' surprise cost, None where it is not measured and has no columns."""
    groups = [p.group for p in planned]
    samples = [s for g in groups for s in (*g.samples, *g.continuations)]
    tokens = sum(s.rollout.length for s in samples)
    counts = Counter(s.found.verdict.value for s in samples)
    decisions = Counter(p.decision for p in planned)
    scale = params.sft.learning_rate_scale if phase is Phase.SFT else 1.0
    sampled = [p for p in planned if p.reading is not None]
    used = supervised(objective) if phase is Phase.SFT else objective
    row: Row = {
        "round": index + 1,
        "segment": segment,
        "method": params.method,
        "phase": phase.value,
        "prompts": len(planned),
        "rollouts": len(samples),
        "success_rate": success_rate(groups),
        "solved_groups": sum(g.known > 0 and g.successes == g.known for g in groups),
        "failed_groups": sum(g.known > 0 and g.successes == 0 for g in groups),
        "injected_groups": decisions[Decision.INJECTED] if sampled else 0,
        "dead_groups": sum(p.dead(used) for p in planned),
        "no_trace_groups": decisions[Decision.NO_TRACE],
        "gamma": sampled[0].reading.gamma if sampled and sampled[0].reading else None,
        "mean_response_tokens": tokens / len(samples) if samples else None,
        "generated_tokens": tokens,
        "trained_tokens": metrics.trained_tokens,
        "extra_rows": extra_rows,
        "learning_rate": update_spec(params).rate(index, scale),
        **{f"verdict_{v.value}": counts[v.value] for v in Verdict},
    }
    if surprise_tokens is not None:
        row |= _surprise_columns(planned, surprise_tokens)
    if taken := set(row) & set(metrics.values):
        raise ValueError(f"metrics of the update named like columns of a round: {sorted(taken)}")
    return {**row, **metrics.values}


def _surprise_columns(planned: Sequence[PlannedGroup], tokens: int) -> Row:
    """Nats a token by which traces surprise more than own rollouts do, means over groups."""

    def excess(*wanted: Decision) -> float | None:
        found = [p.group.excess_surprise for p in planned if not wanted or p.decision in wanted]
        known = [e for e in found if e is not None]
        return math.fsum(known) / len(known) if known else None

    return {
        "surprise_of_traces": excess(),
        "surprise_of_injected": excess(Decision.INJECTED),
        "surprise_of_refused": excess(Decision.REFUSED),
        "refused_groups": sum(p.decision is Decision.REFUSED for p in planned),
        "surprise_tokens": tokens,
    }


def write_round(
    out: Path,
    index: int,
    planned: Sequence[PlannedGroup],
    state: GateState,
    objective: Objective,
    params: Params,
) -> None:
    """The tables `rollouts/` and `groups/` of one round, in a segment's folder."""
    name = f"round-{index + 1:05d}.parquet"
    write_table(rollout_rows(index, planned), ROLLOUTS, out / "rollouts" / name)
    groups = group_rows(index, planned, state, objective, params)
    write_table(groups, GROUPS, out / "groups" / name)


def read_rounds(folder: Path, first: int, count: int) -> list[Row]:
    """The rows of rounds first+1 .. first+count, one small table each."""
    rows: list[Row] = []
    for number in range(first + 1, first + count + 1):
        rows.extend(read_table(folder / f"round-{number:05d}.parquet", ROUNDS).to_pylist())
    return rows
