"""The configured method, with its gate, objective and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hapo_core.gate import Gate, GateState
from pipeline import config as c
from pipeline.build.gate import gate_spec
from pipeline.build.objective import objective

if TYPE_CHECKING:
    from hapo_core.groups import Demonstrations
    from hapo_core.methods import Method
    from hapo_core.methods.sampling import DynamicSampling, SoftOverlong


DAPO_BATCHES, DAPO_BUFFER = 10, 0.2
"""Preset dapo: most batches that a round samples, and the penalised share of the budget."""


def method(
    params: c.Params,
    state: GateState,
    demonstrations: Demonstrations | None = None,
    prompt_ids: Sequence[str] = (),
    waiting: Sequence[str] = (),
) -> Method:
    """The method of the configuration, its gate continuing from `state`.

    Args:
        demonstrations: all prompts with a usable trace.
        prompt_ids: all training prompts (dynamic sampling).
        waiting: prompts that the method remembers from earlier rounds.
    """
    from hapo_core.methods.entry import Parts

    parts = Parts(
        gate=Gate(gate_spec(params), params.seed, state),
        objective=objective(params),
        seed=params.seed,
        prompts=params.train.prompts_per_round,
        group_size=params.rollout.group_size,
        supervised_rounds=params.sft.rounds,
        demonstrations=demonstrations or {},
        waiting=waiting,
        dynamic=dynamic_sampling(params, prompt_ids) if params.entry.dynamic else None,
        overlong=soft_overlong(params) if params.entry.overlong else None,
        distill=params.teacher.distill.weight if params.distils else None,
    )
    return params.entry.make(parts, params.method_options)


def dynamic_sampling(params: c.Params, prompt_ids: Sequence[str]) -> DynamicSampling | None:
    """Refills of `objective.dynamic_sampling`, or of the preset; None where they are off."""
    from hapo_core.methods.sampling import DynamicSampling

    batches = params.objective.dynamic_sampling
    if batches is None and params.objective.preset == "dapo":
        batches = DAPO_BATCHES
    if not isinstance(batches, int):
        return None
    return DynamicSampling(tuple(prompt_ids), params.train.prompts_per_round, batches, params.seed)


def soft_overlong(params: c.Params) -> SoftOverlong | None:
    """The penalty of `objective.overlong_buffer`, or of the preset; None where it is off."""
    from hapo_core.methods.sampling import SoftOverlong

    o, budget = params.objective, params.rollout.max_tokens
    share = o.overlong_buffer
    if share is None and o.preset == "dapo":
        share = DAPO_BUFFER
    if not isinstance(share, float):
        return None
    return SoftOverlong(budget, max(1, round(share * budget)), o.overlong_weight)
